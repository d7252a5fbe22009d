"""A line a minute that says what the appliance has done, in place of a line for each message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from appliance.contract.times import Clock
from appliance.logs import FIGURES
from appliance.web.metrics import Figures

log = logging.getLogger(__name__)

EVERY_S = 60.0
QUIET_S = 3600.0
"""Where nothing happens a line an hour shows that the appliance lives: memory cards wear out."""


class Summary:
    """:meth:`run` is a task that its owner cancels."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Figures]],
        *,
        clock: Clock,
        every_s: float = EVERY_S,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._read = read
        self._clock = clock
        self._every_s = every_s
        self._quiet_s = quiet_s
        self._counted: tuple[int, int] | None = None
        self._state: tuple[object, ...] = ()
        self._told_at = float("-inf")

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> bool:
        """Write a line, if something happened since the last look, or none was written for long; whether it was."""
        figures = await self._read()
        received = None if figures.store is None else figures.store.total.received
        counted = (received or 0, figures.uplink_settled)
        before = self._counted
        if received is not None:
            self._counted = counted
        if before is None or received is None:
            if received is None:
                log.warning("nothing can be stored: the summary waits")
            return False
        told = self._figures(figures, [max(now - then, 0) for now, then in zip(counted, before, strict=True)])
        state = tuple(told[name] for name in ("devices_online", "waiting", "dead_letters", "odoo"))
        now = self._clock.monotonic()
        quiet = counted == before and state == self._state
        if quiet and now - self._told_at < self._quiet_s:
            return False
        self._state, self._told_at = state, now
        log.info("%s", _sentence(told), extra={FIGURES: told})
        return True

    def _figures(self, figures: Figures, happened: list[int]) -> dict[str, Any]:
        oldest_ms = figures.backlog.oldest_received_at_ms
        odoo = "answers" if figures.uplink_up else "unknown" if figures.uplink_up is None else "away"
        return {
            "seconds": self._every_s,
            "readings_received": happened[0],
            "messages_sent": happened[1],
            "devices_online": figures.devices_online,
            "devices_paired": figures.devices_paired,
            "waiting": figures.backlog.waiting,
            "oldest_s": None if oldest_ms is None else max(figures.now_ms - oldest_ms, 0) // 1000,
            "dead_letters": figures.backlog.parked,
            "odoo": "alarm" if figures.uplink_alarm else odoo,
        }


def _sentence(told: dict[str, Any]) -> str:
    oldest = "" if told["oldest_s"] is None else f" (the oldest for {told['oldest_s']} s)"
    odoo = {
        "answers": "Odoo answers",
        "away": "Odoo does not answer",
        "alarm": "nothing is sent to Odoo until somebody acts",
        "unknown": "Odoo was not asked",
    }[told["odoo"]]
    done = f"readings received {told['readings_received']}, messages sent {told['messages_sent']}"
    devices = f"devices online {told['devices_online']} of {told['devices_paired']}"
    left = f"messages waiting {told['waiting']}{oldest}, dead letters {told['dead_letters']}"
    return f"in {told['seconds']:.0f} s: {done}; {devices}, {left}; {odoo}"
