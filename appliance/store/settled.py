"""The set of settled sequence numbers as disjoint intervals; lanes may settle in any order."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator

_ABOVE = 1 << 62


class SettledRanges:
    """Intervals ``[first, last]`` in memory, in order, and how they changed since the table ``settled`` was written.

    There are few: the live lane settles at the top, the backlog from the bottom. Should Odoo put off messages all
    over the place there may be many, so a change costs by what it touches and not by how many there are.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges = sorted(ranges)
        self._gone: set[tuple[int, int]] = set()
        self._come: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self._ranges)

    @classmethod
    def load(cls, connection: sqlite3.Connection) -> SettledRanges:
        """Read the table."""
        return cls(connection.execute("SELECT first, last FROM settled").fetchall())

    def save(self, connection: sqlite3.Connection) -> None:
        """Write what has changed to the table."""
        connection.executemany("DELETE FROM settled WHERE first = ?", [(first,) for first, _ in self._gone])
        connection.executemany("INSERT INTO settled (first, last) VALUES (?, ?)", list(self._come))
        self._gone.clear()
        self._come.clear()

    def copy(self) -> SettledRanges:
        """A copy to change while the transaction may still fail."""
        copy = SettledRanges()
        copy._ranges = self._ranges[:]
        copy._gone, copy._come = set(self._gone), set(self._come)
        return copy

    def add(self, first: int, last: int) -> list[tuple[int, int]]:
        """Settle an interval; returns the parts that were not settled before."""
        fresh = list(self.gaps(first, last))
        start, end = self._touching(first - 1, last + 1)
        touched = self._ranges[start:end]
        if touched:
            first, last = min(first, touched[0][0]), max(last, touched[-1][1])
        self._replace(start, end, [(first, last)])
        return fresh

    def remove(self, first: int, last: int) -> list[tuple[int, int]]:
        """Unsettle an interval; returns the parts that were settled before."""
        start, end = self._touching(first, last)
        touched = self._ranges[start:end]
        if not touched:
            return []
        kept = [(touched[0][0], first - 1)] if touched[0][0] < first else []
        if touched[-1][1] > last:
            kept.append((last + 1, touched[-1][1]))
        self._replace(start, end, kept)
        return [(max(low, first), min(high, last)) for low, high in touched]

    def _touching(self, first: int, last: int) -> tuple[int, int]:
        """Which of the intervals have a number from ``first`` to ``last``."""
        start = bisect_right(self._ranges, (first, _ABOVE))
        if start and self._ranges[start - 1][1] >= first:
            start -= 1
        return start, bisect_right(self._ranges, (last, _ABOVE))

    def _replace(self, start: int, end: int, fresh: list[tuple[int, int]]) -> None:
        # gone: in the table and not here any more; come: here and not in the table yet
        for old in self._ranges[start:end]:
            if old in self._come:
                self._come.discard(old)
            else:
                self._gone.add(old)
        for new in fresh:
            if new in self._gone:
                self._gone.discard(new)
            else:
                self._come.add(new)
        self._ranges[start:end] = fresh

    def gaps(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The unsettled intervals within ``[first, last]``, in order."""
        position = first
        start = max(bisect_right(self._ranges, (first, _ABOVE)) - 1, 0)
        for index in range(start, len(self._ranges)):
            low, high = self._ranges[index]
            if low > last:
                break
            if low > position:
                yield position, low - 1
            position = max(position, high + 1)
        if position <= last:
            yield position, last

    def within(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The settled intervals within ``[first, last]``, in order."""
        start, end = self._touching(first, last)
        for low, high in self._ranges[start:end]:
            yield max(low, first), min(high, last)

    def highest(self, last: int) -> int:
        """The highest settled number up to ``last`` (0: none)."""
        index = bisect_right(self._ranges, (last, _ABOVE)) - 1
        return min(self._ranges[index][1], last) if index >= 0 else 0

    @property
    def up_to(self) -> int:
        """The highest number below which everything is settled (0: nothing)."""
        if self._ranges and self._ranges[0][0] <= 1:
            return self._ranges[0][1]
        return 0


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Consecutive numbers as intervals: 1, 2, 3, 7 gives (1, 3), (7, 7)."""
    first = last = None
    for number in sorted(set(numbers)):
        if last is not None and first is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last
