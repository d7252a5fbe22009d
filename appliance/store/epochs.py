"""Under which epoch a message stands. ``(epoch, seq)`` is its name for Odoo, and it keeps it once Odoo has it.

A file begins with one epoch. It takes another when its messages could be mistaken for somebody else's: it was restored
from a backup or cloned, and its twin has used the same numbers. Numbers go on, so one number is in one epoch only:
``epoch_parts`` says from which number on which epoch holds, ``epochs`` what Odoo has confirmed of each.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

MOST_EPOCHS = 16
"""As many as a report may name."""
NO_EPOCH = ""
"""Of old messages that are settled, and will not be sent again whatever Odoo says."""


@dataclass(frozen=True, slots=True)
class EpochStand:
    """Where the messages of one epoch stand; fields as in :class:`appliance.contract.sync.EpochReport`."""

    epoch: str
    first_seq: int
    last_seq: int
    floor: int
    settled: int
    stored: int
    below: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What Odoo has of one epoch: the highest number, and how many messages."""

    highest: int = 0
    count: int = 0


class Epochs:
    """All epochs of the file, in memory; changed as a copy, which takes the original's place when it is written."""

    def __init__(self, parts: Iterable[tuple[int, str]] = (), confirmed: dict[str, Confirmed] | None = None) -> None:
        self._parts = sorted(parts)
        self._confirmed = confirmed or {}
        self._written: dict[str, Confirmed] = dict(self._confirmed)

    @classmethod
    def load(cls, connection: sqlite3.Connection) -> Epochs:
        """Read both tables."""
        parts = connection.execute("SELECT first_seq, epoch FROM epoch_parts").fetchall()
        rows = connection.execute("SELECT epoch, confirmed, stored FROM epochs").fetchall()
        return cls(parts, {epoch: Confirmed(highest, count) for epoch, highest, count in rows})

    def copy(self) -> Epochs:
        """A copy to change while the transaction may still fail."""
        copy = Epochs(self._parts, dict(self._confirmed))
        copy._written = dict(self._written)
        return copy

    def save(self, connection: sqlite3.Connection) -> None:
        """Write what is confirmed, where it has changed."""
        for epoch, confirmed in self._confirmed.items():
            if self._written.get(epoch) != confirmed:
                connection.execute(
                    "INSERT INTO epochs (epoch, confirmed, stored) VALUES (?, ?, ?) ON CONFLICT (epoch)"
                    " DO UPDATE SET confirmed = excluded.confirmed, stored = excluded.stored",
                    (epoch, confirmed.highest, confirmed.count),
                )
        self._written = dict(self._confirmed)

    def _save_parts(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM epoch_parts")
        connection.executemany("INSERT INTO epoch_parts (first_seq, epoch) VALUES (?, ?)", self._parts)

    # --- asking ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._confirmed)

    def __contains__(self, epoch: str) -> bool:
        return epoch in self._confirmed

    @property
    def present(self) -> str:
        """The epoch of messages to come."""
        return self._parts[-1][1]

    def confirmed(self, epoch: str) -> Confirmed:
        """What Odoo has of it."""
        return self._confirmed[epoch]

    def stretches(self, first: int, last: int) -> Iterator[tuple[int, int, str]]:
        """The interval, cut where another epoch begins."""
        first = max(first, self._parts[0][0])
        index = bisect_right(self._parts, first, key=_first) - 1
        while first <= last:
            end = min(last, self._parts[index + 1][0] - 1) if index + 1 < len(self._parts) else last
            yield first, end, self._parts[index][1]
            first, index = end + 1, index + 1

    def parts(self, epoch: str, newest: int) -> Iterator[tuple[int, int]]:
        """The intervals of this epoch, up to the newest message."""
        ends = [first - 1 for first, _ in self._parts[1:]] + [newest]
        for (first, name), last in zip(self._parts, ends, strict=True):
            if name == epoch:
                yield first, min(last, newest)

    def names(self) -> list[str]:
        """The present one first, then back in time."""
        return [epoch for epoch in dict.fromkeys(name for _, name in reversed(self._parts)) if epoch != NO_EPOCH]

    # --- changing a copy -------------------------------------------------------------------------------------

    def confirm(self, first: int, last: int) -> None:
        """Odoo says that it has these."""
        for _, end, epoch in self.stretches(first, last):
            confirmed = self._confirmed[epoch]
            if end > confirmed.highest:
                self._confirmed[epoch] = replace(confirmed, highest=end)

    def count(self, first: int, last: int, sign: int = 1) -> None:
        """Odoo has these, as was not known before; or (``sign`` -1) it has lost them."""
        for start, end, epoch in self.stretches(first, last):
            confirmed = self._confirmed[epoch]
            self._confirmed[epoch] = replace(confirmed, count=max(confirmed.count + sign * (end - start + 1), 0))

    def correct(self, epoch: str, most: int) -> None:
        """Odoo has no more than so many."""
        confirmed = self._confirmed[epoch]
        self._confirmed[epoch] = replace(confirmed, count=min(confirmed.count, most))

    def lower(self, epoch: str, highest: int) -> None:
        """Odoo knows no higher number of this epoch for sure."""
        confirmed = self._confirmed[epoch]
        self._confirmed[epoch] = replace(confirmed, highest=min(confirmed.highest, max(highest, 0)))

    def renew(
        self, connection: sqlite3.Connection, epoch: str, first_seq: int, unsettled: Iterable[tuple[int, int]]
    ) -> None:
        """Begin a new epoch; what is ``unsettled`` from ``first_seq`` on, and all that comes, is of it.

        The last of ``unsettled`` must reach beyond the newest message.
        """
        parts = [part for part in self._parts if part[0] < first_seq]
        before = first_seq
        for first, last in unsettled:
            if before < first:
                parts += [(start, name) for start, _, name in self.stretches(before, first - 1)]
            parts.append((first, epoch))
            before = last + 1
        self._parts = _joined(parts)
        self._confirmed[epoch] = Confirmed()
        self._save_parts(connection)
        self._forget(connection)

    def drop_below(self, connection: sqlite3.Connection, oldest: int) -> None:
        """Forget epochs none of whose messages are kept."""
        kept = [part for part, later in pairwise(self._parts) if later[0] > oldest] + self._parts[-1:]
        if len(kept) < len(self._parts):
            self._parts = kept
            self._save_parts(connection)
            self._forget(connection)

    def retire(self, connection: sqlite3.Connection, epoch: str) -> None:
        """Forget an epoch though messages of it are kept: all of them are settled, and there are too many epochs."""
        self._parts = _joined((first, NO_EPOCH if name == epoch else name) for first, name in self._parts)
        self._confirmed[NO_EPOCH] = Confirmed()
        self._save_parts(connection)
        self._forget(connection)

    def _forget(self, connection: sqlite3.Connection) -> None:
        """Remove epochs that have no part."""
        for epoch in self._confirmed.keys() - {name for _, name in self._parts}:
            del self._confirmed[epoch]
            connection.execute("DELETE FROM epochs WHERE epoch = ?", (epoch,))
        self.save(connection)


def _joined(parts: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """Neighbours of the same epoch are one part."""
    joined: list[tuple[int, str]] = []
    for part in parts:
        if not joined or joined[-1][1] != part[1]:
            joined.append(part)
    return joined


def _first(part: tuple[int, str]) -> int:
    return part[0]
