"""What the running appliance says of itself."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.cli.checks.base import Check, Finding, Verdict, failed, ok, skipped
from appliance.cli.checks.surroundings import Surroundings

_REMEDY = "iiot-appliance status, and the status page, say more"


class HealthCheck(Check):
    """Its own verdict, with the reasons."""

    name, title = "health", "The appliance's own word"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """One finding for each reason."""
        if not box.running:
            yield skipped("it does not run")
            return
        found = box.health
        if isinstance(found, str):
            yield failed(f"it runs, and does not answer: {found}", "restart it, and look at its log")
            return
        failing = found.get("status") == "failing"
        for reason in found["reasons"]:
            yield Finding(Verdict.failed if failing else Verdict.warning, str(reason), _REMEDY)
        if not found["reasons"]:
            yield ok("all is well")
