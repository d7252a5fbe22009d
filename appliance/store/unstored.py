"""Numbers that are settled though Odoo does not have them: parked, damaged, or lost by an Odoo that was restored.

They are never sent again under their number, whatever Odoo has forgotten. Runs in the writer thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from appliance.store.meta import add_meta, get_meta

UNSTORED_COUNT = "unstored"
"""Key in ``meta`` of how many intervals there are."""
MOST_KEPT = 100_000
"""Intervals below the oldest row that is kept; beyond that only how much was lost would be told wrong."""
DROPPED_AT_A_TIME = 1000


def note_unstored(connection: sqlite3.Connection, intervals: Iterable[tuple[int, int]], *, oldest: int) -> None:
    """Add intervals that are not in the list yet; ``oldest`` is the oldest row that is kept."""
    added = connection.executemany("INSERT INTO unstored (first, last) VALUES (?, ?)", intervals).rowcount
    if added <= 0:
        return
    add_meta(connection, UNSTORED_COUNT, added)
    too_many = get_meta(connection, UNSTORED_COUNT) - MOST_KEPT
    if too_many >= DROPPED_AT_A_TIME:
        dropped = connection.execute(
            "DELETE FROM unstored WHERE first IN (SELECT first FROM unstored WHERE last < ? ORDER BY first LIMIT ?)",
            (oldest, too_many),
        ).rowcount
        add_meta(connection, UNSTORED_COUNT, -dropped)


def stored_parts(connection: sqlite3.Connection, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Of settled numbers from ``first`` to ``last`` the intervals that Odoo has."""
    start = unstored_at(connection, first)
    rows = connection.execute(
        "SELECT first, last FROM unstored WHERE first BETWEEN ? AND ? ORDER BY first",
        (first if start is None else start, last),
    )
    for low, high in rows:
        if low > first:
            yield first, low - 1
        first = max(first, high + 1)
    if first <= last:
        yield first, last


def count_unstored(connection: sqlite3.Connection, first: int, last: int) -> int:
    """How many numbers from ``first`` to ``last`` are settled though Odoo does not have them."""
    start = unstored_at(connection, first)
    (count,) = connection.execute(
        "SELECT coalesce(sum(min(last, ?3) - max(first, ?1) + 1), 0) FROM unstored WHERE first BETWEEN ?2 AND ?3",
        (first, first if start is None else start, last),
    ).fetchone()
    return int(count)


def unstored_at(connection: sqlite3.Connection, seq: int) -> int | None:
    """Where the interval begins that holds this number, if there is one."""
    row = connection.execute(
        "SELECT first, last FROM unstored WHERE first <= ? ORDER BY first DESC LIMIT 1", (seq,)
    ).fetchone()
    return int(row[0]) if row and row[1] >= seq else None
