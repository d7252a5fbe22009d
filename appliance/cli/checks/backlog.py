"""How long messages have been waiting for Odoo."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped, warning
from appliance.cli.checks.surroundings import Surroundings
from appliance.cli.output import duration
from appliance.errors import DataFolderError, StoreError

WARN_S = 900.0
FAIL_S = 86_400.0
_REMEDY = "look why Odoo takes nothing: iiot-appliance status, and the checks of Odoo; nothing is lost meanwhile"


class BacklogCheck(Check):
    """Read from the buffer file."""

    name, title = "backlog", "Waiting for Odoo"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Age of the oldest message."""
        if not box.database_path.exists():
            yield skipped("no appliance was ever started on this data folder")
            return
        try:
            found = box.contents
            alone = box.access is None
        except (StoreError, DataFolderError) as error:
            yield skipped(str(error))
            return
        if not found.waiting or found.oldest_received_at_ms is None:
            yield ok("nothing waits")
            return
        age_s = max(box.clock.now_ms() - found.oldest_received_at_ms, 0) / 1000
        text = f"{found.waiting} messages wait, the oldest for {duration(age_s)}"
        if alone:
            yield warning(f"{text}: no Odoo is known", "enrol the appliance (iiot-appliance enroll)")
        elif age_s > FAIL_S:
            yield failed(text, _REMEDY)
        elif age_s > WARN_S:
            yield warning(text, _REMEDY)
        else:
            yield ok(text)
