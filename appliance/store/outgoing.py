"""What goes to Odoo and what has gone: taking messages, settling them, and unsettling them for an Odoo that forgot.

All of it runs in the writer thread, inside its transactions; :class:`appliance.store.buffer.Buffer` hands it the jobs.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from uuid import uuid4

from appliance.contract.odoo import Kind, StoredMessage
from appliance.contract.times import Clock
from appliance.errors import StoreUnavailableError
from appliance.store.epochs import MOST_EPOCHS, Epochs, EpochStand
from appliance.store.history import History
from appliance.store.ledger import count_readings
from appliance.store.messages import READING, Damage, read_messages
from appliance.store.meta import get_meta, set_meta
from appliance.store.parked import Rejection, park_damage, park_message
from appliance.store.settled import SettledRanges, runs
from appliance.store.unstored import count_unstored, note_unstored, stored_parts, unstored_at

log = logging.getLogger(__name__)

ROW_OVERHEAD_BYTES = 48
SCANNED_ROWS = 5000
"""Rows that a job looks at without finding what is wanted; about 10 ms."""
UNSETTLED_ROWS = 4000
"""Rows that one job unsettles; about 5 ms."""
INTERVAL_COST = 10
"""What each interval of them costs, in rows."""
LOOKED_AT = 100
"""Steps back in search of a number that Odoo has."""

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of one epoch to send, and what Odoo is told about it (contract, "Exactly once")."""

    messages: list[StoredMessage]
    floor: int
    """The lowest ``seq`` of this epoch that may still be sent."""
    settled: int
    """The highest ``seq`` of this epoch that Odoo has confirmed."""
    stored: int
    """How many messages of this epoch it has confirmed."""
    below: int
    """How many of these are below the floor."""
    epoch: str
    reached: int
    """All that was asked for up to this ``seq`` is in here, or was before: go on behind it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages to take: unsettled ones with ``after`` < seq ≤ ``up_to``, at least one if there is one."""

    after: int = 0
    up_to: int | None = None
    limit: int = 500
    max_bytes: int = 1_000_000
    readings_only: bool = False


