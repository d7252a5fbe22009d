"""Store and forward: messages wait here, in order of ``seq``, until Odoo has settled them.

The hot path is :meth:`Buffer.append`: one tuple into the writer's queue, and for a whole group one INSERT of many rows.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple
from zlib import crc32

from appliance.contract.device import Reading
from appliance.contract.odoo import Kind
from appliance.store.database import Database, Row
from appliance.store.epochs import EpochStand
from appliance.store.history import History
from appliance.store.ledger import LedgerLine, count_readings, read_ledger
from appliance.store.messages import READING, add_message, checksum, insert_readings, insert_rows
from appliance.store.meta import get_meta, last_seq, set_meta
from appliance.store.outgoing import Batch, Outgoing, Wanted, readings
from appliance.store.parked import PARKED_COUNT, Rejection
from appliance.store.recent_ids import RecentIds, digest

__all__ = ["Backlog", "Batch", "Buffer", "EpochStand", "Kind", "Rejection", "Resent", "Wanted", "add_message"]

log = logging.getLogger(__name__)

_DEVICE, _KIND, _MSG_KEY = 0, 1, 5  # of a row as append() makes it
COUNT_AFTER_ROWS = 20_000
"""The ledger on disk lags at most so many rows behind; they are counted again when the file is opened."""
COUNT_AFTER_S = 1.0
IDS_HOLD_UP_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for Odoo and what was parked, after one commit; times are milliseconds since 1970."""

    waiting: int
    parked: int
    oldest_received_at_ms: int | None
    last_seq: int
    settled_up_to: int
    settled_ranges: int = 0
    """Into how many intervals what is settled falls apart."""
    last_ordered_seq: int = 0
    """The newest message that waits and is no telemetry (0: there is none)."""


class Resent(NamedTuple):
    """What :meth:`Buffer.resend` did."""

    rows: int
    """So many messages wait again."""
    missing: int
    """So many that Odoo had confirmed are not kept any more."""


