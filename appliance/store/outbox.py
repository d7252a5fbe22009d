"""Commands on their way to devices: one row each, which survives any crash; here is how the rows are read and written.

How they change stands in :mod:`appliance.store.command_rules`. Deadlines are times of a steady clock that neither jumps
nor runs back (:mod:`appliance.services.steady`); times for people are of the wall clock.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from pydantic_core import from_json, to_json

from appliance.contract.command import CommandState, state_message
from appliance.contract.odoo import Kind
from appliance.contract.times import rfc3339
from appliance.store.database import Database
from appliance.store.messages import checksum, insert_rows
from appliance.store.meta import get_meta, last_seq, set_meta

T = TypeVar("T")
RESPONSE_KEPT_BYTES = 4096
"""A longer answer is in its message to Odoo, not in the command's row."""
LOAD_ROWS = 500
PRUNE_ROWS = 500
_CLOCK = ("commands_clock_machine", "commands_clock_base_ms", "commands_clock_offset_ms")
_UNDELIVERED = ("queued", "sent")
_SELECT_ROW = (
    "SELECT position, command_id, device, at_most_once, response_limit_ms, length(payload), state, reason, deliveries,"
    " deadline_ms, settled_ms FROM outbox "
)
_CHANGE = (
    "UPDATE outbox SET state = ?, reason = ?, deliveries = ?, deadline_ms = ?, touched_ms = ?, settled_ms = ?,"
    " history = history || ',' || ? WHERE position = ?"
)
_SETTLE = _CHANGE.replace("SET ", "SET payload = x'', ")


class Moment(NamedTuple):
    """Now: the wall clock for people and Odoo, the steady clock for deadlines; milliseconds."""

    wall_ms: int
    steady_ms: int


class ClockState(NamedTuple):
    """Where the steady clock stands to the others (:mod:`appliance.services.steady`)."""

    machine: int
    """Which start of the machine this is."""
    base_ms: int
    """Steady minus monotonic clock, during this start."""
    offset_ms: int
    """Wall minus steady clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCommand:
    """A command that was accepted and is to be stored."""

    command_id: str
    device: str
    action: str
    digest: bytes
    payload: bytes
    at_most_once: bool
    expires_in_ms: int
    response_limit_ms: int


@dataclass(slots=True)
class OutboxRow:
    """What decides over a command. A row read in a job is that job's own."""

    position: int
    command_id: str
    device: str
    at_most_once: bool
    response_limit_ms: int
    payload_bytes: int
    state: CommandState
    reason: str | None
    deliveries: int
    deadline_ms: int
    settled_ms: int | None

    @property
    def open(self) -> bool:
        """Whether anything is still awaited."""
        return self.settled_ms is None

    @property
    def undelivered(self) -> bool:
        """Whether it is still to be written to the device, perhaps again."""
        return self.settled_ms is None and self.state in _UNDELIVERED

    @property
    def answered(self) -> bool:
        """Whether the device itself has said how it ended."""
        return self.state == "done" or (self.state == "failed" and self.reason == "device")


class Outcome(NamedTuple):
    """The row after a change; ``changed`` is false if the row did not allow it. ``payload`` after a claim."""

    changed: bool
    row: OutboxRow | None
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class StoredCommand:
    """All that is kept of a command, for status queries. Times are milliseconds since 1970 by the wall clock."""

    command_id: str
    device: str
    action: str
    digest: bytes
    at_most_once: bool
    created_at_ms: int
    expires_in_ms: int
    state: CommandState
    reason: str | None
    deliveries: int
    settled_ms: int | None
    response: bytes | None
    response_bytes: int | None
    history: str


class Work:
    """One job: its connection, and the messages it adds, which are written together when it ends."""

    __slots__ = ("_messages", "connection")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._messages: list[tuple[Any, ...]] = []

    def tell(self, device: str, kind: Kind, payload: bytes, received_at_ms: int) -> None:
        """Add a message for Odoo."""
        crc = checksum(device, int(kind), None, received_at_ms, 0, payload)
        self._messages.append((device, int(kind), None, received_at_ms, 0, None, payload, crc))

    @classmethod
    def do(cls, changes: Sequence[Callable[[Work], T]], connection: sqlite3.Connection) -> list[T]:
        """Make changes, in their order."""
        work = cls(connection)
        outcomes = [change(work) for change in changes]
        if work._messages:
            insert_rows(connection, work._messages, first_seq=last_seq(connection) + 1)
        return outcomes


Change = Callable[[Work], Outcome]


