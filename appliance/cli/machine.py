"""Facts of the machine and of its system, for support: what the usual tools say, bounded in time and size."""

from __future__ import annotations

import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from appliance import __version__

WITHIN_S = 10.0
MOST_BYTES = 256 << 10
"""Of what one tool says; of more the end is kept."""
LOG_LINES = 5000
MOST_FILES = 500
UNIT = "iiot-appliance.service"
_TOOLS: dict[str, Sequence[str]] = {
    "disks": ("df", "-hT"),
    "inodes": ("df", "-i"),
    "addresses": ("ip", "-brief", "address"),
    "routes": ("ip", "route"),
    "listeners": ("ss", "-ltn"),
    "sockets": ("ss", "-s"),
    "clock": ("timedatectl",),
    "memory": ("free", "-m"),
    "load": ("uptime",),
    "service": ("systemctl", "status", UNIT, "--no-pager", "--lines=0"),
    "timers": ("systemctl", "list-timers", "iiot-appliance*", "--no-pager", "--all"),
}
_LOG = ("journalctl", "--unit", UNIT, "--lines", str(LOG_LINES), "--no-pager", "--output", "short-iso")
_PROC = ("/proc/loadavg", "/proc/meminfo", "/proc/net/dev", "/etc/os-release", "/etc/resolv.conf")


def about() -> dict[str, Any]:
    """Versions of everything that the appliance stands on."""
    return {
        "appliance": __version__,
        "python": sys.version,
        "system": platform.platform(),
        "machine": platform.machine(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "libraries": {
            found.name: found.version
            for found in sorted(metadata.distributions(), key=lambda found: (found.name or "").lower())
            if found.name
        },
    }


def machine_text() -> str:
    """Disks, network, memory, clock, service."""
    parts = [f"== {name}: {' '.join(command)}\n{output(command)}" for name, command in _TOOLS.items()]
    parts += [f"== {path}\n{_file(Path(path))}" for path in _PROC]
    return "\n".join(parts)


def log_text() -> str:
    """The end of the service's log."""
    return output(_LOG, most_bytes=4 * MOST_BYTES)


def output(command: Sequence[str], *, most_bytes: int = MOST_BYTES) -> str:
    """What a tool says, or why it says nothing."""
    if shutil.which(command[0]) is None:
        return f"({command[0]} is not installed)\n"
    try:
        done = subprocess.run(  # noqa: S603 - constants
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"({type(error).__name__})\n"
    return done.stdout[-most_bytes:].decode("utf-8", "replace")


def folder_text(folder: Path) -> str:
    """Names, sizes, modes and times of the files in the data folder."""
    return "".join(_lines(folder)) or f"{folder} is not there, or may not be read\n"


def _lines(folder: Path) -> Iterator[str]:
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if number >= MOST_FILES:
            yield "… and more\n"
            return
        try:
            found = path.lstat()
        except OSError:
            continue
        at = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds")
        name = path.relative_to(folder)
        yield f"{stat.filemode(found.st_mode)} {found.st_uid} {found.st_gid} {found.st_size:>12} {at} {name}\n"


def _file(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")[:MOST_BYTES]
    except OSError as error:
        return f"({error.strerror})\n"
