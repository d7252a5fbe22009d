"""Messages that were refused for good."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped, warning
from appliance.cli.checks.surroundings import Surroundings
from appliance.errors import StoreError

_REMEDY = "iiot-appliance dead-letters list says which and why; mend the reason in Odoo, then dead-letters retry"
NEARLY_FULL = 0.8


class ParkedCheck(Check):
    """Read from the buffer file."""

    name, title = "parked", "Dead letters"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """How many, and why."""
        from appliance.store.parked import MOST_PARKED, MOST_PARKED_BYTES

        if not box.database_path.exists():
            yield skipped("no appliance was ever started on this data folder")
            return
        try:
            found = box.contents
        except StoreError as error:
            yield skipped(str(error))
            return
        if not found.parked:
            yield ok("there are none")
            return
        codes = ", ".join(f"{count} {code}" for code, count in list((found.kinds.parked or {}).items())[:5])
        text = f"{found.parked} messages were refused" + (f": {codes}" if codes else "")
        if max(found.parked / MOST_PARKED, found.parked_bytes / MOST_PARKED_BYTES) > NEARLY_FULL:
            yield failed(f"{text}; the list is nearly full, and then the oldest go for good", _REMEDY)
        else:
            yield warning(text, _REMEDY)
