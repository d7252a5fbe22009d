"""Whether the buffer file is whole."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped, warning
from appliance.cli.checks.surroundings import Surroundings
from appliance.errors import StoreFormatError, StoreUnavailableError

WITHIN_S = 20.0
_REMEDY = "keep a copy of the data folder, then put back the last backup that is whole (iiot-appliance restore)"


class DatabaseCheck(Check):
    """Reads the file from front to back, as far as that goes in twenty seconds; the appliance goes on meanwhile."""

    name, title = "database", "Buffer file"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """What SQLite finds, and what the appliance has left word of."""
        if not box.database_path.exists():
            yield skipped("no appliance was ever started on this data folder")
            return
        if (box.folder / "sync-failed").exists():
            yield failed(
                "the disk has failed to write, and the appliance has not been able to mend that yet",
                "look at the disk and the kernel's log, then restart the appliance; nothing acknowledged is lost",
            )
        try:
            flaws = box.flaws(WITHIN_S)
        except StoreFormatError as error:
            yield failed(str(error), _REMEDY)
        except StoreUnavailableError as error:
            yield warning(str(error), "run this as the appliance's user, or as root")
        else:
            if flaws:
                yield failed(f"{box.database_path} is damaged: {'; '.join(flaws)[:300]}", _REMEDY)
            elif flaws is None:
                yield ok(
                    f"nothing wrong was found within {WITHIN_S:.0f} s; it is too large to see all of it in that time"
                )
            else:
                yield ok("it is whole")
