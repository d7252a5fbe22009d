"""What waits and what was parked, by kind and by reason: counted from the rows, as long as these are not too many."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass

from appliance.contract.odoo import kind_name
from appliance.store.ledger import COUNTED_ROWS
from appliance.store.meta import get_meta, last_seq
from appliance.store.parked import PARKED_COUNT
from appliance.store.settled import SettledRanges

MOST_CODES = 100


@dataclass(frozen=True, slots=True)
class BufferKinds:
    """``None`` where there are more than 10,000 rows: the writer thread has other things to do than to count them."""

    waiting: dict[str, int] | None
    """Messages by kind."""
    parked: dict[str, int] | None
    """Dead letters by the code of their reason, the most frequent first; a hundred codes at most."""


def read_kinds(connection: sqlite3.Connection, *, waiting: int) -> BufferKinds:
    """Count; ``waiting`` is how many messages wait in all."""
    return BufferKinds(
        None if waiting > COUNTED_ROWS else _waiting(connection),
        None if get_meta(connection, PARKED_COUNT) > COUNTED_ROWS else _parked(connection),
    )


def _waiting(connection: sqlite3.Connection) -> dict[str, int]:
    found: Counter[str] = Counter()
    for first, last in SettledRanges.load(connection).gaps(1, last_seq(connection)):
        rows = connection.execute(
            "SELECT kind, count(*) FROM messages WHERE seq BETWEEN ? AND ? GROUP BY kind", (first, last)
        )
        for kind, count in rows.fetchall():
            found[kind_name(kind)] += count
    return dict(sorted(found.items()))


def _parked(connection: sqlite3.Connection) -> dict[str, int]:
    rows = connection.execute(
        "SELECT code, count(*) FROM parked GROUP BY code ORDER BY count(*) DESC, code LIMIT ?", (MOST_CODES,)
    )
    return dict(rows.fetchall())
