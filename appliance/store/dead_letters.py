"""What operators do with parked messages: look, send again, remove. Never more than a few rows in one job."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from appliance.contract.odoo import Kind
from appliance.errors import NotRetryableError, UnknownDeadLetterError
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.ledger import count_readings
from appliance.store.messages import READING, checksum, insert_rows
from appliance.store.meta import get_meta, last_seq
from appliance.store.parked import PARKED_BYTES, PARKED_COUNT, ParkedRow, remove, take_off

Change = Callable[[sqlite3.Connection, Sequence[ParkedRow]], None]
SCANNED_ROWS = 2000
"""A job looks through so many rows for those that fit a filter."""
CHANGED_ROWS = 100
CHUNK_BYTES = 256 << 10
"""Of payload, in one job; a single message may be longer."""
WHOLE = 1 << 40
_SHOWN = "id, seq, device, kind, at_ms, received_at_ms, flags, messages, retryable, code, message, parked_at_ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which parked messages: those that fit all that is given, with ``after`` < id ≤ ``up_to``."""

    device: str | None = None
    kind: Kind | None = None
    code: str | None = None
    after: int = 0
    up_to: int | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A parked message and the reason; times are milliseconds since 1970, ``payload`` is JSON."""

    id: int
    seq: int | None
    """Its number as a message; ``None`` where it never was one."""
    device: str
    kind: int
    at_ms: int | None
    received_at_ms: int
    flags: int
    messages: int
    """How many it stands for: more than one where a stretch of them is gone from the file."""
    retryable: int
    code: str
    message: str
    parked_at_ms: int
    payload_bytes: int
    payload: bytes | None
    """``None`` where it was not asked for, or is longer than asked for."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some dead letters, oldest first."""

    letters: list[DeadLetter]
    next: int | None
    """The ``after`` of the next page, if there is one."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What a request for many has done."""

    count: int
    """Rows that were retried or removed."""
    skipped: int
    """Rows that fit the filter and cannot be retried."""
    next: int | None
    """Where to go on (``after``), if there is more."""
    up_to: int
    """The newest row when this began; what is parked later is not touched."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What the list holds."""

    rows: int
    payload_bytes: int


class DeadLetters:
    """The parked messages of a database. All methods raise :class:`appliance.errors.StoreUnavailableError`."""

    def __init__(self, *, database: Database, buffer: Buffer) -> None:
        self._database = database
        self._buffer = buffer

    async def stock(self) -> Stock:
        """How many there are, and the size of their payloads."""
        return await self._database.run(read_stock)

    async def get(self, letter_id: int) -> DeadLetter:
        """One with its whole payload; :class:`UnknownDeadLetterError`."""
        return await self._database.run(lambda connection: _get(connection, letter_id))

    async def page(self, wanted: Filter, *, limit: int, payload_up_to: int = 0) -> Page:
        """At most ``limit``, with payloads of at most ``payload_up_to`` bytes each; about 256 KiB of them in all."""
        newest = await self._bound(wanted)
        letters: list[DeadLetter] = []
        after: int | None = wanted.after
        room = CHUNK_BYTES
        while after is not None and len(letters) < limit and room > 0:
            found, after = await self._scan(
                wanted, after, newest, limit=limit - len(letters), payload_up_to=payload_up_to, room=room
            )
            letters += found
            room -= sum(len(letter.payload or b"") for letter in found)
        while after is not None:
            found, after = await self._scan(wanted, after, newest, limit=1)
            if found:
                return Page(letters, letters[-1].id)
        return Page(letters, None)

    async def export(self, wanted: Filter) -> AsyncIterator[list[DeadLetter]]:
        """All that fit and were there at the beginning, with whole payloads, some at a time."""
        newest = await self._bound(wanted)
        after: int | None = wanted.after
        while after is not None:
            found, after = await self._scan(
                wanted, after, newest, limit=SCANNED_ROWS, payload_up_to=WHOLE, room=CHUNK_BYTES
            )
            if found:
                yield found

    async def _bound(self, wanted: Filter) -> int:
        """The newest row that is meant. What is parked from now on is not: what Odoo refuses once more while many are
        retried comes back with a higher id, and it would go in circles."""
        newest = await self._database.run(_newest)
        return newest if wanted.up_to is None else min(wanted.up_to, newest)

    async def _scan(
        self, wanted: Filter, after: int, newest: int, *, limit: int, payload_up_to: int = 0, room: int = CHUNK_BYTES
    ) -> _Scan:
        return await self._database.run(
            lambda connection: _scan(
                connection, wanted, after, newest, limit=limit, payload_up_to=payload_up_to, room=room
            )
        )

    async def retry(self, letter_id: int) -> int:
        """Send one again; returns its new ``seq``. :class:`UnknownDeadLetterError`, :class:`NotRetryableError`."""

        def job(connection: sqlite3.Connection) -> int:
            letter = _get(connection, letter_id)
            if not letter.retryable:
                raise NotRetryableError(f"this is not a whole message: {letter.message}")
            seq = last_seq(connection) + 1
            self._retry(connection, [_row(letter)])
            return seq

        return await self._database.run(job)

    async def remove(self, letter_id: int) -> None:
        """Remove one for good, and count it; :class:`UnknownDeadLetterError`."""

        def job(connection: sqlite3.Connection) -> None:
            letter = _get(connection, letter_id)
            remove(connection, [_row(letter)], reason="operator", at_ms=self._database.clock.now_ms())

        await self._database.run(job)

    async def retry_many(self, wanted: Filter, *, limit: int, enough: Callable[[], bool] = lambda: False) -> Changed:
        """Send again what fits, at most ``limit`` and in order; each chunk is one transaction.

        ``enough`` is asked between two of them: whoever goes on later finds the place in the answer.
        """
        return await self._change(wanted, limit, self._retry, enough, retrying=True)

    async def remove_many(self, wanted: Filter, *, limit: int, enough: Callable[[], bool] = lambda: False) -> Changed:
        """Remove for good what fits, at most ``limit``, and count it; chunks and ``enough`` as above."""

        def removing(connection: sqlite3.Connection, rows: Sequence[ParkedRow]) -> None:
            remove(connection, rows, reason="operator", at_ms=self._database.clock.now_ms())

        return await self._change(wanted, limit, removing, enough, retrying=False)

    async def _change(
        self, wanted: Filter, limit: int, change: Change, enough: Callable[[], bool], *, retrying: bool
    ) -> Changed:
        newest = await self._bound(wanted)
        done = skipped = 0
        after: int | None = wanted.after
        while after is not None and done + skipped < limit and not enough():
            job = partial(
                _change, wanted, after, newest, min(CHANGED_ROWS, limit - done - skipped), change, retrying=retrying
            )
            changed, left, after = await self._database.run(job)
            done += changed
            skipped += left
        return Changed(done, skipped, after, newest)

    def _retry(self, connection: sqlite3.Connection, rows: Sequence[ParkedRow]) -> None:
        """Parked messages enter as new ones, with their old times: Odoo never stored them (contract, "Exactly once").

        Their ``msg_id`` is not looked at again: it would find the message itself.
        """
        fresh = []
        for row in rows:
            values = connection.execute(
                "SELECT device, kind, at_ms, received_at_ms, flags, payload FROM parked WHERE id = ?", (row.id,)
            ).fetchone()
            *head, payload = values
            fresh.append((*head, None, payload, checksum(*values)))
        insert_rows(connection, fresh, first_seq=last_seq(connection) + 1)
        take_off(connection, rows)
        for row in rows:
            if row.kind == READING:
                # it was received long ago: it only waits again
                count_readings(connection, row.device, parked=-1)
        # last, because it changes memory: these rows are counted here, or a restart would take them for new readings
        self._buffer.before_jobs(connection)


