"""How fast the disk is: every acknowledgement waits for it."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped, warning
from appliance.cli.checks.disk_space import LEAST_FREE_BYTES
from appliance.cli.checks.surroundings import Surroundings

SYNCS = 20
PAGE = b"\xa5" * 4096
BLOCK = b"\x5a" * (1 << 20)
BLOCKS = 16
WITHIN_S = 6.0
SLOW_SYNC_S = 0.1
"""Ten commits a second: devices that publish one reading at a time feel it."""
SLOW_BYTES_PER_S = 2e6
_REMEDY = "use a better card or disk; look whether another program keeps it busy, and at the kernel's log"


class DiskSpeedCheck(Check):
    """Writes a few megabytes into the data folder, and removes them."""

    name, title = "disk_speed", "Disk speed"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Time of a sync, and bytes a second."""
        folder = box.folder
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            yield skipped("the data folder is not there, or may not be written to by this user")
            return
        if shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
            yield skipped("there is too little room to try")
            return
        try:
            sync_s, bytes_per_s = measure(folder)
        except OSError as error:
            yield failed(f"the disk cannot be written to: {error.strerror}", _REMEDY)
            return
        told = f"a sync takes {1000 * sync_s:.1f} ms, and {bytes_per_s / 1e6:.0f} MB are written in a second"
        yield warning(told, _REMEDY) if sync_s > SLOW_SYNC_S or bytes_per_s < SLOW_BYTES_PER_S else ok(told)


def measure(folder: Path) -> tuple[float, float]:
    """Seconds that a sync of one page takes, in the middle of some; and bytes a second, synced. ``OSError``."""
    with tempfile.TemporaryFile(dir=folder) as file:
        end = time.monotonic() + WITHIN_S
        syncs: list[float] = []
        while len(syncs) < SYNCS and (not syncs or time.monotonic() < end):
            began = time.monotonic()
            os.write(file.fileno(), PAGE)
            os.fdatasync(file.fileno())
            syncs.append(time.monotonic() - began)
        began, written = time.monotonic(), 0
        while written < BLOCKS * len(BLOCK) and (not written or time.monotonic() < end):
            written += os.write(file.fileno(), BLOCK)
            os.fdatasync(file.fileno())
        return statistics.median(syncs), written / max(time.monotonic() - began, 1e-9)
