"""Whether Odoo answers and knows this appliance's key."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped
from appliance.cli.checks.surroundings import Surroundings
from appliance.cli.exits import Exit
from appliance.errors import DataFolderError, OdooAlarmError, OdooRefusedError, SettingsError

NO_ODOO = "there is no Odoo to ask: neither is ODOO_BASE_URL set, nor was one enrolled at"


class OdooCheck(Check):
    """Asks with a batch that no Odoo can take; nothing is changed there."""

    name, title = "odoo", "Odoo"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Whether it refuses that as it should."""
        try:
            answer = box.odoo
        except DataFolderError as error:
            yield failed(str(error), "enrol the appliance again", status=Exit.DATA_FOLDER)
            return
        if answer is None:
            yield skipped(NO_ODOO)
        elif answer.error is None:
            text = "what answers at ODOO_BASE_URL takes anything: that is no Odoo with the add-on"
            yield failed(text, "check the address", status=Exit.ODOO)
        elif isinstance(answer.error, OdooRefusedError):
            yield ok("it answers, and knows this appliance's key")  # it has looked at the key first
        elif isinstance(answer.error, OdooAlarmError):
            text = f"Odoo refuses this gateway: {answer.error}"
            yield failed(text, "enrol the appliance again, with a code from the gateway's form", status=Exit.ODOO)
        elif isinstance(answer.error, SettingsError):
            yield failed(str(answer.error), "change it in the settings", status=Exit.SETTINGS)
        else:
            text = f"Odoo does not answer: {answer.error}"
            yield failed(
                text, "look whether Odoo is up, and whether a firewall or proxy stands between", status=Exit.ODOO
            )
