"""install.sh as a person meets it, without letting it install anything."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "install.sh"
PARTS = sorted((ROOT / "systemd").glob("*.sh"))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with a copy of the script, and beside it all the commands there are: no Python, no apt-get."""
    (tmp_path / "bin").mkdir()
    for name in ("bash", "cat", "cut", "dirname", "id", "sed", "sha256sum"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "")
    (tmp_path / "box").mkdir()
    shutil.copy(SCRIPT, tmp_path / "box")
    return tmp_path / "box"


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *arguments],
        cwd="/",
        env={"PATH": str(script.parent.parent / "bin"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_python_and_without_the_right_to_install_it_says_which_packages_are_needed(bare: Path) -> None:
    result = run(bare / "install.sh", "demo")
    assert result.returncode == 1
    assert "python3 python3-venv" in result.stderr
    assert [path.name for path in bare.iterdir()] == ["install.sh"]


def test_a_python_that_will_not_do_is_refused_by_its_name(bare: Path) -> None:
    result = run(bare / "install.sh", "demo", PYTHON="/bin/false")
    assert (result.returncode, "PYTHON=/bin/false" in result.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [(), ("install",), ("--hostname", "x"), ("uninstall",), ("bundle",)])
def test_without_the_folder_that_it_belongs_to_it_says_so_and_changes_nothing(
    bare: Path, arguments: tuple[str, ...]
) -> None:
    result = run(bare / "install.sh", *arguments)
    assert (result.returncode, "systemd/checks.sh is missing" in result.stderr) == (1, True)
    assert [path.name for path in bare.iterdir()] == ["install.sh"]


def test_an_unknown_command_is_wrong_usage(bare: Path) -> None:
    result = run(bare / "install.sh", "dmeo")
    assert result.returncode == 2
    assert "./install.sh demo" in result.stderr


def test_a_copy_that_was_cut_off_does_nothing(bare: Path) -> None:
    lines = SCRIPT.read_text().splitlines(keepends=True)
    cut = bare / "cut.sh"
    for length in range(len(lines)):
        cut.write_text("".join(lines[:length]))
        result = run(cut)
        assert (result.stdout, "install.sh:" in result.stderr) == ("", False), f"after line {length}"
    assert {path.name for path in bare.iterdir()} == {"install.sh", "cut.sh"}


def test_every_variable_it_reads_from_outside_is_documented_on_top() -> None:
    head, _, body = SCRIPT.read_text().partition("set -euo pipefail")
    body += "".join(path.read_text() for path in PARTS)
    read = set(re.findall(r"\$\{([A-Z_]+):-", body)) - {"BASH_SOURCE"}
    assert read == set(re.findall(r"^#   ([A-Z_]+) {2,}\S", head, re.MULTILINE))


def test_every_command_and_option_is_documented_on_top() -> None:
    head, _, body = SCRIPT.read_text().partition("set -euo pipefail")
    for path in PARTS:
        for option in re.findall(r"^ +(--[a-z-]+)\)", path.read_text(), re.MULTILINE):
            assert re.search(rf"{option}\b", head), option
    commands = re.findall(r"^    ([a-z]+(?: \| [a-z]+)*)\) ", body.partition("main() {")[2], re.MULTILINE)
    for command in {name for line in commands for name in line.split(" | ")}:
        assert re.search(rf"\./install\.sh \[?{command}\b", head), command


@pytest.mark.parametrize("path", [SCRIPT, *PARTS, ROOT / "systemd/environment"], ids=lambda path: path.name)
def test_the_shell_understands_all_of_it_and_no_part_does_anything_when_it_is_read(path: Path, tmp_path: Path) -> None:
    shell = "sh" if path.name == "environment" else "bash"
    assert subprocess.run([shell, "-n", str(path)], capture_output=True, check=True).stderr == b""
    if path in PARTS:
        command = [shutil.which("bash") or "", "-c", f". {path}"]
        read = subprocess.run(command, cwd=tmp_path, env={"PATH": ""}, capture_output=True, check=True)
        assert (read.stdout, read.stderr, list(tmp_path.iterdir())) == (b"", b"", [])
