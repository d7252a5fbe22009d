"""This machine's clock against Odoo's."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped, warning
from appliance.cli.checks.surroundings import Surroundings
from appliance.errors import DataFolderError

WARN_S = 10.0
FAIL_S = 300.0
"""Odoo does not use a time that is further ahead."""
_REMEDY = "let both machines keep their clocks right (timedatectl set-ntp true)"


class OdooClockCheck(Check):
    """By the date of Odoo's answer, so to a second or two."""

    name, title = "odoo_clock", "Clock against Odoo's"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """How far they are apart."""
        try:
            answer = box.odoo
        except DataFolderError:
            answer = None
        if answer is None or answer.clock_ahead_s is None:
            yield skipped("there is no Odoo to ask, or it does not answer")
            return
        ahead_s = answer.clock_ahead_s
        text = f"Odoo's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this one"
        if abs(ahead_s) > FAIL_S:
            yield failed(f"{text}: readings would be filed under wrong times, or not count as the newest", _REMEDY)
        elif abs(ahead_s) > WARN_S:
            yield warning(text, _REMEDY)
        else:
            yield ok("they agree")