class Buffer:
    """The messages of a :class:`Database`. Call :meth:`load` before the first one."""

    def __init__(
        self, database: Database, *, keep_settled_s: float = 86_400, keep_settled_bytes: int = 256 << 20
    ) -> None:
        self._database = database
        self._history = History(keep_s=keep_settled_s, keep_bytes=keep_settled_bytes, clock=database.clock)
        self._recent = RecentIds()
        self._outgoing = Outgoing(history=self._history, clock=database.clock)
        self._last_seq = 0
        self._counted_at = 0.0
        self._ids_written_up_to = 0
        self._uncounted: Counter[str] = Counter()
        self._parked = 0
        self._last_ordered = 0
        self._had_jobs = False
        self._oldest_waiting_ms: int | None = None
        self._backlog = self._next_backlog = Backlog(0, 0, None, 0, 0)
        self._stands: list[EpochStand] = []
        self._next_stands: list[EpochStand] = []
        self._stands_of = -1
        self._news: set[asyncio.Future[None]] = set()
        self.in_flight = asyncio.Lock()
        """Held while messages are on their way to Odoo: none of them changes its name meanwhile, or waits again."""
        self.generation = 0
        """Counts up when messages were unsettled or renamed: what was taken before must be taken anew."""

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

    def append_readings(
        self, device: str, readings: Sequence[Reading], *, received_at_ms: int, flags: int, receipt: object
    ) -> None:
        """Store the readings of one payload, all in one transaction; ``flags`` come on top of their own."""
        rows: list[Row] = []
        for reading in readings:
            payload, at_ms, both = reading.payload, reading.at_ms, reading.flags | flags
            key = None if reading.msg_id is None else digest(reading.msg_id)
            crc = checksum(device, READING, at_ms, received_at_ms, both, payload)
            rows.append((device, READING, at_ms, received_at_ms, both, key, payload, crc, None))
        rows[-1] = (*rows[-1][:-1], receipt)
        self._database.append_together(rows)

    async def take(
        self,
        *,
        after: int = 0,
        up_to: int | None = None,
        limit: int = 500,
        max_bytes: int = 1_000_000,
        readings_only: bool = False,
    ) -> Batch:
        """The oldest unsettled messages with ``after`` < seq ≤ ``up_to``, all of one epoch.

        At least one if there is one, whatever its size; but where ``readings_only`` are wanted, and thousands of other
        messages come first, perhaps none: go on behind :attr:`Batch.reached`. Messages whose row is damaged or gone are
        parked on the way.
        """
        wanted = Wanted(after, up_to, limit, max_bytes, readings_only)
        return await self._database.run(lambda connection: self._outgoing.take(connection, wanted))

    async def take_ordered(self, *, after: int = 0, limit: int = 500, max_bytes: int = 1_000_000) -> Batch:
        """The same for all kinds but telemetry, without looking at the readings among them."""
        wanted = Wanted(after, None, limit, max_bytes)
        return await self._database.run(lambda connection: self._outgoing.take_ordered(connection, wanted))

    async def settle(self, done: Sequence[int], parked: Sequence[Rejection] = ()) -> None:
        """Odoo has ``done`` for good; ``parked`` moves to the list that says why not. One transaction."""
        await self._database.run(lambda connection: self._outgoing.settle(connection, done, parked))

    def epochs(self) -> list[EpochStand]:
        """Where the messages of each epoch stand, from memory; the present epoch first."""
        present, *earlier = self._stands
        return [replace(present, last_seq=self._backlog.last_seq), *earlier]

    async def resend(self, epoch: str, from_seq: int, *, below: int | None = None) -> Resent:
        """Odoo has forgotten what it had of this epoch from ``from_seq`` on: all of it that is kept waits again.

        ``from_seq`` is Odoo's floor: its highest number may be that of a live reading, with a backlog lost below it.
        ``below`` is how many it has below that, if it says so. What was parked stays so, and what Odoo still has it
        will answer with ``duplicate``. Waits until nothing is on its way. Done in many small transactions; if it is
        broken off, what it has done is right, and the same call does the rest.
        """
        async with self.in_flight:
            rows, missing = 0, 0
            go_on: int | None = max(from_seq, 1)
            first = True
            while go_on is not None:
                job = partial(self._resend, epoch=epoch, from_seq=go_on, begin=first, below=below)
                some, lost, go_on = await self._database.run(job)
                self._changed()
                rows, missing, first = rows + some, missing + lost, False
        log.warning("%d messages are sent to Odoo again, %d are not kept any more", rows, missing)
        return Resent(rows, missing)

    async def renew_epoch(self, first_seq: int) -> str:
        """Messages from ``first_seq`` on that Odoo has not confirmed, and all to come, get a new epoch; returns it.

        Waits until nothing is on its way. :class:`StoreUnavailableError` if messages of too many epochs wait.
        """
        async with self.in_flight:
            epoch = await self._database.run(lambda connection: self._outgoing.renew(connection, first_seq))
            self._database.epoch = epoch
            self._changed()
        log.warning("messages from %d on have a new epoch, %s", first_seq, epoch)
        return epoch

    async def wait_for_messages(self, after: int) -> None:
        """Return as soon as a message above ``after`` is committed, or old ones wait again."""
        generation = self.generation
        while self._last_seq <= after and self.generation == generation:
            news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._news.add(news)
            try:
                # the writer sets the number first and looks at the set then
                if self._last_seq <= after:
                    await news
            finally:
                self._news.discard(news)

    def _changed(self) -> None:
        self.generation += 1
        self._tell()

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
        devices = [row[_DEVICE] for row in rows if row[_KIND] == READING]
        insert = insert_readings if len(devices) == len(rows) else insert_rows
        insert(connection, rows, first_seq=self._last_seq + 1)
        self._uncounted.update(devices)
        if insert is insert_rows:
            self._had_jobs = True

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
        if (
            pressed
            or newest - self._outgoing.counted_seq >= COUNT_AFTER_ROWS
            or now - self._counted_at >= COUNT_AFTER_S
        ):
            self._counted_at = now
            self._count_up(connection)
            bound = min(self._outgoing.settled.up_to, self._outgoing.counted_seq)
            self._history.plan(connection, bound=bound, newest=newest, pressed=pressed)
            self._keep_ids(connection, newest, pressed=pressed)
        removes = self._history.due
        if removes:
            self._history.remove_chunk(connection)
            self._outgoing.drop_epochs(connection)
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
        outgoing = self._outgoing
        waiting = outgoing.waiting + newest - outgoing.counted_seq
        if self._had_jobs:
            self._had_jobs = False
            self._parked = get_meta(connection, PARKED_COUNT)
            row = connection.execute("SELECT seq FROM ordered ORDER BY seq DESC LIMIT 1").fetchone()
            self._last_ordered = row[0] if row else 0
        if self._stands_of != outgoing.changes:
            self._stands_of = outgoing.changes
            self._next_stands = outgoing.stands(newest)
            self._oldest_waiting_ms = None
        if self._oldest_waiting_ms is None and waiting:
            self._oldest_waiting_ms = self._received_at(connection, outgoing.floor(newest))
        oldest = self._oldest_waiting_ms if waiting else None
        settled = outgoing.settled
        self._next_backlog = Backlog(
            waiting, self._parked, oldest, newest, settled.up_to, len(settled), self._last_ordered
        )

    def committed(self) -> None:
        """Tell who waits for messages."""
        self._backlog = backlog = self._next_backlog
        self._stands = self._next_stands
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
        self._outgoing.restore(connection)
        self._ids_written_up_to = get_meta(connection, "ids_written_up_to")
        self._uncounted = Counter(readings(connection, self._outgoing.counted_seq + 1, self._last_seq))
        self._recent.restore(connection, self._ids_written_up_to)
        self._history.restore(connection)
        self._had_jobs = True

    # --- counting: in the transaction of what is counted ------------------------------------------------------

    def _count_up(self, connection: sqlite3.Connection) -> None:
        """Move the ledger on to the newest row, those of this very transaction included."""
        newest = last_seq(connection)
        self._write_ids(connection, newest)
        if newest == self._outgoing.counted_seq:
            return
        for device, count in self._uncounted.items():
            count_readings(connection, device, received=count)
        self._uncounted.clear()
        self._outgoing.count_up(connection, newest)

    def _write_ids(self, connection: sqlite3.Connection, newest: int, *, through: int = 0) -> None:
        written = self._recent.write(connection, newest, through=through)
        if written != self._ids_written_up_to:
            set_meta(connection, "ids_written_up_to", written)
            self._ids_written_up_to = written

    def handed_over(self, connection: sqlite3.Connection, device: str) -> None:
        """In the writer thread, last in a job: this device id belongs to another machine from here on."""
        self._recent.forget(connection, device, self._ids_written_up_to)

    def _resend(
        self, connection: sqlite3.Connection, *, epoch: str, from_seq: int, begin: bool, below: int | None = None
    ) -> tuple[int, int, int | None]:
        if epoch not in self._outgoing.epochs:
            return 0, 0, None
        missing = self._outgoing.begin_resend(connection, epoch, from_seq) if begin else 0
        rows, go_on = self._outgoing.resend(connection, epoch, from_seq, below)
        return rows, missing, go_on

    @staticmethod
    def _received_at(connection: sqlite3.Connection, seq: int) -> int | None:
        row = connection.execute(
            "SELECT received_at_ms FROM messages WHERE seq >= ? ORDER BY seq LIMIT 1", (seq,)
        ).fetchone()
        return row[0] if row else None
