"""Store and forward: messages wait here, in order of ``seq``, until Odoo has settled them.

The hot path is :meth:`Buffer.append`: one tuple into the writer's queue, and for a whole group one INSERT of many rows.
(Python's sqlite3 gives up the interpreter lock at every step of a statement, and a busy event loop takes its time to
give it back: a statement per row would be many times slower under load.)
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from zlib import crc32

from appliance.contract.odoo import Kind, StoredMessage
from appliance.store.database import Database, Row
from appliance.store.history import History
from appliance.store.ledger import LedgerLine, count_readings, read_ledger
from appliance.store.meta import get_meta, last_seq, set_meta
from appliance.store.parked import PARKED_COUNT, Rejection, park_message
from appliance.store.recent_ids import RecentIds, digest
from appliance.store.settled import SettledRanges, runs

__all__ = ["Backlog", "Batch", "Buffer", "Rejection", "add_message"]

_TELEMETRY = int(Kind.TELEMETRY)
_DEVICE, _KIND, _MSG_KEY, _COLUMNS = 0, 1, 5, 8  # of a row as append() makes it
_CHUNKS = tuple(1 << power for power in range(8, -1, -1))
_INSERT = "INSERT INTO messages (device, kind, at_ms, received_at_ms, flags, msg_key, payload, crc) VALUES "
_INSERTS = {size: _INSERT + ",".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * size) for size in _CHUNKS}
COUNT_AFTER_ROWS = 20_000
"""The ledger on disk lags at most so many rows behind; they are counted again when the file is opened."""
COUNT_AFTER_S = 1.0
ROW_OVERHEAD_BYTES = 48


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages to send, and what Odoo is told about the sequence (contract, "Exactly once")."""

    messages: list[StoredMessage]
    floor: int
    """The lowest ``seq`` that may still be sent."""
    settled: int
    """The highest ``seq`` that Odoo has confirmed."""
    epoch: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for Odoo and what was parked; times are milliseconds since 1970."""

    waiting: int
    parked: int
    oldest_received_at_ms: int | None
    last_seq: int
    settled_up_to: int


def _crc(device: str, kind: int, at_ms: int | None, received_at_ms: int, flags: int, payload: bytes) -> int:
    return crc32(payload, crc32(f"{device} {kind} {at_ms} {received_at_ms} {flags}".encode()))


class Buffer:
    """The messages of a :class:`Database`. Call :meth:`load` before the first one."""

    def __init__(
        self, database: Database, *, keep_settled_s: float = 86_400, keep_settled_bytes: int = 256 << 20
    ) -> None:
        self._database = database
        self._history = History(keep_s=keep_settled_s, keep_bytes=keep_settled_bytes, clock=database.clock)
        self._recent = RecentIds()
        self._settled = SettledRanges()
        self._last_seq = 0
        self._counted_seq = 0
        self._counted_waiting = 0
        self._counted_at = 0.0
        self._ids_written_up_to = 0
        self._uncounted: Counter[str] = Counter()
        self._confirmed = 0
        self._parked = 0
        self._had_jobs = False
        self._oldest_waiting_ms: int | None = None
        self._news: set[asyncio.Future[None]] = set()

    async def load(self) -> None:
        """Read where the sequence stands; takes the same time at any backlog."""
        await self._database.run(self._start)

    # --- on the event loop -----------------------------------------------------------------------------------

    def append(
        self,
        device: str,
        kind: int,
        payload: bytes,
        *,
        received_at_ms: int,
        at_ms: int | None = None,
        flags: int = 0,
        msg_id: str | None = None,
        receipt: object = None,
    ) -> None:
        """Store a message; ``receipt`` is handed back by the database after the commit.

        ``payload`` must be valid JSON. A repeat of one of the device's last 1,000 ``msg_id`` is counted, not stored.
        """
        kind = int(kind)
        key = None if msg_id is None else digest(msg_id)
        # the checksum as in _crc(); a call less, in the hottest line of the product
        crc = crc32(payload, crc32(f"{device} {kind} {at_ms} {received_at_ms} {flags}".encode()))
        self._database.append((device, kind, at_ms, received_at_ms, flags, key, payload, crc, receipt))

    async def take(self, *, after: int = 0, limit: int = 500, max_bytes: int = 1_000_000) -> Batch:
        """The oldest unsettled messages above ``after``; at least one if there is one, whatever its size."""
        return await self._database.run(lambda connection: self._take(connection, after, limit, max_bytes))

    async def settle(self, done: Sequence[int], parked: Sequence[Rejection] = ()) -> None:
        """Odoo has ``done`` for good; ``parked`` moves to the list that says why not. One transaction."""
        await self._database.run(lambda connection: self._settle(connection, done, parked))

    async def wait_for_messages(self, after: int) -> None:
        """Return as soon as a message above ``after`` is committed."""
        while self._last_seq <= after:
            news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._news.add(news)
            try:
                if self._last_seq <= after:
                    await news
            finally:
                self._news.discard(news)

    def backlog(self) -> Backlog:
        """What waits, from memory."""
        waiting = self._waiting
        return Backlog(
            waiting=waiting,
            parked=self._parked,
            oldest_received_at_ms=self._oldest_waiting_ms if waiting else None,
            last_seq=self._last_seq,
            settled_up_to=self._settled.up_to,
        )

    async def ledger(self, device: str | None = None) -> list[LedgerLine]:
        """The readings of one device, or of all."""
        return await self._database.run(lambda connection: read_ledger(connection, device))

    def _tell(self) -> None:
        for news in self._news:
            if not news.done():
                news.set_result(None)

    # --- RowSink, in the writer thread -----------------------------------------------------------------------

    def write(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Insert a group's rows, without those that repeat a ``msg_id``."""
        if any(row[_MSG_KEY] is not None for row in rows):
            rows = self._without_repeats(connection, rows)
        position, count = 0, len(rows)
        for size in _CHUNKS:
            while count - position >= size:
                part = [row[:_COLUMNS] for row in rows[position : position + size]]
                position += size
                connection.execute(_INSERTS[size], tuple(chain.from_iterable(part)))
        self._uncounted.update([row[_DEVICE] for row in rows if row[_KIND] == _TELEMETRY])

    def _without_repeats(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Row]:
        fresh: list[Row] = []
        repeats: Counter[str] = Counter()
        for row in rows:
            device, key = row[_DEVICE], row[_MSG_KEY]
            seq = self._last_seq + len(fresh) + 1
            if key is not None and self._recent.is_repeat(connection, device, key, seq):
                repeats[device] += 1
            else:
                fresh.append(row)
        for device, count in repeats.items():
            count_readings(connection, device, repeated=count)
        return fresh

    def before_jobs(self, connection: sqlite3.Connection) -> None:
        """Jobs find a ledger that counts every row before them."""
        self._count_up(connection)
        self._had_jobs = True

    def housekeep(self, connection: sqlite3.Connection) -> None:
        """Bring the ledger up to date now and then, and remove what need not be kept."""
        now = self._database.clock.monotonic()
        uncounted = self._last_seq - self._counted_seq
        if uncounted >= COUNT_AFTER_ROWS or now - self._counted_at >= COUNT_AFTER_S:
            self._counted_at = now
            self._count_up(connection)
            bound = min(self._settled.up_to, self._counted_seq, self._ids_written_up_to)
            self._history.plan(connection, bound=bound, last_seq=self._counted_seq)
        if self._history.due:
            self._history.remove_chunk(connection)

    def committed(self, connection: sqlite3.Connection) -> None:
        """Remember where the sequence stands on disk, and tell who waits for messages."""
        newest = last_seq(connection)
        if newest != self._last_seq:
            self._last_seq = newest
            if self._news:
                self._database.call_on_loop(self._tell)
        if self._had_jobs:
            self._had_jobs = False
            self._parked = get_meta(connection, PARKED_COUNT)
        if self._oldest_waiting_ms is None and self._waiting:
            self._oldest_waiting_ms = self._received_at(connection, self._floor())

    def undone(self, connection: sqlite3.Connection) -> None:
        """A commit failed and nobody knows whether it reached the disk. None of it was acknowledged: remove it."""
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM messages WHERE seq > ?", (self._last_seq,))
        connection.execute("UPDATE sqlite_sequence SET seq = min(seq, ?) WHERE name = 'messages'", (self._last_seq,))
        connection.execute("COMMIT")
        self._restore(connection)

    def _start(self, connection: sqlite3.Connection) -> None:
        self._restore(connection)
        # only now: the writer would otherwise count on from zero, in this very transaction
        self._database.attach(self)

    def _restore(self, connection: sqlite3.Connection) -> None:
        self._last_seq = last_seq(connection)
        self._settled = SettledRanges.load(connection)
        self._counted_seq = get_meta(connection, "counted_seq")
        self._counted_waiting = get_meta(connection, "counted_waiting")
        self._ids_written_up_to = get_meta(connection, "ids_written_up_to")
        self._confirmed = get_meta(connection, "confirmed")
        self._parked = get_meta(connection, PARKED_COUNT)
        rows = connection.execute(
            "SELECT device, count(*) FROM messages WHERE seq > ? AND kind = ? GROUP BY device",
            (self._counted_seq, _TELEMETRY),
        )
        self._uncounted = Counter(dict(rows.fetchall()))
        self._recent.restore(connection, self._ids_written_up_to)
        oldest = connection.execute("SELECT seq FROM messages ORDER BY seq LIMIT 1").fetchone()
        self._history.restore(oldest[0] if oldest else self._last_seq + 1)
        self._oldest_waiting_ms = None

    # --- counting: in the transaction of what is counted ------------------------------------------------------

    @property
    def _waiting(self) -> int:
        return self._counted_waiting + self._last_seq - self._counted_seq

    def _floor(self) -> int:
        return next((first for first, _ in self._settled.gaps(1, self._last_seq)), self._last_seq + 1)

    def _count_up(self, connection: sqlite3.Connection) -> None:
        """Move the ledger on to the newest row, those of this very transaction included."""
        newest = last_seq(connection)
        written = self._recent.write(connection, newest)
        if written != self._ids_written_up_to:
            set_meta(connection, "ids_written_up_to", written)
            self._ids_written_up_to = written
        if newest == self._counted_seq:
            return
        for device, readings in self._uncounted.items():
            count_readings(connection, device, received=readings)
        self._uncounted.clear()
        self._counted_waiting += newest - self._counted_seq
        self._counted_seq = newest
        set_meta(connection, "counted_seq", newest)
        set_meta(connection, "counted_waiting", self._counted_waiting)

    # --- sending and settling --------------------------------------------------------------------------------

    def _take(self, connection: sqlite3.Connection, after: int, limit: int, max_bytes: int) -> Batch:
        messages: list[StoredMessage] = []
        damaged: list[Rejection] = []
        room = max_bytes
        for first, last in self._settled.gaps(after + 1, self._counted_seq):
            rows = connection.execute(
                "SELECT seq, device, kind, at_ms, received_at_ms, flags, payload, crc FROM messages"
                " WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
                (first, last, limit - len(messages)),
            )
            for seq, device, kind, at_ms, received_at_ms, flags, payload, crc in rows:
                if _crc(device, kind, at_ms, received_at_ms, flags, payload) != crc:
                    damaged.append(Rejection(seq, "damaged", "the stored row does not match its checksum"))
                    continue
                room -= len(payload) + ROW_OVERHEAD_BYTES
                if messages and room < 0:
                    break
                messages.append(StoredMessage(seq, device, Kind(kind), at_ms, received_at_ms, flags, payload))
            if room < 0 or len(messages) >= limit:
                break
        if damaged:
            self._settle(connection, (), damaged)
        return Batch(messages, self._floor(), self._confirmed, self._database.epoch)

    def _settle(self, connection: sqlite3.Connection, done: Sequence[int], parked: Sequence[Rejection]) -> None:
        settled = self._settled.copy()
        # a refused message leaves no receipt at Odoo, so it must not raise what we say Odoo has confirmed
        confirmed = max((seq for seq in done if seq <= self._counted_seq), default=0)
        confirmed = max(self._confirmed, confirmed)
        fresh = 0
        for rejection in parked:
            if rejection.seq <= self._counted_seq and settled.add(rejection.seq, rejection.seq):
                fresh += 1
                park_message(connection, rejection, at_ms=self._database.clock.now_ms())
        for first, last in runs(seq for seq in done if 0 < seq <= self._counted_seq):
            for low, high in settled.add(first, last):
                fresh += high - low + 1
                self._count_stored(connection, low, high)
        settled.save(connection)
        set_meta(connection, "counted_waiting", self._counted_waiting - fresh)
        set_meta(connection, "confirmed", confirmed)
        self._counted_waiting -= fresh
        self._confirmed = confirmed
        self._settled = settled
        self._oldest_waiting_ms = None

    def _count_stored(self, connection: sqlite3.Connection, first: int, last: int) -> None:
        rows = connection.execute(
            "SELECT device, count(*) FROM messages WHERE seq BETWEEN ? AND ? AND kind = ? GROUP BY device",
            (first, last, _TELEMETRY),
        )
        for device, readings in rows.fetchall():
            count_readings(connection, device, stored=readings)

    @staticmethod
    def _received_at(connection: sqlite3.Connection, seq: int) -> int | None:
        row = connection.execute(
            "SELECT received_at_ms FROM messages WHERE seq >= ? ORDER BY seq LIMIT 1", (seq,)
        ).fetchone()
        return row[0] if row else None


def add_message(
    connection: sqlite3.Connection,
    *,
    device: str,
    kind: Kind,
    payload: bytes,
    received_at_ms: int,
    at_ms: int | None = None,
    flags: int = 0,
) -> int:
    """Insert one message inside a job, with what it tells of; never telemetry. Returns its ``seq``."""
    crc = _crc(device, int(kind), at_ms, received_at_ms, flags, payload)
    row = (device, int(kind), at_ms, received_at_ms, flags, None, payload, crc)
    return int(connection.execute(_INSERTS[1], row).lastrowid or 0)
