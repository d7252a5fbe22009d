"""Publishes that were acknowledged and dropped (MQTT 3.1.1 has no refusal): counted, and shown with the device."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Mapping

from appliance.contract.times import Clock
from appliance.errors import StoreUnavailableError
from appliance.services.limits import Quiet
from appliance.store.database import Database
from appliance.store.ledger import note_refusal

log = logging.getLogger(__name__)
WRITE_EVERY_S = 1.0
MOST_PENDING = 10_000


class RefusalService:
    """Gathers refusals in memory and writes them once a second, so that a flood of them costs no disk."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._pending: dict[tuple[str, str], tuple[int, str]] = {}
        self._quiet = Quiet(clock=clock)
        self.total = 0
        """Refusals since the start, for metrics."""

    def note(self, device_id: str, reason: str, topic: str) -> None:
        """One publish of this device was dropped."""
        self.total += 1
        key = (device_id, reason)
        if key not in self._pending:
            if len(self._pending) >= MOST_PENDING:
                return
            if self._quiet.due(f"{device_id} {reason}"):
                log.warning("dropped what %s published to %r: %s", device_id, topic[:100], reason)
        count, _ = self._pending.get(key, (0, ""))
        self._pending[key] = (count + 1, topic)

    async def run(self) -> None:
        """Write once a second until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write what has gathered; what cannot be written now stays."""
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        at_ms = self._clock.now_ms()

        try:
            await self._database.run(lambda connection: _write(connection, pending, at_ms))
        except StoreUnavailableError:
            for key, (count, topic) in pending.items():
                more, _ = self._pending.get(key, (0, ""))
                self._pending[key] = (count + more, topic)


def _write(connection: sqlite3.Connection, pending: Mapping[tuple[str, str], tuple[int, str]], at_ms: int) -> None:
    for (device, reason), (count, topic) in pending.items():
        note_refusal(connection, device=device, reason=reason, topic=topic, count=count, at_ms=at_ms)
