"""What systemd does for the service: starts it again, watches it, and mends its environment when Python has changed."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.install.conftest import MakeMachine
from tests.install.machine import Machine
from tests.install.roots import debian

SHORT_WATCHDOG = "[Service]\nWatchdogSec=2\nRestartSec=0\n"


def drop_in(box: Machine, text: str, *, then: str = "restart") -> None:
    box.run("mkdir -p /etc/systemd/system/iiot-appliance.service.d")
    box.run("cat > /etc/systemd/system/iiot-appliance.service.d/test.conf", text=text)
    box.run(f"systemctl daemon-reload && systemctl {then} iiot-appliance")


def restarted(box: Machine, times: int) -> bool:
    return (box.show("NRestarts"), box.show("ActiveState")) == (str(times), "active")


def test_it_is_started_again_after_a_kill_and_stops_in_order_within_ten_seconds(
    machine: MakeMachine, installed: Path
) -> None:
    box = machine(installed, debian("bookworm"))
    process = box.show("MainPID")
    box.run(f"kill -9 {process}")
    box.wait_until(lambda: restarted(box, 1))
    assert box.show("MainPID") not in (process, "0")
    begun = time.monotonic()
    box.run("systemctl stop iiot-appliance")
    assert time.monotonic() - begun < 10
    assert (box.show("Result"), box.show("ExecMainStatus")) == ("success", "0")
    assert box.journal().splitlines()[-1].startswith("Stopped iiot-appliance.service")


def test_a_process_that_hangs_is_ended_by_the_watchdog_and_one_that_works_is_not(
    machine: MakeMachine, installed: Path
) -> None:
    box = machine(installed, debian("bookworm"))
    drop_in(box, SHORT_WATCHDOG)
    fed_at = int(box.show("WatchdogTimestampMonotonic"))
    box.wait_until(lambda: int(box.show("WatchdogTimestampMonotonic")) > fed_at + 6_000_000)
    assert restarted(box, 0)
    process = box.show("MainPID")
    box.run(f"kill -STOP {process}")
    box.wait_until(lambda: restarted(box, 1))
    assert box.show("MainPID") != process
    assert "Watchdog timeout" in box.journal()


def test_what_cannot_start_goes_on_trying_and_is_up_when_the_fault_is_mended(
    machine: MakeMachine, installed: Path
) -> None:
    box = machine(installed, debian("bookworm"))
    box.run("systemctl stop iiot-appliance")
    box.run("echo 'PORT=none' >> /etc/iiot-appliance/appliance.env")
    drop_in(box, "[Service]\nRestartSec=100ms\n", then="start --no-block")
    # more often than systemd would by itself
    box.wait_until(lambda: int(box.show("NRestarts")) > 7)
    assert "PORT: " in box.journal()
    box.run("sed -i '/^PORT=none/d' /etc/iiot-appliance/appliance.env")
    box.wait_until(lambda: box.show("ActiveState") == "active")


def test_after_an_upgrade_of_the_operating_system_the_environment_is_made_anew_for_the_new_python(
    machine: MakeMachine, installed: Path
) -> None:
    # what was installed on bookworm, on top of a trixie: as an upgrade leaves it, with the data and another Python
    box = machine(installed, debian("trixie"))
    assert box.says("/usr/bin/python3 --version").startswith("Python 3.13")
    assert box.show("ActiveState") == "active"
    assert box.says("readlink /opt/iiot-appliance/current/venv") == "venv-cpython-313"
    assert "Making the Python environment for cpython-313" in box.journal("iiot-appliance-environment.service")
    assert box.run("iiot-appliance status").returncode == 0
    begun = time.monotonic()
    box.run("systemctl restart iiot-appliance")
    assert time.monotonic() - begun < 20
    assert box.show("NRestarts") == "0"
    units_are_good(box)


def test_systemd_takes_the_units_as_they_are_installed(machine: MakeMachine, installed: Path) -> None:
    units_are_good(machine(installed, debian("bookworm")))


def units_are_good(box: Machine) -> None:
    units = box.says("ls /usr/local/lib/systemd/system/*.service /usr/local/lib/systemd/system/*.timer").split()
    assert len(units) == 4
    for unit in units:
        done = box.run(f"systemd-analyze verify --man=no {unit}", check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), unit
    for unit in (unit for unit in units if unit.endswith(".service")):
        said = box.says(f"systemd-analyze security --offline=true --no-pager {unit}")
        level = re.search(r"exposure level for .*?: ([\d.]+)", said)
        assert level is not None
        assert float(level[1]) <= 1.5
