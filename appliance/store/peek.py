"""A look at single rows, for people: never more of them than a page shows, never more scanned than a moment allows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from appliance.store.database import Database
from appliance.store.messages import READING
from appliance.store.meta import last_seq
from appliance.store.settled import SettledRanges

SCANNED_ROWS = 2000
"""In one job: between two of them the writer commits what has come."""
MOST_SCANS = 10
SHOWN_BYTES = 2048
"""Of a payload."""
_SHOWN = f"seq, device, kind, at_ms, received_at_ms, flags, substr(payload, 1, {SHOWN_BYTES}), length(payload)"

Place = Literal["waiting", "stored", "parked"]


@dataclass(frozen=True, slots=True)
class SeenMessage:
    """A message as far as people look at it; times are milliseconds since 1970."""

    seq: int
    device: str
    kind: int
    at_ms: int | None
    received_at_ms: int
    flags: int
    payload: bytes
    """The beginning of it."""
    payload_bytes: int
    place: Place = "waiting"
    """``stored``: in Odoo."""


@dataclass(frozen=True, slots=True)
class SeenCommand:
    """A command in short."""

    command_id: str
    action: str
    state: str
    reason: str | None
    deliveries: int
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class SeenUpdate:
    """An update in short."""

    update_id: str
    action: str
    state: str
    reason: str | None
    error: str | None
    progress: float | None
    created_at_ms: int


class Peek:
    """All methods raise :class:`appliance.errors.StoreUnavailableError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def readings(self, device: str, *, limit: int) -> list[SeenMessage]:
        """The newest readings of a device among the last 20,000 messages of the box, newest first."""
        found: list[SeenMessage] = []
        end: int | None = None
        for _ in range(MOST_SCANS):
            rows, end = await self._database.run(partial(_readings, device=device, end=end, limit=limit - len(found)))
            found += rows
            if len(found) >= limit or not end:
                break
        return found

    async def waiting(self, *, limit: int) -> list[SeenMessage]:
        """The oldest messages that wait for Odoo."""
        return await self._database.run(partial(_waiting, limit=limit))

    async def commands(self, device: str, *, limit: int) -> list[SeenCommand]:
        """The newest commands of a device."""
        return await self._database.run(partial(_commands, device=device, limit=limit))

    async def updates(self, device: str, *, limit: int) -> list[SeenUpdate]:
        """The newest updates of a device."""
        return await self._database.run(partial(_updates, device=device, limit=limit))

    async def received(self, devices: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """Of each of these devices how many readings were received, refused and parked."""
        return await self._database.run(partial(_received, devices=devices))


def _readings(
    connection: sqlite3.Connection, *, device: str, end: int | None, limit: int
) -> tuple[list[SeenMessage], int]:
    """From ``end`` backwards; also where to go on, 0 if there is no more."""
    last = last_seq(connection) if end is None else end
    first = max(last - SCANNED_ROWS + 1, 1)
    rows = connection.execute(
        f"SELECT {_SHOWN} FROM messages WHERE seq BETWEEN ? AND ? AND device = ? AND kind = ?"  # noqa: S608
        " ORDER BY seq DESC LIMIT ?",
        (first, last, device, READING, limit),
    ).fetchall()
    return [replace(SeenMessage(*row), place=_place(connection, row[0])) for row in rows], first - 1


def _place(connection: sqlite3.Connection, seq: int) -> Place:
    def is_in(table: Literal["settled", "unstored"]) -> bool:
        row = connection.execute(
            f"SELECT last FROM {table} WHERE first <= ? ORDER BY first DESC LIMIT 1",  # noqa: S608
            (seq,),
        ).fetchone()
        return row is not None and row[0] >= seq

    if not is_in("settled"):
        return "waiting"
    return "parked" if is_in("unstored") else "stored"


def _waiting(connection: sqlite3.Connection, *, limit: int) -> list[SeenMessage]:
    found: list[SeenMessage] = []
    for first, last in SettledRanges.load(connection).gaps(1, last_seq(connection)):
        rows = connection.execute(
            f"SELECT {_SHOWN} FROM messages WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",  # noqa: S608
            (first, last, limit - len(found)),
        )
        found += [SeenMessage(*row) for row in rows]
        if len(found) >= limit:
            break
    return found


def _commands(connection: sqlite3.Connection, *, device: str, limit: int) -> list[SeenCommand]:
    rows = connection.execute(
        "SELECT command_id, action, state, reason, deliveries, created_at_ms FROM outbox"
        " WHERE position > (SELECT max(position) FROM outbox) - ? AND device = ? ORDER BY position DESC LIMIT ?",
        (SCANNED_ROWS * MOST_SCANS, device, limit),
    )
    return [SeenCommand(*row) for row in rows]


def _updates(connection: sqlite3.Connection, *, device: str, limit: int) -> list[SeenUpdate]:
    rows = connection.execute(
        "SELECT update_id, action, state, reason, error, progress, created_at_ms FROM updates"
        " WHERE position > (SELECT max(position) FROM updates) - ? AND device = ? ORDER BY position DESC LIMIT ?",
        (SCANNED_ROWS * MOST_SCANS, device, limit),
    )
    return [SeenUpdate(*row) for row in rows]


def _received(connection: sqlite3.Connection, *, devices: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = {}
    for device in devices:
        row = connection.execute("SELECT received, refused, parked FROM ledger WHERE device = ?", (device,)).fetchone()
        if row is not None:
            found[device] = row
    return found
