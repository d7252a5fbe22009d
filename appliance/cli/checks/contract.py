"""Whether appliance and Odoo speak the same version of their contract."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped
from appliance.cli.checks.surroundings import Surroundings
from appliance.contract.odoo import CONTRACT_VERSION
from appliance.errors import DataFolderError, OdooAlarmError, OdooRefusedError, SettingsError

_REMEDY = "bring the add-on and the appliance to releases that fit (see the add-on's page in Odoo)"


class ContractCheck(Check):
    """By the last sync of the running appliance; else by whether Odoo refuses as the contract says."""

    name, title = "contract", "Contract with Odoo"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """As far as it shows without sending anything that counts."""
        sync = box.health.get("sync") if box.running and isinstance(box.health, dict) else None
        if isinstance(sync, dict) and sync.get("admitted") and sync.get("reachable"):
            yield ok(f"version {CONTRACT_VERSION}: Odoo has answered a sync of the running appliance")
            return
        try:
            answer = box.odoo
        except DataFolderError:
            answer = None
        if answer is None:
            yield skipped("there is no Odoo to ask")
        elif isinstance(answer.error, OdooRefusedError):
            if "contract" in answer.error.code:
                yield failed(f"Odoo does not speak version {CONTRACT_VERSION}: {answer.error}", _REMEDY)
            else:
                yield ok(f"version {CONTRACT_VERSION}: Odoo refuses as the contract says")
        elif isinstance(answer.error, (OdooAlarmError, SettingsError)) or "does not speak" not in str(answer.error):
            yield skipped("Odoo does not answer, or refuses this appliance")
        else:
            yield failed(str(answer.error), _REMEDY)
