"""Rows of the table ``presence``: how each device was connected last, and what Odoo was told of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from appliance.contract.odoo import Kind
from appliance.store.database import Database
from appliance.store.messages import checksum, insert_rows
from appliance.store.meta import last_seq

LOAD_ROWS = 500


class PresenceRow(NamedTuple):
    """One device. Times are milliseconds since 1970; ``told_*`` is what Odoo knows, ``None`` where it knows nothing;
    ``told_online`` counts 2 more where Odoo was told of a contest."""

    device: str
    online: int
    since_ms: int
    code: str | None
    detail: str
    address: str | None
    connects: int
    takeovers: int
    last_seen_ms: int | None
    last_telemetry_ms: int | None
    told_online: int | None
    told_connects: int
    told_takeovers: int


class PresenceMessage(NamedTuple):
    """What Odoo is to be told of a device."""

    device: str
    payload: bytes
    at_ms: int
    received_at_ms: int
    flags: int = 0


_COLUMNS = ", ".join(PresenceRow._fields)
_LOAD = f"SELECT {_COLUMNS} FROM presence WHERE device > ? ORDER BY device LIMIT {LOAD_ROWS}"  # noqa: S608 constants
_PUT = (
    f"INSERT OR REPLACE INTO presence ({_COLUMNS}) SELECT {', '.join('?' * len(PresenceRow._fields))}"  # noqa: S608
    " WHERE EXISTS (SELECT 1 FROM devices WHERE device_id = ?)"
)


class PresenceStore:
    """The table of a :class:`Database`. A row goes with its device, in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[PresenceRow]:
        """All rows, in order of the device ids."""
        rows: list[PresenceRow] = []
        while True:
            found = await self._database.run(partial(_load, after=rows[-1].device if rows else ""))
            rows += found
            if len(found) < LOAD_ROWS:
                return rows

    async def write(self, rows: Sequence[PresenceRow], messages: Sequence[PresenceMessage]) -> None:
        """Put rows and add the messages that tell of them, in one transaction; rows of unknown devices are left out.

        A few hundred at a time: it is one job. ``StoreUnavailableError`` if nothing can be stored now.
        """
        await self._database.run(partial(_write, rows=rows, messages=messages))


def _load(connection: sqlite3.Connection, after: str) -> list[PresenceRow]:
    return [PresenceRow(*row) for row in connection.execute(_LOAD, (after,))]


def _write(connection: sqlite3.Connection, rows: Sequence[PresenceRow], messages: Sequence[PresenceMessage]) -> None:
    connection.executemany(_PUT, [(*row, row.device) for row in rows])
    kind = int(Kind.PRESENCE)
    if messages:
        values = [
            (
                *(m.device, kind, m.at_ms, m.received_at_ms, m.flags, None, m.payload),
                checksum(m.device, kind, m.at_ms, m.received_at_ms, m.flags, m.payload),
            )
            for m in messages
        ]
        insert_rows(connection, values, first_seq=last_seq(connection) + 1)
