"""Store and forward: messages wait here, in order of ``seq``, until Odoo has settled them.

The hot path is :meth:`Buffer.append`: one tuple into the writer's queue, and for a whole group one INSERT of many rows.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from appliance.contract.odoo import Kind, StoredMessage
from appliance.store.database import Database, Row
from appliance.store.history import History
from appliance.store.ledger import LedgerLine, count_readings, read_ledger
from appliance.store.messages import READING, Damage, add_message, insert_rows, read_messages
from appliance.store.meta import get_meta, last_seq, set_meta
from appliance.store.parked import PARKED_COUNT, Rejection, park_damage, park_message
from appliance.store.recent_ids import RecentIds, digest
from appliance.store.settled import SettledRanges, runs

__all__ = ["Backlog", "Batch", "Buffer", "Kind", "Rejection", "add_message"]

log = logging.getLogger(__name__)

_DEVICE, _KIND, _MSG_KEY = 0, 1, 5  # of a row as append() makes it
COUNT_AFTER_ROWS = 20_000
"""The ledger on disk lags at most so many rows behind; they are counted again when the file is opened."""
COUNT_AFTER_S = 1.0
IDS_HOLD_UP_BYTES = 32 << 20
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
    """What waits for Odoo and what was parked, after one commit; times are milliseconds since 1970."""

    waiting: int
    parked: int
    oldest_received_at_ms: int | None
    last_seq: int
    settled_up_to: int


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
        self._backlog = self._next_backlog = Backlog(0, 0, None, 0, 0)
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
        # messages.checksum(); a call less, in the hottest line of the product
        crc = crc32(payload, crc32(f"{device} {kind} {at_ms} {received_at_ms} {flags}".encode()))
        self._database.append((device, kind, at_ms, received_at_ms, flags, key, payload, crc, receipt))

    async def take(self, *, after: int = 0, limit: int = 500, max_bytes: int = 1_000_000) -> Batch:
        """The oldest unsettled messages above ``after``; at least one if there is one, whatever its size.

        Messages whose row is damaged or gone are parked on the way.
        """
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
                # the writer sets the number first and looks at the set then
                if self._last_seq <= after:
                    await news
            finally:
                self._news.discard(news)

    def backlog(self) -> Backlog:
        """What waits, from memory."""
        return self._backlog

    async def ledger(self, device: str | None = None) -> list[LedgerLine]:
        """The readings of one device, or of all."""
        return await self._database.run(lambda connection: read_ledger(connection, device))

    def _tell(self) -> None:
        for news in self._news:
            if not news.done():
                news.set_result(None)

    # --- RowSink, in the writer thread -----------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether old rows wait to be removed."""
        return self._history.due

    def write(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Insert a group's rows, without those that repeat a ``msg_id``."""
        if any(row[_MSG_KEY] is not None for row in rows):
            rows = self._without_repeats(connection, rows)
        insert_rows(connection, rows, first_seq=self._last_seq + 1)
        self._uncounted.update([row[_DEVICE] for row in rows if row[_KIND] == READING])

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

    def housekeep(self, connection: sqlite3.Connection, *, pressed: bool) -> bool:
        """Bring the ledger up to date now and then, and remove what need not be kept."""
        now = self._database.clock.monotonic()
        newest = last_seq(connection)
        if pressed or newest - self._counted_seq >= COUNT_AFTER_ROWS or now - self._counted_at >= COUNT_AFTER_S:
            self._counted_at = now
            self._count_up(connection)
            bound = min(self._settled.up_to, self._counted_seq)
            self._history.plan(connection, bound=bound, newest=newest, pressed=pressed)
            self._keep_ids(connection, newest, pressed=pressed)
        removes = self._history.due
        if removes:
            self._history.remove_chunk(connection)
        self._look(connection, newest)
        return removes

    def _keep_ids(self, connection: sqlite3.Connection, newest: int, *, pressed: bool) -> None:
        """Rows whose message ids are written nowhere else must stay; write the ids if that holds up too much."""
        behind = self._history.up_to - self._ids_written_up_to
        if behind <= 0:
            return
        if pressed or behind * self._history.row_bytes > IDS_HOLD_UP_BYTES:
            self._write_ids(connection, newest, through=self._history.up_to)
        self._history.up_to = min(self._history.up_to, self._ids_written_up_to)

    def _look(self, connection: sqlite3.Connection, newest: int) -> None:
        """What is to be told after the commit; nothing can be read any more then."""
        waiting = self._counted_waiting + newest - self._counted_seq
        if self._had_jobs:
            self._had_jobs = False
            self._parked = get_meta(connection, PARKED_COUNT)
        if self._oldest_waiting_ms is None and waiting:
            self._oldest_waiting_ms = self._received_at(connection, self._floor(newest))
        oldest = self._oldest_waiting_ms if waiting else None
        self._next_backlog = Backlog(waiting, self._parked, oldest, newest, self._settled.up_to)

    def committed(self) -> None:
        """Tell who waits for messages."""
        self._backlog = backlog = self._next_backlog
        if backlog.last_seq != self._last_seq:
            self._last_seq = backlog.last_seq
            if self._news:
                self._database.call_on_loop(self._tell)

    def undone(self, connection: sqlite3.Connection) -> None:
        """What memory holds of the file is that of a transaction that was rolled back."""
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
        self._uncounted = Counter(_readings(connection, self._counted_seq + 1, self._last_seq))
        self._recent.restore(connection, self._ids_written_up_to)
        self._history.restore(connection)
        self._had_jobs = True
        self._oldest_waiting_ms = None

    # --- counting: in the transaction of what is counted ------------------------------------------------------

    def _floor(self, newest: int) -> int:
        return next((first for first, _ in self._settled.gaps(1, newest)), newest + 1)

    def _count_up(self, connection: sqlite3.Connection) -> None:
        """Move the ledger on to the newest row, those of this very transaction included."""
        newest = last_seq(connection)
        self._write_ids(connection, newest)
        if newest == self._counted_seq:
            return
        for device, readings in self._uncounted.items():
            count_readings(connection, device, received=readings)
        self._uncounted.clear()
        self._counted_waiting += newest - self._counted_seq
        self._counted_seq = newest
        set_meta(connection, "counted_seq", newest)
        set_meta(connection, "counted_waiting", self._counted_waiting)

    def _write_ids(self, connection: sqlite3.Connection, newest: int, *, through: int = 0) -> None:
        written = self._recent.write(connection, newest, through=through)
        if written != self._ids_written_up_to:
            set_meta(connection, "ids_written_up_to", written)
            self._ids_written_up_to = written

    # --- sending and settling --------------------------------------------------------------------------------

    def _take(self, connection: sqlite3.Connection, after: int, limit: int, max_bytes: int) -> Batch:
        messages: list[StoredMessage] = []
        damages: list[Damage] = []
        room = max_bytes
        for first, last in self._settled.gaps(after + 1, self._counted_seq):
            for message in read_messages(connection, first, last):
                if isinstance(message, Damage):
                    damages.append(message)
                    continue
                room -= len(message.payload) + ROW_OVERHEAD_BYTES
                if messages and room < 0:
                    break
                messages.append(message)
                if len(messages) >= limit:
                    break
            if room < 0 or len(messages) >= limit:
                break
        self._park_damages(connection, damages)
        return Batch(messages, self._floor(self._counted_seq), self._confirmed, self._database.epoch)

    def _park_damages(self, connection: sqlite3.Connection, damages: Sequence[Damage]) -> None:
        if not damages:
            return
        settled = self._settled.copy()
        for damage in damages:
            log.error("messages %d to %d cannot be sent, they are %s", damage.first, damage.last, damage.code)
            park_damage(connection, damage, at_ms=self._database.clock.now_ms())
            settled.add(damage.first, damage.last)
        self._save(connection, settled, sum(damage.last - damage.first + 1 for damage in damages), self._confirmed)

    def _settle(self, connection: sqlite3.Connection, done: Sequence[int], parked: Sequence[Rejection]) -> None:
        settled = self._settled.copy()
        # a refused message leaves no receipt at Odoo, so it must not raise what we say Odoo has confirmed
        confirmed = max((seq for seq in done if seq <= self._counted_seq), default=0)
        fresh = 0
        for rejection in parked:
            if 0 < rejection.seq <= self._counted_seq and settled.add(rejection.seq, rejection.seq):
                fresh += 1
                park_message(connection, rejection, at_ms=self._database.clock.now_ms())
        for first, last in runs(seq for seq in done if 0 < seq <= self._counted_seq):
            for low, high in settled.add(first, last):
                fresh += high - low + 1
                for device, readings in _readings(connection, low, high).items():
                    count_readings(connection, device, stored=readings)
        self._save(connection, settled, fresh, max(self._confirmed, confirmed))

    def _save(self, connection: sqlite3.Connection, settled: SettledRanges, fresh: int, confirmed: int) -> None:
        settled.save(connection)
        set_meta(connection, "counted_waiting", self._counted_waiting - fresh)
        set_meta(connection, "confirmed", confirmed)
        # memory last: what raises before here is undone in the file alone
        self._counted_waiting -= fresh
        self._confirmed = confirmed
        self._settled = settled
        self._oldest_waiting_ms = None

    @staticmethod
    def _received_at(connection: sqlite3.Connection, seq: int) -> int | None:
        row = connection.execute(
            "SELECT received_at_ms FROM messages WHERE seq >= ? ORDER BY seq LIMIT 1", (seq,)
        ).fetchone()
        return row[0] if row else None


def _readings(connection: sqlite3.Connection, first: int, last: int) -> dict[str, int]:
    """How many readings of each device stand between two numbers."""
    rows = connection.execute(
        "SELECT device, count(*) FROM messages WHERE seq BETWEEN ? AND ? AND kind = ? AND typeof(device) = 'text'"
        " GROUP BY device",
        (first, last, READING),
    )
    return dict(rows.fetchall())
