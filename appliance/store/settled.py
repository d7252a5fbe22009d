"""The set of settled sequence numbers as disjoint intervals; lanes may settle in any order."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator


class SettledRanges:
    """Intervals ``[first, last]`` in memory, and how they changed, for one UPDATE of the table ``settled``."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges = sorted(ranges)

    @classmethod
    def load(cls, connection: sqlite3.Connection) -> SettledRanges:
        """Read the table."""
        return cls(connection.execute("SELECT first, last FROM settled").fetchall())

    def save(self, connection: sqlite3.Connection) -> None:
        """Write the table; it holds a handful of rows."""
        stored = set(connection.execute("SELECT first, last FROM settled").fetchall())
        wanted = set(self._ranges)
        connection.executemany("DELETE FROM settled WHERE first = ?", [(first,) for first, _ in stored - wanted])
        connection.executemany("INSERT INTO settled (first, last) VALUES (?, ?)", list(wanted - stored))

    def copy(self) -> SettledRanges:
        """A copy to change while the transaction may still fail."""
        return SettledRanges(self._ranges)

    def add(self, first: int, last: int) -> list[tuple[int, int]]:
        """Settle an interval; returns the parts that were not settled before."""
        fresh = list(self.gaps(first, last))
        merged: list[tuple[int, int]] = []
        for low, high in self._ranges:
            if high < first - 1 or low > last + 1:
                merged.append((low, high))
            else:
                first, last = min(first, low), max(last, high)
        merged.append((first, last))
        self._ranges = sorted(merged)
        return fresh

    def gaps(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The unsettled intervals within ``[first, last]``, in order."""
        position = first
        start = max(bisect_right(self._ranges, (first, 1 << 62)) - 1, 0)
        for low, high in self._ranges[start:]:
            if low > last:
                break
            if low > position:
                yield position, low - 1
            position = max(position, high + 1)
        if position <= last:
            yield position, last

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
