"""The unit file, checked by systemd's own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT

UNIT = ROOT / "systemd/iiot-appliance.service"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def verify(folder: Path, unit: str) -> str:
    """What systemd has to say about the unit. It prints about unknown keys without failing, so output is failure."""
    path = folder / UNIT.name
    path.write_text(unit)
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    mine = [line for line in result.stderr.splitlines() if UNIT.name in line]
    return "\n".join(mine) or ("" if result.returncode == 0 else result.stderr)


def test_systemd_accepts_the_unit_and_its_command_exists(tmp_path: Path) -> None:
    installed = UNIT.read_text().replace("/opt/iiot-appliance/.venv", sys.prefix)
    assert verify(tmp_path, installed) == ""
    assert "not executable" in verify(tmp_path, UNIT.read_text().replace("bin/iiot-appliance", "bin/other"))
    assert "Unknown key" in verify(tmp_path, installed.replace("ProtectHome=", "ProtectHom="))


def test_the_unit_is_hardened() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    level = re.search(r"exposure level for .*?: ([\d.]+)", result.stdout)
    assert level is not None
    assert float(level[1]) < 1.5


def test_each_line_of_the_sandbox_has_its_reason() -> None:
    sandbox = UNIT.read_text().partition("# An account of its own")[2].partition("[Install]")[0]
    lines = [line for line in sandbox.splitlines()[1:] if line]
    assert len(lines) > 50
    unexplained = [line for before, line in pairwise(["#", *lines]) if line[0] != "#" and before[0] != "#"]
    assert unexplained == []
