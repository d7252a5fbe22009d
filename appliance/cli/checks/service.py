"""The service as systemd sees it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped, warning
from appliance.cli.checks.surroundings import Surroundings

UNIT = "iiot-appliance.service"
WITHIN_S = 10.0
MANY_RESTARTS = 3
BOOTED = Path("/run/systemd/system")
_PROPERTIES = ("LoadState", "ActiveState", "SubState", "Result", "NRestarts", "UnitFileState")
_LOG = f"journalctl -u {UNIT} -n 50 says why"


class ServiceCheck(Check):
    """Where systemd runs this machine, and the appliance is installed as its service."""

    name, title = "service", "Service"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Whether it runs, and goes on running."""
        found = unit_state()
        if isinstance(found, str):
            if box.running:
                yield ok(f"an appliance runs; {found}")
            else:
                yield skipped(f"no appliance runs on this data folder; {found}")
            return
        restarts = int(found["NRestarts"]) if found.get("NRestarts", "").isdigit() else 0
        state = f"{found.get('ActiveState')} ({found.get('SubState')}, {found.get('Result')})"
        if found.get("ActiveState") not in ("active", "reloading"):
            yield failed(f"{UNIT} is {state}", f"systemctl start {UNIT}; {_LOG}")
        elif restarts >= MANY_RESTARTS:
            yield warning(f"{UNIT} was restarted {restarts} times since it was started last", _LOG)
        elif found.get("UnitFileState") == "disabled":
            yield warning(f"{UNIT} does not start with the machine", f"systemctl enable {UNIT}")
        else:
            yield ok(f"{UNIT} is {state}")


def unit_state() -> dict[str, str] | str:
    """What systemd says of the unit, or why it says nothing."""
    if shutil.which("systemctl") is None or not BOOTED.is_dir():
        return "systemd does not run this machine"
    command = ["systemctl", "show", UNIT, f"--property={','.join(_PROPERTIES)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return f"systemctl fails ({type(error).__name__})"
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return "it is not installed as a service" if found.get("LoadState") != "loaded" else found
