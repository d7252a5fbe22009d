"""The command line as people and service managers see it."""

from __future__ import annotations

import errno
import gc
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import appliance
from appliance import cli
from appliance.cli import Exit
from appliance.errors import DataFolderError, SettingsError, StoreLockedError
from appliance.settings import Settings
from tests.conftest import CLEAN_ENVIRONMENT, ROOT


def command(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", *arguments],
        cwd=folder,
        env={**CLEAN_ENVIRONMENT, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_command_loads_neither_the_appliance_nor_what_takes_long_before_it_is_needed() -> None:
    heavy = ("amqtt", "httpx", "starlette", "sqlite3", "appliance.contract.sync", "appliance.services")
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, appliance.cli; print(*sys.modules)"],
        env={**CLEAN_ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split()
    assert "appliance.settings" in loaded
    assert not set(heavy) & set(loaded)


def test_good_settings_are_exit_status_0(tmp_path: Path) -> None:
    # any free port: whether the usual ones are free is not this test's affair
    result = command("check-config", folder=tmp_path, PORT="0", MQTT_BROKER_PORT="0")
    assert (result.returncode, result.stdout) == (Exit.OK, "The settings can be used.\n")


def test_every_problem_is_printed_at_once_and_secrets_never(tmp_path: Path) -> None:
    (tmp_path / "box.env").write_text("MQTT_BROKER_PASSWORD=5ecret-pass\nODOO_API_KY=5ecret-key\nPORT=x\n")
    result = command("check-config", "--env-file", "box.env", folder=tmp_path)
    assert result.returncode == Exit.SETTINGS
    assert [line.split(" ")[1].strip(":") for line in result.stdout.splitlines()] == [
        "MQTT_BROKER_PASSWORD",
        "PORT",
        "ODOO_API_KY",
    ]
    as_json = command("check-config", "--json", "--env-file", "box.env", folder=tmp_path)
    assert as_json.returncode == Exit.SETTINGS
    answer = json.loads(as_json.stdout)
    assert (answer["ok"], len(answer["problems"]), len(answer["unknown"])) == (False, 2, 1)
    assert "5ecret" not in result.stdout + result.stderr + as_json.stdout + as_json.stderr


def test_an_unknown_name_is_an_error_for_check_config_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = command("check-config", folder=tmp_path, MQTT_BROKR_PORT="1")
    assert result.returncode == Exit.SETTINGS
    assert "MQTT_BROKER_PORT" in result.stdout


def test_without_arguments_the_appliance_is_run(tmp_path: Path) -> None:
    result = command(folder=tmp_path, MQTT_BROKER_HOST="mqtt.factory.lan")
    assert result.returncode == Exit.SETTINGS
    assert "external broker" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_the_package_s_own(tmp_path: Path) -> None:
    assert command("--version", folder=tmp_path).stdout == f"iiot-appliance {appliance.__version__}\n"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """An empty working directory; logging and the search for garbage are afterwards as they were."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", *cli.TALKATIVE)}
    yield monkeypatch
    gc.enable()
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def run_with(monkeypatch: pytest.MonkeyPatch, outcome: int | BaseException) -> int:
    """``iiot-appliance run`` with a server that ends as ``outcome`` says; returns the exit status."""

    def serve(settings: Settings) -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr("appliance.process.serve", serve)
    with pytest.raises(SystemExit) as caught:
        cli.main(["run"])
    code = caught.value.code
    return code if isinstance(code, int) else 0


@pytest.mark.parametrize(
    ("outcome", "status", "words"),
    [
        (0, Exit.OK, ""),
        (1, Exit.FAILED, ""),
        (SettingsError(["PORT: is needed"]), Exit.SETTINGS, "PORT: is needed"),
        (StoreLockedError("another appliance works on /data"), Exit.DATA_FOLDER, "another appliance"),
        (DataFolderError("/data/master.key is damaged"), Exit.DATA_FOLDER, "master.key is damaged"),
        (OSError(errno.EADDRINUSE, "address 0.0.0.0:8883 is in use"), Exit.ADDRESS, "0.0.0.0:8883"),
    ],
)
def test_what_ends_the_appliance_is_one_line_and_an_exit_status(
    served: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: int | BaseException,
    status: Exit,
    words: str,
) -> None:
    assert run_with(served, outcome) == status
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("iiot-appliance:")]
    assert len(said) == bool(words)
    assert words in "".join(said)


def test_an_unknown_name_is_a_warning_at_run_time(
    served: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served.setenv("MQTT_BROKR_PORT", "1")
    assert run_with(served, 0) == Exit.OK
    assert "WARNING appliance: MQTT_BROKR_PORT is no setting; the nearest" in capsys.readouterr().err


def test_the_readme_lists_the_exit_statuses() -> None:
    rows = re.findall(r"^\| (\d+) \| ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == sorted(Exit)


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name."""
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, f"{path}{name} ")
        else:
            yield f"{path}{name}", each


def test_the_readme_lists_every_command_with_its_arguments_and_options() -> None:
    group = typer.main.get_command(cli.cli)
    offered = {}
    for name, each in commands(group):
        offered[name] = {
            param.metavar or param.name.upper() if param.param_type_name == "argument" else param.opts[0]
            for param in each.params
        }
    rows = re.findall(r"^\| `([a-z][a-z -]*)` \| ([^|]*) \| \w", (ROOT / "README.md").read_text(), re.MULTILINE)
    listed = {name: set(re.findall(r"`([^`]+)`", arguments)) for name, arguments in rows}
    assert {name: names - {"--env-file"} for name, names in offered.items()} == listed
    for name, names in offered.items():
        assert "--env-file" in names, name
        assert "--json" in names or name == "run", name


def test_every_command_and_option_says_what_it_is_for() -> None:
    group = typer.main.get_command(cli.cli)
    for name, each in commands(group):
        assert each.help, name
        assert all(getattr(param, "help", None) for param in each.params), name


def test_the_readme_s_first_screen_holds_two_commands() -> None:
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    assert re.findall(r"^```bash\n(.*?)\n```", screen, re.DOTALL | re.MULTILINE) == [
        "sudo ./install.sh",
        "./install.sh demo",
    ]
