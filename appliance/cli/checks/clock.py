"""Whether this machine's clock can be right."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from appliance import certificates
from appliance.cli.checks.base import Check, Finding, failed, ok
from appliance.cli.checks.surroundings import Surroundings
from appliance.contract.times import Clock

TOLERANCE = timedelta(days=1)
LATEST = timedelta(days=20 * 365)
"""After the release; a clock beyond that is wrong."""
_REMEDY = "set the clock, and let the machine keep it right (timedatectl set-ntp true)"


class ClockCheck(Check):
    """Against what is known without asking anybody. The appliance runs with any clock, but readings get its times."""

    name, title = "clock", "Clock"
    before_start = True

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Not before the release, not before the buffer was written, not decades later."""
        time = now(box.clock)
        written = None
        if box.database_path.is_file():
            written = datetime.fromtimestamp(box.database_path.stat().st_mtime, UTC)
        if time < certificates.BUILD_DATE - TOLERANCE:
            yield failed(f"the clock says {time:%Y-%m-%d}, which is before this version was made", _REMEDY)
        elif time > certificates.BUILD_DATE + LATEST:
            yield failed(f"the clock says {time:%Y-%m-%d}, which is hardly true", _REMEDY)
        elif written is not None and time < written - TOLERANCE:
            text = f"the clock says {time:%Y-%m-%d}, but the buffer was written on {written:%Y-%m-%d}"
            yield failed(text, _REMEDY)
        else:
            yield ok(f"it says {time:%Y-%m-%d %H:%M:%S} UTC")


def now(clock: Clock) -> datetime:
    """The time that it shows."""
    return datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