class Outbox:
    """The outbox table of a :class:`Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, changes: Sequence[Change], *, receipt: object = None) -> asyncio.Future[list[Outcome]]:
        """Make changes in one job, in their order; the future has an outcome for each, after the commit.

        ``receipt`` is for the PUBACK of the device's publish that causes them.
        """
        return self._database.submit(partial(Work.do, changes), receipt=receipt)

    async def find(self, command_id: str) -> StoredCommand | None:
        """A command by its id, if it is known (still)."""
        return await self._database.run(lambda connection: _find(connection, command_id))

    async def load(self) -> tuple[list[OutboxRow], ClockState, int]:
        """The open commands in their order, how the steady clock stood, and the latest time it has shown."""
        rows: list[OutboxRow] = []
        while True:
            after = rows[-1].position if rows else 0
            found = await self._database.run(partial(_load, after=after))
            rows += found
            if len(found) < LOAD_ROWS:
                break
        state, latest_ms = await self._database.run(_clock_state)
        return rows, state, latest_ms

    async def prune(self, *, settled_before_ms: int, keep_rows: int) -> bool:
        """Remove a chunk of commands settled before a (steady) time, or above a number; whether more wait."""
        return await self._database.run(lambda connection: _prune(connection, settled_before_ms, keep_rows))


# --- one row: inside a job ----------------------------------------------------------------------------------------


def add_row(work: Work, new: NewCommand, moment: Moment, *, send_now: bool) -> OutboxRow | None:
    """Insert a command, queued or with its first delivery counted; ``None`` if its id is known already."""
    at = rfc3339(moment.wall_ms)
    told = [state_message(new.command_id, "queued", at)]
    if send_now:
        told.append(state_message(new.command_id, "sent", at, delivery=1))
    row = OutboxRow(
        position=0,
        command_id=new.command_id,
        device=new.device,
        at_most_once=new.at_most_once,
        response_limit_ms=new.response_limit_ms,
        payload_bytes=len(new.payload),
        state="sent" if send_now else "queued",
        reason=None,
        deliveries=int(send_now),
        deadline_ms=moment.steady_ms + new.expires_in_ms,
        settled_ms=None,
    )
    cursor = work.connection.execute(
        "INSERT INTO outbox (command_id, device, action, digest, payload, at_most_once, created_at_ms, expires_in_ms,"
        " response_limit_ms, state, deliveries, deadline_ms, touched_ms, history)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (command_id) DO NOTHING",
        (
            new.command_id,
            new.device,
            new.action,
            new.digest,
            new.payload,
            new.at_most_once,
            moment.wall_ms,
            new.expires_in_ms,
            new.response_limit_ms,
            row.state,
            row.deliveries,
            row.deadline_ms,
            moment.steady_ms,
            ",".join(entry for _, entry in told),
        ),
    )
    if not cursor.rowcount:
        return None
    row.position = int(cursor.lastrowid or 0)
    for message, _ in told:
        work.tell(new.device, Kind.COMMAND_STATE, message, moment.wall_ms)
    return row


def change_state(
    work: Work,
    row: OutboxRow,
    state: CommandState,
    moment: Moment,
    *,
    delivery: int | None = None,
    reason: str | None = None,
    settle: bool = False,
    late: bool = False,
) -> None:
    """Write a row with its new state, its history and its message; a settled command needs its payload no more."""
    message, entry = state_message(
        row.command_id, state, rfc3339(moment.wall_ms), delivery=delivery, reason=reason, late=late
    )
    row.state, row.reason = state, reason
    if settle:
        row.settled_ms = moment.steady_ms
    work.connection.execute(
        _SETTLE if settle else _CHANGE,
        (state, reason, row.deliveries, row.deadline_ms, moment.steady_ms, row.settled_ms, entry, row.position),
    )
    work.tell(row.device, Kind.COMMAND_STATE, message, moment.wall_ms)


def settle_unanswered(work: Work, row: OutboxRow, moment: Moment) -> None:
    """Nothing more is awaited, and the state stays what it is: no change that anybody need be told of."""
    row.settled_ms = moment.steady_ms
    work.connection.execute(
        "UPDATE outbox SET settled_ms = ?, touched_ms = ?, payload = x'' WHERE position = ?",
        (moment.steady_ms, moment.steady_ms, row.position),
    )


def move_deadline(work: Work, row: OutboxRow, moment: Moment) -> None:
    """Write ``row.deadline_ms``."""
    work.connection.execute(
        "UPDATE outbox SET deadline_ms = ?, touched_ms = ? WHERE position = ?",
        (row.deadline_ms, moment.steady_ms, row.position),
    )


def record_answer(
    work: Work,
    row: OutboxRow | None,
    device: str,
    payload: bytes,
    received_at_ms: int,
    *,
    has_id: bool,
) -> None:
    """Add the ``COMMAND_RESPONSE`` message, and keep the answer with its command ``row`` if it belongs to one."""
    if row is None:
        payload = _with_key(payload, "matched", False)
    elif not has_id:
        payload = _with_key(payload, "command_id", row.command_id)
    work.tell(device, Kind.COMMAND_RESPONSE, payload, received_at_ms)
    if row is not None:
        kept = payload if len(payload) <= RESPONSE_KEPT_BYTES else None
        work.connection.execute(
            "UPDATE outbox SET response = ?, response_bytes = ? WHERE position = ?", (kept, len(payload), row.position)
        )


def note_clock(work: Work, *, state: ClockState) -> Outcome:
    """Keep where the steady clock stands."""
    for key, value in zip(_CLOCK, state, strict=True):
        set_meta(work.connection, key, value)
    return Outcome(True, None)


def row_at(work: Work, position: int) -> OutboxRow | None:
    """The row at a position."""
    found = work.connection.execute(_SELECT_ROW + "WHERE position = ?", (position,)).fetchone()
    return OutboxRow(*found) if found else None


def row_of(work: Work, command_id: str) -> OutboxRow | None:
    """The row of a command id."""
    found = work.connection.execute(_SELECT_ROW + "WHERE command_id = ?", (command_id,)).fetchone()
    return OutboxRow(*found) if found else None


def oldest_unanswered(work: Work, device: str) -> OutboxRow | None:
    """The oldest open command of a device that was sent."""
    found = work.connection.execute(
        _SELECT_ROW + "WHERE device = ? AND settled_ms IS NULL AND deliveries > 0 ORDER BY position LIMIT 1", (device,)
    ).fetchone()
    return OutboxRow(*found) if found else None


def read_payload(work: Work, position: int) -> bytes:
    """The bytes to send."""
    payload: bytes = work.connection.execute("SELECT payload FROM outbox WHERE position = ?", (position,)).fetchone()[0]
    return payload


def _with_key(payload: bytes, key: str, value: object) -> bytes:
    """A JSON object with one more key; the rest stays as the device wrote it."""
    known: dict[str, Any] = from_json(payload)
    if key in known:
        return to_json({**known, key: value})
    return payload.rstrip()[:-1] + b',"' + key.encode() + b'":' + to_json(value) + b"}"


# --- many rows ----------------------------------------------------------------------------------------------------


def _find(connection: sqlite3.Connection, command_id: str) -> StoredCommand | None:
    found = connection.execute(
        "SELECT command_id, device, action, digest, at_most_once, created_at_ms, expires_in_ms, state, reason,"
        " deliveries, settled_ms, response, response_bytes, history FROM outbox WHERE command_id = ?",
        (command_id,),
    ).fetchone()
    return StoredCommand(*found) if found else None


def _load(connection: sqlite3.Connection, after: int) -> list[OutboxRow]:
    rows = connection.execute(
        _SELECT_ROW + "WHERE settled_ms IS NULL AND position > ? ORDER BY position LIMIT ?", (after, LOAD_ROWS)
    )
    return [OutboxRow(*row) for row in rows.fetchall()]


def _clock_state(connection: sqlite3.Connection) -> tuple[ClockState, int]:
    touched = connection.execute("SELECT max(touched_ms) FROM outbox WHERE settled_ms IS NULL").fetchone()[0]
    settled = connection.execute("SELECT max(settled_ms) FROM outbox WHERE settled_ms IS NOT NULL").fetchone()[0]
    return ClockState(*(get_meta(connection, key) for key in _CLOCK)), max(touched or 0, settled or 0)


def _prune(connection: sqlite3.Connection, settled_before_ms: int, keep_rows: int) -> bool:
    by_age = connection.execute(
        "DELETE FROM outbox WHERE position IN"
        " (SELECT position FROM outbox WHERE settled_ms < ? ORDER BY settled_ms LIMIT ?)",
        (settled_before_ms, PRUNE_ROWS),
    ).rowcount
    by_number = connection.execute(
        "DELETE FROM outbox WHERE position IN (SELECT position FROM outbox WHERE settled_ms IS NOT NULL"
        " ORDER BY settled_ms DESC, position DESC LIMIT ? OFFSET ?)",
        (PRUNE_ROWS, keep_rows),
    ).rowcount
    return max(by_age, by_number) == PRUNE_ROWS
