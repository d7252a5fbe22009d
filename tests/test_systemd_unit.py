"""The units, checked by systemd's own tools. On booted systems: tests/install/."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "systemd"
UNITS = sorted([*FOLDER.glob("*.service"), *FOLDER.glob("*.timer")])
SERVICES = sorted(FOLDER.glob("*.service"))
INSTALLED = "/opt/iiot-appliance/current"
ORDINARY = {"Type", "ExecStart", "EnvironmentFile", "Environment", "Restart", "RestartSec", "Group", "User"}
"""Lines that say what the service does; all others limit it or are not what one would expect, and give their reason."""

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def verify(folder: Path, name: str, changes: dict[str, str]) -> str:
    """What systemd has to say about a unit. It prints about unknown keys without failing, so output is failure."""
    folder.mkdir(exist_ok=True)
    for unit in UNITS:
        text = unit.read_text().replace(f"{INSTALLED}/venv", sys.prefix).replace(f"{INSTALLED}/systemd", str(FOLDER))
        for before, after in changes.items():
            text = text.replace(before, after)
        (folder / unit.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(folder / name)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    mine = [line for line in result.stderr.splitlines() if "iiot-appliance" in line]
    return "\n".join(mine) or ("" if result.returncode == 0 else result.stderr)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit_and_its_command_exists(tmp_path: Path, unit: Path) -> None:
    assert verify(tmp_path / "good", unit.name, {}) == ""
    if unit in SERVICES:
        assert "not executable" in verify(tmp_path / "gone", unit.name, {"ExecStart=/": "ExecStart=/gone/"})
        assert "Unknown key" in verify(tmp_path / "typo", unit.name, {"ProtectHome=": "ProtectHom="})


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_the_service_is_hardened(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    level = re.search(r"exposure level for .*?: ([\d.]+)", result.stdout)
    assert level is not None
    assert float(level[1]) <= 1.5


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_each_line_of_a_service_that_is_no_matter_of_course_has_its_reason(unit: Path) -> None:
    text = unit.read_text().partition("[Service]\n")[2].partition("[Install]")[0]
    lines = ["#", *(line for line in text.splitlines() if line)]
    assert len(lines) > 60
    unexplained = [
        line
        for before, line in pairwise(lines)
        if line[0] != "#" and before[0] != "#" and line.partition("=")[0] not in ORDINARY
    ]
    assert unexplained == []


def test_nothing_of_the_back_off_is_in_the_unit_that_older_systemds_read() -> None:
    keys = re.findall(r"^(\w+)=", (FOLDER / "back-off.conf").read_text(), re.MULTILINE)
    assert keys == ["RestartSteps", "RestartMaxDelaySec"]
    for unit in UNITS:
        assert not [key for key in keys if f"\n{key}=" in unit.read_text()]