class Outgoing:
    """Which messages wait, and which Odoo has."""

    def __init__(self, *, history: History, clock: Clock) -> None:
        self._history = history
        self._clock = clock
        self.settled = SettledRanges()
        self.epochs = Epochs()
        self.counted_seq = 0
        """Rows up to here are in the ledger on disk, and may be sent."""
        self.waiting = 0
        """Messages up to there that are not settled."""
        self._above: dict[str, int] = {}
        """How many messages of each epoch Odoo has above the epoch's floor; left out: none."""
        self.changes = 0
        """Counts up with everything that :meth:`stands` tells, but for new messages."""

    def restore(self, connection: sqlite3.Connection) -> None:
        """Read from the file where it stands."""
        self.settled = SettledRanges.load(connection)
        self.epochs = Epochs.load(connection)
        self.counted_seq = get_meta(connection, "counted_seq")
        self.waiting = get_meta(connection, "counted_waiting")
        self._above = self._count_above(connection, self.settled, self.epochs)
        self.changes += 1

    def count_up(self, connection: sqlite3.Connection, newest: int) -> None:
        """The ledger counts all rows up to the newest one now."""
        self.waiting += newest - self.counted_seq
        self.counted_seq = newest
        set_meta(connection, "counted_seq", newest)
        set_meta(connection, "counted_waiting", self.waiting)

    def floor(self, newest: int) -> int:
        """The lowest number that is not settled."""
        return next((first for first, _ in self.settled.gaps(1, newest)), newest + 1)

    def stands(self, newest: int) -> list[EpochStand]:
        """Of all epochs, the present one first."""
        return [self._stand(epoch, newest) for epoch in self.epochs.names()]

    def _stand(self, epoch: str, newest: int) -> EpochStand:
        parts = list(self.epochs.parts(epoch, newest))
        below = max(self.epochs.confirmed(epoch).count - self._above.get(epoch, 0), 0)
        confirmed = self.epochs.confirmed(epoch)
        last = newest if epoch == self.epochs.present else parts[-1][1]
        floor = next((low for first, end in parts for low, _ in self.settled.gaps(first, end)), last + 1)
        return EpochStand(epoch, parts[0][0], last, floor, confirmed.highest, confirmed.count, below)

    def _count_above(self, connection: sqlite3.Connection, settled: SettledRanges, epochs: Epochs) -> dict[str, int]:
        above: dict[str, int] = {}
        for epoch in epochs.names():
            floor: int | None = None
            for first, last in epochs.parts(epoch, self.counted_seq):
                if floor is None:
                    floor = next((low for low, _ in settled.gaps(first, last)), None)
                if floor is None:
                    continue
                first = max(first, floor)
                has = sum(high - low + 1 for low, high in settled.within(first, last))
                if has:
                    above[epoch] = above.get(epoch, 0) + has - count_unstored(connection, first, last)
        return above

    # --- taking ----------------------------------------------------------------------------------------------

    def take(self, connection: sqlite3.Connection, wanted: Wanted) -> Batch:
        """The oldest unsettled messages. Those whose row is damaged or gone are parked on the way."""
        bound = self.counted_seq if wanted.up_to is None else min(wanted.up_to, self.counted_seq)
        return self._gather(connection, self.settled.gaps(wanted.after + 1, bound), wanted, bound)

    def take_ordered(self, connection: sqlite3.Connection, wanted: Wanted) -> Batch:
        """The same of all kinds but telemetry."""
        rows = connection.execute(
            "SELECT seq FROM ordered WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            (wanted.after, self.counted_seq, wanted.limit),
        ).fetchall()
        bound = rows[-1][0] if len(rows) == wanted.limit else self.counted_seq
        return self._gather(connection, runs(seq for (seq,) in rows), wanted, bound)

    def _gather(
        self, connection: sqlite3.Connection, intervals: Iterable[Interval], wanted: Wanted, bound: int
    ) -> Batch:
        messages: list[StoredMessage] = []
        damages: list[Damage] = []
        epoch = self.epochs.present
        reached = wanted.after
        room, scanned, full = wanted.max_bytes, 0, False
        for low, high, name in (part for interval in intervals for part in self.epochs.stretches(*interval)):
            if messages and name != epoch:
                full = True
                break
            for message in read_messages(connection, low, high):
                scanned += 1
                if isinstance(message, Damage):
                    damages.append(message)
                    continue
                if not (wanted.readings_only and message.kind is not Kind.TELEMETRY):
                    room -= len(message.payload) + ROW_OVERHEAD_BYTES
                    if messages and room < 0:
                        full = True
                        break
                    messages.append(message)
                    epoch = name
                reached = message.seq
                if len(messages) >= wanted.limit or scanned - len(messages) >= SCANNED_ROWS:
                    full = True
                    break
            if full:
                break
        self._park_damages(connection, damages)
        stand = self._stand(epoch, self.counted_seq)
        reached = reached if full else max(reached, bound)
        return Batch(messages, stand.floor, stand.settled, stand.stored, stand.below, epoch, reached)

    def _park_damages(self, connection: sqlite3.Connection, damages: Sequence[Damage]) -> None:
        if not damages:
            return
        settled = self.settled.copy()
        for damage in damages:
            log.error("messages %d to %d cannot be sent, they are %s", damage.first, damage.last, damage.code)
            park_damage(connection, damage, at_ms=self._clock.now_ms())
            settled.add(damage.first, damage.last)
            _forget_order(connection, damage.first, damage.last)
        intervals = [(damage.first, damage.last) for damage in damages]
        note_unstored(connection, intervals, oldest=self._history.oldest)
        self._save(connection, settled, self.epochs, -sum(last - first + 1 for first, last in intervals))

    # --- settling --------------------------------------------------------------------------------------------

    def settle(self, connection: sqlite3.Connection, done: Sequence[int], parked: Sequence[Rejection]) -> None:
        """Odoo has ``done``, and will never have ``parked``."""
        settled, epochs = self.settled.copy(), self.epochs.copy()
        fresh = 0
        refused = [
            rejection
            for rejection in parked
            if 0 < rejection.seq <= self.counted_seq and settled.add(rejection.seq, rejection.seq)
        ]
        for rejection in refused:
            park_message(connection, rejection, at_ms=self._clock.now_ms())
        lost = list(runs(rejection.seq for rejection in refused))
        for first, last in lost:
            fresh += last - first + 1
            _forget_order(connection, first, last)
        if lost:
            note_unstored(connection, lost, oldest=self._history.oldest)
        # a refused message leaves no receipt at Odoo, so it must not raise what we say Odoo has confirmed
        for first, last in runs(seq for seq in done if 0 < seq <= self.counted_seq):
            epochs.confirm(first, last)
            for low, high in settled.add(first, last):
                fresh += high - low + 1
                epochs.count(low, high)
                _forget_order(connection, low, high)
                for device, count in readings(connection, low, high).items():
                    count_readings(connection, device, stored=count)
        self._save(connection, settled, epochs, -fresh)

    def _save(self, connection: sqlite3.Connection, settled: SettledRanges, epochs: Epochs, waiting: int) -> None:
        settled.save(connection)
        epochs.save(connection)
        above = self._count_above(connection, settled, epochs)
        set_meta(connection, "counted_waiting", self.waiting + waiting)
        # memory last: what raises before here is undone in the file alone
        self.waiting += waiting
        self.settled = settled
        self.epochs = epochs
        self._above = above
        self.changes += 1

    # --- for an Odoo that forgot -----------------------------------------------------------------------------

    def begin_resend(self, connection: sqlite3.Connection, epoch: str, from_seq: int) -> int:
        """Take back that Odoo has this epoch's messages from ``from_seq`` on; how many of them are not kept any more.

        :meth:`resend` must follow in the same transaction, so that nothing is removed in between.
        """
        self._history.hold_from(connection, from_seq)
        epochs = self.epochs.copy()
        gone = [
            interval
            for first, last in epochs.parts(epoch, self._history.oldest - 1)
            for interval in stored_parts(connection, max(first, from_seq), last)
        ]
        note_unstored(connection, gone, oldest=self._history.oldest)
        missing = 0
        for low, high in gone:
            epochs.count(low, high, -1)
            missing += high - low + 1
        epochs.lower(epoch, self._highest_confirmed(connection, epoch, from_seq))
        self._save(connection, self.settled.copy(), epochs, 0)
        return missing

    def _highest_confirmed(self, connection: sqlite3.Connection, epoch: str, below: int) -> int:
        """The highest number below that Odoo has of this epoch. A lower one, 0 at last, does no harm."""
        for first, last in reversed(list(self.epochs.parts(epoch, self.counted_seq))):
            seq = min(last, below - 1)
            for _ in range(LOOKED_AT):
                seq = self.settled.highest(seq)
                if seq < first:
                    break
                lost = unstored_at(connection, seq)
                if lost is None:
                    return seq
                seq = lost - 1
        return 0

    def resend(
        self, connection: sqlite3.Connection, epoch: str, from_seq: int, below: int | None = None
    ) -> tuple[int, int | None]:
        """Unsettle some of this epoch's rows from ``from_seq`` on; how many, and where to go on (``None``: nowhere).

        ``below``: how many Odoo says it has below where this began. There it has what it ever confirmed; if more was
        counted here, Odoo had answered ``duplicate`` to what a later life of this file had parked.
        """
        settled, epochs = self.settled.copy(), self.epochs.copy()
        rows = spent = 0
        go_on: int | None = None
        for first, last in self._kept_at_odoo(connection, epoch, from_seq):
            last = min(last, first + UNSETTLED_ROWS - spent - 1)
            settled.remove(first, last)
            epochs.count(first, last, -1)
            for device, count in readings(connection, first, last).items():
                count_readings(connection, device, stored=-count)
            connection.execute(
                "INSERT INTO ordered SELECT seq FROM messages WHERE seq BETWEEN ? AND ? AND kind <> ?",
                (first, last, READING),
            )
            rows += last - first + 1
            spent += last - first + INTERVAL_COST
            if spent >= UNSETTLED_ROWS:
                go_on = last + 1
                break
        if go_on is None and below is not None:
            epochs.correct(epoch, below)
        self._save(connection, settled, epochs, rows)
        return rows, go_on

    def _kept_at_odoo(self, connection: sqlite3.Connection, epoch: str, from_seq: int) -> Iterator[Interval]:
        for first, last in self.epochs.parts(epoch, self.counted_seq):
            for low, high in self.settled.within(max(first, from_seq, self._history.oldest), last):
                yield from stored_parts(connection, low, high)

    # --- another name ----------------------------------------------------------------------------------------

    def renew(self, connection: sqlite3.Connection, first_seq: int) -> str:
        """Messages from ``first_seq`` on that Odoo has not confirmed, and all to come, get a new epoch."""
        epochs = self.epochs.copy()
        if len(epochs.names()) >= MOST_EPOCHS:
            epochs.retire(connection, self._oldest_settled_epoch())
        epoch = str(uuid4())
        first_seq = max(min(first_seq, self.counted_seq + 1), 1)
        epochs.renew(connection, epoch, first_seq, self.settled.gaps(first_seq, self.counted_seq + 1))
        connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (epoch,))
        self.epochs = epochs
        self._above = self._count_above(connection, self.settled, epochs)
        self.changes += 1
        return epoch

    def _oldest_settled_epoch(self) -> str:
        for stand in reversed(self.stands(self.counted_seq)[1:]):
            if stand.floor > stand.last_seq:
                return stand.epoch
        raise StoreUnavailableError(f"messages of {MOST_EPOCHS} epochs wait for Odoo; it must take some first")

    def drop_epochs(self, connection: sqlite3.Connection) -> None:
        """Forget epochs of which nothing is kept."""
        if len(self.epochs) > 1:
            self.epochs.drop_below(connection, self._history.oldest)
            self.changes += 1


def readings(connection: sqlite3.Connection, first: int, last: int) -> dict[str, int]:
    """How many readings of each device stand between two numbers."""
    rows = connection.execute(
        "SELECT device, count(*) FROM messages WHERE seq BETWEEN ? AND ? AND kind = ? AND typeof(device) = 'text'"
        " GROUP BY device",
        (first, last, READING),
    )
    return dict(rows.fetchall())


def _forget_order(connection: sqlite3.Connection, first: int, last: int) -> None:
    connection.execute("DELETE FROM ordered WHERE seq BETWEEN ? AND ?", (first, last))
