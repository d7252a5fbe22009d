"""The Odoos there are on this machine: 19 from its package, 18 and 17 from source trees that variables name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.odoo.cache import ROOT, cache_folder, make, say, short_hash
from tests.odoo.package import MODULES, NoPackageError, prepared_tree, tree

MAJORS = (19, 18, 17)


class NoOdooError(Exception):
    """This Odoo is not to be had here; the message says why, for people."""


@dataclass(frozen=True)
class Odoo:
    """One Odoo that can be started."""

    major: int
    revision: str
    python: Path
    program: Path
    addons: tuple[Path, ...]
    module_path: Path

    @property
    def key(self) -> str:
        """Changes when databases made by it must be made anew."""
        return short_hash([str(self.major), self.revision, self.python.parent.parent.name])

    def command(self, *arguments: str, addons: tuple[Path, ...] = ()) -> list[str]:
        """The server's command line, with nobody's settings file and the folders of `addons` after its own."""
        path = ",".join(str(folder) for folder in (*self.addons, *addons))
        return [
            str(self.python),
            str(self.program),
            "server",
            "--config=/dev/null",
            f"--addons-path={path}",
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, "PYTHONPATH": str(self.module_path), "PYTHONUNBUFFERED": "1", "TZ": "UTC"}


def addon_requirements() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["addon"]


def requirements(major: int, source: Path | None) -> list[str]:
    """What goes into the environment of that Odoo, as lines for pip."""
    if major in (19, 18):  # some of 18's own list would have to be compiled on 3.11
        lines = (Path(__file__).parent / "requirements-19.txt").read_text().splitlines()
        more = ["decorator==5.1.1"] if major == 18 else []
        return [line for line in lines if line and not line.startswith("#")] + more + addon_requirements()
    assert source
    lines = [re.sub(r"\s*#.*", "", line).strip() for line in (source / "requirements.txt").read_text().splitlines()]
    # python-ldap and psycopg2 would have to be compiled; setuptools: gevent looks for pkg_resources in prefork mode;
    # websocket-client: Odoo's tests steer their browser with it.
    lines = [line for line in lines if line and not line.startswith(("python-ldap", "psycopg2"))]
    own = ["psycopg2-binary==2.9.9", "setuptools==80.9.0", "websocket-client==1.8.0"]
    return [*lines, *own, *addon_requirements()]


@cache
def python_for(major: int) -> Path:
    """Python 3.11, which all run on, where there is one; otherwise our own, if that Odoo's libraries exist for it."""
    if sys.version_info[:2] == (3, 11):
        return Path(sys.base_prefix) / "bin" / "python3.11"
    if found := shutil.which("python3.11"):
        result = subprocess.run([found, "-c", "import ensurepip, venv"], capture_output=True, check=False, timeout=60)
        if result.returncode == 0:
            return Path(found)
    if major == 17 and sys.version_info >= (3, 13):
        raise NoOdooError("Odoo 17 needs Python 3.11 with the module venv (its libraries do not exist for later ones)")
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def venv_folder(major: int, lines: list[str]) -> Path:
    return cache_folder() / f"venv-{major}-{short_hash([str(python_for(major)), *lines])}"


def build_venv(major: int, lines: list[str]) -> Path:
    def build(folder: Path) -> None:
        say(f"Odoo {major}: making its Python environment (a minute)")
        (folder / "requirements.txt").write_text("\n".join(lines) + "\n")
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        for command in (
            [str(python_for(major)), "-m", "venv", str(folder)],
            [*pip, "--no-warn-script-location", "-r", str(folder / "requirements.txt")],
        ):
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
            if result.returncode:
                errors = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
                raise NoOdooError(f"its Python environment could not be made: {errors[-1] if errors else command[2]}")

    return make(venv_folder(major, lines), build)


def source_of(major: int) -> Path:
    """The source tree that the variable names. Raises :class:`NoOdooError`."""
    variable = f"TEST_ODOO_{major}"
    given = os.environ.get(variable)
    if not given:
        raise NoOdooError(f"{variable} names no source tree of Odoo {major}")
    source = Path(given).absolute()
    if not (source / "odoo-bin").is_file() or not (source / "odoo" / "release.py").is_file():
        raise NoOdooError(f"{variable}={given} is no source tree of Odoo")
    return source


def source_revision(major: int, source: Path) -> str:
    """The commit, where the tree is a checkout; otherwise what the source calls itself."""
    if (source / ".git").exists():
        command = ["git", "-c", "safe.directory=*", "-C", str(source), "rev-parse", "--short=10", "HEAD"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if result.returncode == 0:
            return f"{major}.0 at {result.stdout.strip()}"
    return f"{major}.0 source {short_hash([(source / 'odoo' / 'release.py').read_bytes(), str(source)])}"


def find(major: int, *, get: bool = False) -> Odoo:
    """
    That Odoo as it is kept here; with `get` it is fetched where it is missing, which takes minutes.

    Raises :class:`NoOdooError`.
    """
    if major == 19:
        try:
            root = prepared_tree() if get else tree()
        except NoPackageError as error:
            raise NoOdooError(str(error)) from error
        lines = requirements(19, None)
        modules = root / MODULES
        program, addons = root / "usr" / "bin" / "odoo", (modules / "odoo" / "addons",)
    elif major in MAJORS:
        source = source_of(major)
        lines = requirements(major, source)
        modules, program = source, source / "odoo-bin"
        # a tree made of a package has all modules in one folder
        addons = tuple(folder for folder in (source / "odoo" / "addons", source / "addons") if folder.is_dir())
    else:
        raise NoOdooError(f"only Odoo {' and '.join(map(str, MAJORS))} are run here, not {major}")
    venv = build_venv(major, lines) if get else venv_folder(major, lines)
    if not venv.exists() or not program.exists():
        raise NoOdooError(f"it has not been fetched yet: python -m tests.odoo.prepare {major}")
    revision = (root / "VERSION").read_text().strip() if major == 19 else source_revision(major, source)
    return Odoo(major, revision, venv / "bin" / "python", program, addons, modules)
