"""Changes of devices that cannot be applied yet: no such device is paired here, or its configuration was refused.

One for each device id, the newest; ``MOST_ASIDE`` at most. What is refused is told to Odoo in the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import to_json

from appliance.contract.odoo import Kind
from appliance.contract.sync import DeviceChange
from appliance.store.database import Database
from appliance.store.messages import add_message

MOST_ASIDE = 10_000
_ROOM = (
    "DELETE FROM changes_aside WHERE device_id IN"
    " (SELECT device_id FROM changes_aside ORDER BY reason IS NULL DESC, at_ms, device_id LIMIT ?)"
    " RETURNING device_id"
)


class Aside(NamedTuple):
    """A change that waits; ``reason`` says why it was refused, ``None``: no such device is paired here."""

    change: DeviceChange
    reason: str | None


class ChangesAside:
    """The table, and in memory which devices are in it and why."""

    def __init__(self, database: Database) -> None:
        self.reasons: dict[str, str | None] = {}
        """By device id, as in :class:`Aside`."""
        self.dropped = 0
        """Changes that had to make room, since the start."""
        self._database = database

    async def load(self) -> None:
        """Read what is in the table. :class:`StoreUnavailableError`."""
        found = await self._database.run(_reasons)
        self.reasons = dict(found)

    async def read(self, device_ids: Collection[str]) -> list[DeviceChange]:
        """The changes of these devices, a few hundred at most; what cannot be read is left out."""
        wanted = [each for each in device_ids if each in self.reasons]
        return await self._database.run(lambda connection: _read(connection, wanted)) if wanted else []

    async def write(self, asides: Sequence[Aside], done: Collection[str]) -> None:
        """Put changes aside, and forget those of the devices in ``done``. :class:`StoreUnavailableError`."""
        known = self.reasons
        done = [device_id for device_id in done if device_id in known]
        if not asides and not done:
            return
        news = [each for each in asides if each.reason is not None and known.get(each.change.device_id) != each.reason]
        now_ms = self._database.clock.now_ms()
        left = await self._database.run(lambda connection: _write(connection, asides, done, news, now_ms))
        for device_id in done:
            self.reasons.pop(device_id, None)
        for each in asides:
            self.reasons[each.change.device_id] = each.reason
        for device_id in left:
            self.reasons.pop(device_id, None)
        self.dropped += len(left)


def _reasons(connection: sqlite3.Connection) -> list[tuple[str, str | None]]:
    return connection.execute("SELECT device_id, reason FROM changes_aside LIMIT ?", (MOST_ASIDE,)).fetchall()


def _read(connection: sqlite3.Connection, device_ids: Sequence[str]) -> list[DeviceChange]:
    found = []
    for device_id in device_ids:
        row = connection.execute("SELECT change FROM changes_aside WHERE device_id = ?", (device_id,)).fetchone()
        if row is not None:
            try:
                found.append(DeviceChange.model_validate_json(row[0]))
            except ValidationError:
                connection.execute("DELETE FROM changes_aside WHERE device_id = ?", (device_id,))
    return found


def _write(
    connection: sqlite3.Connection, asides: Sequence[Aside], done: Sequence[str], news: Sequence[Aside], now_ms: int
) -> list[str]:
    connection.executemany("DELETE FROM changes_aside WHERE device_id = ?", [(device_id,) for device_id in done])
    connection.executemany(
        "INSERT OR REPLACE INTO changes_aside (device_id, change, reason, at_ms) VALUES (?, ?, ?, ?)",
        [(each.change.device_id, each.change.model_dump_json(), each.reason, now_ms) for each in asides],
    )
    for each in news:
        change = each.change
        event: dict[str, object] = {
            "event": "device_change_refused",
            "device_id": change.device_id,
            "config_version": change.config.config_version if change.config is not None else None,
            "reason": each.reason,
        }
        add_gateway_event(connection, device_id=change.device_id, event=event, now_ms=now_ms)
    (count,) = connection.execute("SELECT count(*) FROM changes_aside").fetchone()
    if count <= MOST_ASIDE:
        return []
    # a device that is not here yet gets its whole configuration when it is paired
    return [device_id for (device_id,) in connection.execute(_ROOM, (count - MOST_ASIDE,)).fetchall()]


def add_gateway_event(connection: sqlite3.Connection, *, device_id: str, event: dict[str, object], now_ms: int) -> None:
    """Tell Odoo what happened to a device here; inside a job."""
    add_message(connection, device=device_id, kind=Kind.GATEWAY_EVENT, payload=to_json(event), received_at_ms=now_ms)
