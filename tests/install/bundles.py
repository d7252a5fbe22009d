"""Bundles of this version and of others that never were, made of wheels that are fetched once and kept in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import ROOT
from tests.odoo.cache import cache_folder, make, say, short_hash

SOURCES = ("appliance", "firmware_sim", "systemd", "install.sh", "pyproject.toml", "README.md")


def wheels(arch: str = "amd64") -> Path:
    """All wheels that the appliance needs for both Pythons, as a bundle fetches them, and what builds its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    script = (ROOT / "systemd/versions.sh").read_text()
    chosen = [line for line in script.splitlines() if "PYTHONS=" in line or "for glibc in" in line]
    wanted = [*project["project"]["dependencies"], *chosen, arch]

    def build(folder: Path) -> None:
        say(f"Fetching the wheels for {arch} for the installation's tests (once; half a minute)")
        bundle = folder / "bundle"
        install_script("bundle", "--arch", arch, "--output", str(bundle))
        unpack(bundle, folder / "version")
        for wheel in (folder / "version/wheels").iterdir():
            if not wheel.name.startswith("iiot_appliance"):
                wheel.rename(folder / wheel.name)
        bundle.unlink()
        shutil.rmtree(folder / "version")
        command = [sys.executable, "-m", "pip", "download", "-q", "--dest", str(folder)]
        subprocess.run([*command, *project["build-system"]["requires"]], check=True)

    return make(cache_folder() / "wheels" / f"{arch}-{short_hash(wanted)}", build)


def install_script(*arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """install.sh on this machine."""
    done = subprocess.run(
        ["bash", str(ROOT / "install.sh"), *arguments],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def make_bundle(folder: Path, arch: str = "amd64") -> Path:
    """A bundle of this version, made without network."""
    offline = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels(arch))}
    path = folder / "bundle.run"
    install_script("bundle", "--arch", arch, "--output", str(path), environment=offline)
    return path


def unpack(bundle: Path, folder: Path) -> None:
    """The folder that a bundle holds."""
    data = bundle.read_bytes()
    archive = folder.with_suffix(".tar")
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(data[data.index(b"\n__ARCHIVE__\n") + len(b"\n__ARCHIVE__\n") :])
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    archive.unlink()


def changed_version(bundle: Path, folder: Path, number: str, changes: Mapping[str, tuple[str, str]]) -> None:
    """The folder of a version that never was: a bundle's, in which, in each named module, one text is another."""
    unpack(bundle, folder)
    (folder / "VERSION").write_text(f"{number}-{short_hash(map(str, changes.items()))}\n")
    (wheel,) = folder.glob("wheels/iiot_appliance-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    for name, (before, after) in changes.items():
        text = members[name].decode()
        assert text.count(before) == 1, f"{name}: {before!r}"
        members[name] = text.replace(before, after).encode()
    with zipfile.ZipFile(wheel, "w") as changed:
        for name, data in members.items():
            changed.writestr(name, data)


def copy_checkout(folder: Path) -> Path:
    """What belongs to the product of this checkout."""
    folder.mkdir(parents=True)
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder
