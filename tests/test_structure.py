"""The architecture's table of floors, read from the imports; and that everything named at the top is really there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from appliance.settings import Settings
from tests.conftest import ROOT

TOP_LEVEL = {
    "appliance",
    "odoo_addon",
    "firmware_sim",
    "systemd",
    "tests",
    "pyproject.toml",
    "install.sh",
    "README.md",
}

FLOORS = {
    "contract": {"contract"},
    "errors": {"contract"},
    "store": {"contract", "errors", "store"},
    "services": {"contract", "errors", "store", "services"},
    "broker": {"contract", "errors", "store", "services", "broker"},
    "uplink": {"contract", "errors", "store", "services", "uplink"},
    "web": {"contract", "errors", "store", "services", "web"},
    "settings": {"contract", "errors"},
    "secret_files": {"errors"},
    "logs": set(),
    "certificates": {"errors", "authority"},
    "authority": {"errors", "secret_files", "certificates"},
    "sealing": {"errors"},
    "settings_file": {"settings"},
    "recovery": {"contract", "errors", "secret_files", "sealing"},
    "backup": {
        *("contract", "errors", "store", "settings", "settings_file", "sealing", "secret_files", "recovery", "backup"),
    },
    "addresses": set(),
    "http_door": {"services"},
    "socket_door": {"http_door"},
    "http_server": {"broker", "certificates", "settings", "socket_door"},
    "notify": set(),
    "identity": {"settings", "certificates", "secret_files", "addresses", "services", "recovery"},
    "page_password": {"errors", "secret_files"},
    "enrolment": {"contract", "errors", "settings", "secret_files", "identity", "uplink"},
    "parts": {
        *("contract", "errors", "store", "services", "broker", "uplink", "web", "parts"),
        *("settings", "identity", "enrolment", "notify", "page_password", "secret_files"),
        *("settings_file", "recovery", "logs"),
    },
    "replacement": {"contract", "errors", "settings", "store", "services", "enrolment", "recovery"},
    "app": {
        *("contract", "errors", "store", "services", "broker", "uplink", "web", "parts"),
        *("settings", "identity", "enrolment", "http_server", "notify"),
    },
    "process": {"settings", "app", "notify"},
    "cli": {
        *("contract", "errors", "settings", "addresses", "certificates", "uplink", "enrolment", "process", "backup"),
        *("store", "cli", "secret_files", "recovery", "replacement", "logs"),
    },
    "__main__": {"cli"},
}
"""What each part of ``appliance/`` may import from it."""

HOMES = {
    "amqtt": {"broker"},
    "argon2": {"page_password"},
    "cryptography": {"authority", "sealing"},
    "httpx": {"uplink", "cli"},
    "jinja2": {"services", "web"},
    "markupsafe": {"services"},  # comes with jinja2
    "msgspec": {"contract"},
    "prometheus_client": {"web"},
    "pydantic": set(FLOORS),
    "pydantic_core": set(FLOORS),
    "pydantic_settings": {"settings"},
    "sqlite3": {"store", "services"},  # services name the type of a job's connection; statements are told apart below
    "sqlite_utils": {"store"},
    "starlette": {"web", "http_server"},
    "typer": {"cli"},
    "uvicorn": {"http_door", "http_server", "socket_door"},
    "uvloop": {"process"},
    "websockets": {"socket_door"},
}
"""Which parts of ``appliance/`` may import a library; none may import one that is not here."""

REQUIRED = {
    *("amqtt", "starlette", "uvicorn", "httpx", "jinja2", "jsonpath-ng", "sqlite-utils", "pydantic"),
    *("pytest", "pytest-asyncio"),
}
IMPORT_NAMES = {"argon2-cffi": "argon2", "paho-mqtt": "paho", "pyyaml": "yaml"}
"""Where the import's name is not the distribution's."""
USED_OTHERWISE = {
    "httptools": ("appliance/http_door.py", "uvicorn.protocols.http.httptools_impl"),
    "sniffio": ("appliance/uplink/client.py", "httpx.AsyncClient("),
    "pytest-asyncio": ("pyproject.toml", "asyncio_mode"),
    "pytest-xdist": ("install.sh", "pytest -n"),
    "ruff": ("install.sh", 'bin/ruff" check'),
    "mypy": ("install.sh", 'bin/mypy"'),
    "pylint-odoo": ("pyproject.toml", 'load-plugins = ["pylint_odoo"]'),
}
"""Tools and plug-ins: nothing imports them, but this text in that file uses them."""

SQL = re.compile(
    r"\b(SELECT\b.+\bFROM\b|INSERT\s+(OR\s+\w+\s+)?INTO\b|UPDATE\s+\w+\s+SET\b|DELETE\s+FROM\b|CREATE\s+(TABLE|INDEX|VIEW)\b"
    r"|PRAGMA\s+\w)",
    re.DOTALL,
)
TOPIC = re.compile(r"^(iiot/config/|telemetry/|command/|ota/|test/)|\{device\}/|/\{device\}")


def part(path: Path) -> str:
    """The name of the floor that a file of ``appliance/`` belongs to."""
    return path.relative_to(ROOT / "appliance").parts[0].removesuffix(".py")


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> Iterator[str]:
    """Full dotted names of all that a file imports, at its top or inside functions."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *((node.module,) if node.module else ())))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every string a file holds, with its line, except docstrings; of an f-string its fixed beginning as well."""
    docstrings = {
        id(node.value)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


CODE = [path for path in sources("appliance") if path != ROOT / "appliance/__init__.py"]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_part_imports_only_what_its_floor_may_know(path: Path) -> None:
    here = part(path)
    assert here in FLOORS, f"{here} has no floor: add it to the table"
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "appliance":
            assert rest[0] in FLOORS[here] | {here, "__version__", "RELEASED"}, f"{here} must not know {name}"
        elif first in HOMES:
            assert here in HOMES[first], f"{first} is not for {here}"
        else:
            assert first in sys.stdlib_module_names, f"{name} is in no floor's list"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_sql_stands_in_the_store_and_topic_names_in_the_contract(path: Path) -> None:
    if part(path) != "store":
        called = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
        assert not called & {"execute", "executemany", "executescript"}
    for line, text in texts(path):
        if part(path) != "store":
            assert not SQL.search(text), f"SQL in line {line}"
        if path != ROOT / "appliance/contract/topics.py":
            assert not TOPIC.search(text), f"a topic name in line {line}"


@pytest.mark.parametrize("path", sources("firmware_sim"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_simulator_knows_the_contract_alone(path: Path) -> None:
    own = [name for name in imports(path) if name.split(".")[0] == "appliance"]
    assert all(name.startswith("appliance.contract.") for name in own), own
    assert not [name for name in imports(path) if name.split(".")[0] == "tests"]


def test_the_rules_find_what_they_forbid() -> None:
    assert SQL.search("SELECT a\n FROM b")
    assert SQL.search("PRAGMA synchronous = OFF")
    assert not SQL.search("select one from the list")
    assert TOPIC.search("telemetry/{device}/data")
    assert TOPIC.search("iiot/config/request")
    assert not TOPIC.search("/iiot/config")
    assert not TOPIC.search("/api/v1/command/send")
    listener = ROOT / "appliance/contract/../broker/listener.py"
    assert part(listener.resolve()) == "broker"


def top_level_names() -> set[str]:
    """What stands at the top of the project, ignored files left out; hidden names are free."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        names = {line.split("/")[0] for line in listed}
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive, or a machine without git
        ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()}
        names = {path.name for path in ROOT.iterdir()} - ignored
    return {name for name in names if not name.startswith(".")}


def test_the_top_level_holds_the_agreed_names_and_nothing_else() -> None:
    assert top_level_names() == TOP_LEVEL


def test_every_folder_at_the_top_says_what_it_is() -> None:
    folders = [name for name in TOP_LEVEL if (ROOT / name).is_dir()]
    assert [name for name in folders if not (ROOT / name / "README.md").is_file()] == []


@cache
def dependencies() -> dict[str, set[str]]:
    """Names of distributions: ``""`` holds those of the appliance itself, the others are extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {group: {re.split(r"[ <>=\[;]", line, maxsplit=1)[0] for line in lines} for group, lines in groups.items()}


def test_the_required_packages_are_named() -> None:
    assert set().union(*dependencies().values()) >= REQUIRED


def test_each_dependency_is_used_by_the_part_that_asks_for_it() -> None:
    users = {"": ["appliance"], "simulator": ["firmware_sim"], "addon": ["odoo_addon"], "test": ["tests"]}
    assert dependencies().keys() == users.keys()
    for group, names in dependencies().items():
        imported = {name.split(".")[0] for folder in users[group] for path in sources(folder) for name in imports(path)}
        for name in names:
            if name == "jsonpath-ng" and not sources("odoo_addon"):
                continue  # the add-on comes in its own issue
            if name in USED_OTHERWISE:
                file, text = USED_OTHERWISE[name]
                assert text in (ROOT / file).read_text(), f"{name} is not used in {file}"
            else:
                assert IMPORT_NAMES.get(name, name.replace("-", "_")) in imported, f"{name} is not used"


def test_each_library_that_is_imported_is_a_dependency() -> None:
    declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in dependencies()[""]}
    assert HOMES.keys() - declared == {
        "sqlite3",
        "pydantic_core",
        "markupsafe",
    }  # they come with Python or the declared


def test_each_dependency_has_its_reason() -> None:
    lines = re.findall(r'^    "([\w-]+) ?>=[^"]*", *(.*)$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {name for name, _ in lines} == set().union(*dependencies().values())
    assert [name for name, reason in lines if not re.match(r"# \w", reason)] == []


def test_every_setting_has_an_effect() -> None:
    used = {
        node.attr
        for file in (
            "app.py",
            "enrolment.py",
            "identity.py",
            "parts/odoo.py",
            "parts/updates.py",
            "cli/running.py",
            "cli/backup.py",
        )
        for node in ast.walk(tree(ROOT / "appliance" / file))
        if isinstance(node, ast.Attribute)
    }
    topics = {name for name in Settings.model_fields if "_topic" in name}
    if "topics" in used:
        used |= topics
    assert Settings.model_fields.keys() - used == {"mqtt_broker_host"}  # refused until the external broker is built


def test_the_appliance_loads_no_library_for_colourful_terminals() -> None:
    code = "import sys, appliance.process, appliance.cli; print(sorted({'rich', 'pygments'} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
