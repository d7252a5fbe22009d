"""The settings."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.cli.checks.base import Check, Finding, failed, ok, warning
from appliance.cli.checks.surroundings import Surroundings
from appliance.cli.exits import Exit


class SettingsCheck(Check):
    """What the environment and the settings file say."""

    name, title = "settings", "Settings"
    before_start = True
    needs_settings = False

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Every problem at once."""
        found = box.findings
        for text in (*found.problems, *found.unknown):
            yield failed(text, "change it in the settings, then restart the appliance", status=Exit.SETTINGS)
        for text in found.cautions:
            yield warning(text, "change it, unless it is meant")
        if not (found.problems or found.unknown or found.cautions):
            yield ok("can be used")
