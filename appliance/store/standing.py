"""What must be remembered of how this appliance stands to Odoo: its own starts, the database it is bound to, gaps.

A file that is copied or put back to a backup brings its own list of starts with it: one that Odoo knows and this file
does not is a twin's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

from pydantic_core import from_json, to_json

from appliance.contract.odoo import NO_DEVICE, Kind
from appliance.contract.times import Clock, rfc3339
from appliance.store.database import Database
from appliance.store.messages import add_message
from appliance.store.meta import last_seq

STARTS_KEPT = 1000
CONSENTS_KEPT = 100
GAPS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Start:
    """One start of the process; ``first_seq`` is the first message it could have stored."""

    start: str
    first_seq: int
    answered: bool
    """Whether Odoo has answered a ``sync`` of it. Before that nothing of it is sent."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What an Odoo that knew less than it once confirmed was given again, and what could not be: it is not kept."""

    at_ms: int
    epoch: str
    confirmed: int
    """Messages that Odoo had confirmed."""
    known: int
    """Messages that it still had."""
    sent_again: int
    missing: int
    """Messages of these that may be lost in Odoo and are not kept here any more."""


class Standing:
    """The memory of ``sync``. Call :meth:`begin` before the first message of this start is stored."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock: Clock = database.clock
        self.starts: Sequence[Start] = ()
        """This appliance's own, oldest first; the last one is the present one."""
        self.database_uuid: str | None = None
        """The database it is bound to; ``None`` until the first answer."""
        self.cursor: str | None = None
        self.gaps: Sequence[Gap] = ()
        """The newest ones, oldest first."""
        self.may_take_over = False
        """Whether somebody has said, by enrolling it, that this one is the appliance, whatever other copies say."""

    async def begin(self, *, consent: str | None = None, database_uuid: str | None = None) -> None:
        """Note this start. A ``consent`` not seen before binds anew: to ``database_uuid``, or to who answers."""
        job = partial(_begin, start=str(uuid4()), consent=consent, database_uuid=database_uuid)
        self._take_over(await self._database.run(job))

    @property
    def present(self) -> Start:
        """This start of the process."""
        return self.starts[-1]

    @property
    def unheard(self) -> Sequence[Start]:
        """The present start, and those before it since the last one that was answered: of these nothing was sent."""
        if self.present.answered:
            return self.starts[-1:]
        count = next((count for count, start in enumerate(reversed(self.starts)) if start.answered), len(self.starts))
        return self.starts[-count:]

    async def answered(self, database_uuid: str) -> None:
        """Odoo has answered, and is the one that the appliance is bound to from now on."""
        if not self.present.answered or self.database_uuid != database_uuid or self.may_take_over:
            self._take_over(await self._database.run(partial(_answered, database_uuid=database_uuid)))

    async def keep_cursor(self, cursor: str) -> None:
        """All changes of devices up to here are on disk."""
        if cursor != self.cursor:
            await self._database.run(lambda connection: _set(connection, "cursor", cursor))
            self.cursor = cursor

    async def keep_gap(self, gap: Gap) -> None:
        """Remember a gap, and tell Odoo of it with a message."""
        self._take_over(await self._database.run(partial(_keep_gap, gap=gap)))

    async def tell(self, event: str, **details: Any) -> None:
        """A message for Odoo about the appliance itself."""
        at_ms = self._clock.now_ms()
        await self._database.run(lambda connection: _tell(connection, event, at_ms, details))

    def _take_over(self, read: _Read) -> None:
        self.starts, self.database_uuid, self.cursor, self.gaps, self.may_take_over = read


_Read = tuple[Sequence[Start], str | None, str | None, Sequence[Gap], bool]


def _begin(connection: sqlite3.Connection, *, start: str, consent: str | None, database_uuid: str | None) -> _Read:
    connection.execute(
        "INSERT INTO starts (start, first_seq, answered) VALUES (?, ?, 0)", (start, last_seq(connection) + 1)
    )
    connection.execute("DELETE FROM starts WHERE number <= (SELECT max(number) FROM starts) - ?", (STARTS_KEPT,))
    consents: list[str] = from_json(_get(connection, "consents") or "[]")
    if consent is not None and consent not in consents:
        _set(connection, "consents", to_json([*consents, consent][-CONSENTS_KEPT:]).decode())
        _set(connection, "database_uuid", database_uuid)
        _set(connection, "cursor", None)
        _set(connection, "may_take_over", "1")
    return _read(connection)


def _answered(connection: sqlite3.Connection, *, database_uuid: str) -> _Read:
    connection.execute("UPDATE starts SET answered = 1 WHERE number = (SELECT max(number) FROM starts)")
    _set(connection, "database_uuid", database_uuid)
    _set(connection, "may_take_over", None)
    return _read(connection)


def _keep_gap(connection: sqlite3.Connection, *, gap: Gap) -> _Read:
    gaps = [*from_json(_get(connection, "gaps") or "[]"), _columns(gap)]
    _set(connection, "gaps", to_json(gaps[-GAPS_KEPT:]).decode())
    names = ("epoch", "confirmed", "known", "sent_again", "missing")
    _tell(connection, "odoo_knows_less", gap.at_ms, {name: getattr(gap, name) for name in names})
    return _read(connection)


def _tell(connection: sqlite3.Connection, event: str, at_ms: int, details: dict[str, Any]) -> None:
    payload = to_json({"event": event, "at": rfc3339(at_ms), **details})
    add_message(connection, device=NO_DEVICE, kind=Kind.GATEWAY_EVENT, payload=payload, received_at_ms=at_ms)


def _read(connection: sqlite3.Connection) -> _Read:
    starts = connection.execute("SELECT start, first_seq, answered FROM starts ORDER BY number").fetchall()
    return (
        [Start(start, first_seq, bool(answered)) for start, first_seq, answered in starts],
        _get(connection, "database_uuid"),
        _get(connection, "cursor"),
        [Gap(*columns) for columns in from_json(_get(connection, "gaps") or "[]")],
        _get(connection, "may_take_over") is not None,
    )


def _columns(gap: Gap) -> tuple[object, ...]:
    return (gap.at_ms, gap.epoch, gap.confirmed, gap.known, gap.sent_again, gap.missing)


def _get(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM standing WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _set(connection: sqlite3.Connection, name: str, value: str | None) -> None:
    connection.execute("DELETE FROM standing WHERE name = ?", (name,))
    if value is not None:
        connection.execute("INSERT INTO standing (name, value) VALUES (?, ?)", (name, value))
