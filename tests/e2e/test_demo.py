"""The demo as a new user runs it: what it says, what it finds out, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import CLEAN_ENVIRONMENT, ROOT
from tests.firmware_sim.stand_in import API_KEY, stand_in

MARK = "DEMO_UNDER_TEST"
"""A variable that every process of one demo inherits."""
WITHIN_S = 90
FIGURES = (
    *("devices", "paired", "published", "acknowledged", "in_odoo", "waiting", "parked", "lost", "duplicates"),
    *("commands_sent", "commands_done"),
)


class Demo:
    """A demo that runs in a folder for temporary files of its own."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.folder = folder
        self._mark = uuid.uuid4().hex
        self._out = folder.parent / f"{folder.name}.out"
        self._err = folder.parent / f"{folder.name}.err"
        folder.mkdir()
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "firmware_sim", "demo", *options],
                cwd=ROOT,
                env={**CLEAN_ENVIRONMENT, **environment, MARK: self._mark, "TMPDIR": str(folder)},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait; the demo must not end before."""
        end = time.monotonic() + WITHIN_S
        while not condition():
            assert self.process.poll() is None, self.out + self.err
            assert time.monotonic() < end, self.out + self.err
            time.sleep(0.01)

    def says(self, text: str) -> None:
        self.until(lambda: text in self.out)

    def ends(self) -> int:
        return self.process.wait(WITHIN_S)

    def interrupt(self) -> None:
        """Ctrl-C, which the terminal sends to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def result(self) -> dict[str, Any]:
        figures: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return figures

    def processes(self, *words: str) -> list[psutil.Process]:
        """Those of this demo that still live, with all of these words in their command."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    command = process.cmdline()
                    found += [process] if all(word in command for word in words) else []
            except psutil.Error:
                continue
        return found

    def left_nothing(self) -> bool:
        return not self.processes() and not list(self.folder.iterdir())


@contextmanager
def demo(tmp_path: Path, *options: str, **environment: str) -> Iterator[Demo]:
    one = Demo(tmp_path / "tmp", *options, **environment)
    try:
        yield one
    finally:
        for process in one.processes():
            process.kill()
        one.process.wait(10)


def test_a_demo_with_a_time_limit_checks_everything_and_is_content(tmp_path: Path) -> None:
    with demo(tmp_path, "--seconds", "4", "--devices", "7", "--rate", "35") as one:
        assert one.ends() == 0, one.out + one.err
        result = one.result()
        assert {name: result[name] for name in FIGURES} == {
            **dict.fromkeys(("devices", "paired", "commands_sent", "commands_done"), 7),
            **dict.fromkeys(("waiting", "parked", "lost", "duplicates"), 0),
            **dict.fromkeys(("published", "acknowledged", "in_odoo"), result["published"]),
        }
        assert result["published"] > 4 * 35 * 0.8
        assert result["update"] == "installed"
        assert result["odd"] > 0, "nothing was done wrong"
        assert "New firmware on one device: installed." in one.out
        assert one.err == ""
        assert one.left_nothing()
        live = [line for line in one.out.splitlines() if " s  connected " in line]
        assert len(live) >= 4
        assert "mosquitto_sub" in one.out


@pytest.mark.parametrize(("fault", "figure"), [("loss", "lost"), ("duplicate", "duplicates")])
def test_a_fault_put_into_odoo_is_found(tmp_path: Path, fault: str, figure: str) -> None:
    with demo(tmp_path, "--seconds", "2", "--devices", "2", "--inject", fault) as one:
        assert one.ends() == 1, one.out + one.err
        result = one.result()
        assert {name: result[name] for name in ("lost", "duplicates")} == {"lost": 0, "duplicates": 0, figure: 1}
        assert one.left_nothing()


def test_a_demo_without_a_limit_runs_until_ctrl_c(tmp_path: Path) -> None:
    with demo(tmp_path, "--devices", "2") as one:
        one.says("commands 2/2")
        one.interrupt()
        assert one.ends() == 130
        assert one.err == ""
        assert one.left_nothing()


@pytest.mark.parametrize(
    "moment",
    ["Starting", "stand-in", "appliance", "fleet", "all is drained"],
)
def test_ctrl_c_at_any_moment_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    with demo(tmp_path, "--seconds", "1", "--devices", "2") as one:
        if moment == "all is drained":
            one.until(lambda: "acknowledged" in one.out and not one.processes("fleet") and one.processes("appliance"))
        elif moment in ("stand-in", "appliance", "fleet"):
            one.until(lambda: one.processes({"stand-in": "odoo"}.get(moment, moment)))
        else:
            one.says(moment)
        one.interrupt()
        one.interrupt()
        assert one.ends() in ((0, 130) if moment == "all is drained" else (130,))
        assert one.err == ""
        assert one.left_nothing()


def test_a_process_that_ends_early_ends_the_demo_with_its_last_words(tmp_path: Path) -> None:
    with demo(tmp_path, "--devices", "2") as one:
        one.says("connected 2/2")
        (appliance,) = one.processes("appliance")
        appliance.kill()
        assert one.ends() == 1
        assert "appliance ended by itself" in one.err
        assert "is ready" in one.err, "the log's last lines are missing"
        assert "Traceback" not in one.err
        assert one.left_nothing()


def test_a_setting_that_cannot_be_used_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with demo(tmp_path, "--seconds", "2", MQTT_BROKER_PORT=port) as one:
            assert one.ends() == 1
            assert "appliance ended by itself" in one.err
            assert "cannot listen" in one.err
            assert one.left_nothing()


def test_a_killed_demo_takes_its_processes_along(tmp_path: Path) -> None:
    with demo(tmp_path, "--devices", "2") as one:
        one.says("connected 2/2")
        one.process.kill()
        one.process.wait(10)
        end = time.monotonic() + WITHIN_S
        while one.processes():
            assert time.monotonic() < end, one.processes()
            time.sleep(0.05)


def test_ports_folder_and_odoo_are_taken_from_the_environment_and_two_runs_do_not_mix(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with stand_in("--data", str(tmp_path / "odoo.db")) as addresses:
        for number in (1, 2):
            environment = {"ODOO_BASE_URL": addresses["url"], "ODOO_API_KEY": API_KEY, "IIOT_DATA_DIR": str(data)}
            (tmp_path / str(number)).mkdir()
            with demo(tmp_path / str(number), "--seconds", "1", "--devices", "2", **environment) as one:
                assert one.ends() == 0, one.out + one.err
                assert one.result()["published"] > 0
                assert addresses["url"] in one.out
    assert (data / "api_key").exists()


def test_an_odoo_that_is_no_stand_in_is_said_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with demo(tmp_path, ODOO_BASE_URL=f"http://127.0.0.1:{port}", ODOO_API_KEY=API_KEY) as one:
        assert one.ends() == 1
        assert "is no stand-in" in one.err
        assert one.left_nothing()