def read_stock(connection: sqlite3.Connection) -> Stock:
    """What the list holds."""
    return Stock(get_meta(connection, PARKED_COUNT), get_meta(connection, PARKED_BYTES))


class _Scan(NamedTuple):
    letters: list[DeadLetter]
    reached: int | None
    """Where to go on (``after``); ``None`` at the end."""


def _scan(
    connection: sqlite3.Connection,
    wanted: Filter,
    after: int,
    newest: int,
    *,
    limit: int,
    payload_up_to: int = 0,
    room: int = CHUNK_BYTES,
    heavy: bool = False,
) -> _Scan:
    """What fits in a stretch of the list. ``heavy``: payloads take ``room`` even where they are not shown."""
    row = connection.execute(
        "SELECT id FROM parked WHERE id > ? AND id <= ? ORDER BY id LIMIT 1 OFFSET ?",
        (after, newest, SCANNED_ROWS - 1),
    ).fetchone()
    end = int(row[0]) if row else newest
    kind = None if wanted.kind is None else int(wanted.kind)
    rows = connection.execute(
        f"SELECT {_SHOWN}, length(payload), CASE WHEN length(payload) <= ? THEN payload END FROM parked"  # noqa: S608
        " WHERE id > ? AND id <= ? AND ifnull(device = ?, TRUE) AND ifnull(kind = ?, TRUE) AND ifnull(code = ?, TRUE)"
        " ORDER BY id",
        (payload_up_to, after, end, wanted.device, kind, wanted.code),
    )
    letters: list[DeadLetter] = []
    try:
        for values in rows:
            if len(letters) >= limit or room <= 0:
                return _Scan(letters, letters[-1].id)
            letter = DeadLetter(*values)
            letters.append(letter)
            room -= letter.payload_bytes if heavy else len(letter.payload or b"")
    finally:
        rows.close()
    return _Scan(letters, end if end < newest else None)


def _change(
    wanted: Filter,
    after: int,
    newest: int,
    limit: int,
    change: Change,
    connection: sqlite3.Connection,
    *,
    retrying: bool,
) -> tuple[int, int, int | None]:
    """Change what fits in a stretch of the list: how many were changed, how many left, where to go on."""
    found, reached = _scan(connection, wanted, after, newest, limit=limit, heavy=True)
    rows = [_row(letter) for letter in found if letter.retryable or not retrying]
    if rows:
        change(connection, rows)
    return len(rows), len(found) - len(rows), reached


def _row(letter: DeadLetter) -> ParkedRow:
    return ParkedRow(letter.id, letter.device, letter.kind, letter.messages, letter.payload_bytes)


def _newest(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT id FROM parked ORDER BY id DESC LIMIT 1").fetchone()
    return int(row[0]) if row else 0


def _get(connection: sqlite3.Connection, letter_id: int) -> DeadLetter:
    row = connection.execute(
        f"SELECT {_SHOWN}, length(payload), payload FROM parked WHERE id = ?",  # noqa: S608
        (letter_id,),
    ).fetchone()
    if row is None:
        raise UnknownDeadLetterError("no parked message has this id; it may have been retried or removed")
    return DeadLetter(*row)
