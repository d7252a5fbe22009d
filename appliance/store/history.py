"""Settled messages stay for a while, so that an Odoo restored from a backup can be given them again; then they go."""

from __future__ import annotations

import sqlite3

from appliance.contract.times import Clock
from appliance.store.connection import PAGE_BYTES
from appliance.store.meta import pragma

CHUNK_ROWS = 1000
FREE_PAGES = 512


class History:
    """Removes settled rows from the old end, in chunks that ride along with other transactions.

    Runs in the writer thread. Rows are removed by range in order of ``seq``, never beyond what the caller allows.
    """

    def __init__(self, *, keep_s: float, keep_bytes: int, clock: Clock) -> None:
        self._keep_ms = int(keep_s * 1000)
        self._keep_bytes = keep_bytes
        self._clock = clock
        self._oldest = 1
        self._up_to = 0

    def restore(self, oldest_seq: int) -> None:
        """Start from the oldest row in the file."""
        self._oldest = oldest_seq
        self._up_to = 0

    @property
    def due(self) -> bool:
        """Whether :meth:`remove_chunk` has something to do."""
        return self._oldest <= self._up_to

    def plan(self, connection: sqlite3.Connection, *, bound: int, last_seq: int) -> None:
        """Decide how far to remove; ``bound`` is the last row that may go."""
        if self._oldest > bound:
            return
        pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
        row_bytes = max(pages * PAGE_BYTES / (last_seq - self._oldest + 1), 1.0)
        by_size = bound - int(self._keep_bytes / row_bytes)
        self._up_to = min(bound, max(self._up_to, by_size, self._by_age(connection, bound)))

    def _by_age(self, connection: sqlite3.Connection, bound: int) -> int:
        cutoff_ms = self._clock.now_ms() - self._keep_ms
        reach = min(bound, self._oldest + CHUNK_ROWS - 1)
        young = connection.execute(
            "SELECT seq FROM messages WHERE seq BETWEEN ? AND ? AND received_at_ms >= ? ORDER BY seq LIMIT 1",
            (self._oldest, reach, cutoff_ms),
        ).fetchone()
        return young[0] - 1 if young else reach

    def remove_chunk(self, connection: sqlite3.Connection) -> None:
        """Delete at most a chunk, and give pages back where many are free."""
        up_to = min(self._up_to, self._oldest + CHUNK_ROWS - 1)
        connection.execute("DELETE FROM messages WHERE seq <= ?", (up_to,))
        self._oldest = up_to + 1
        free = pragma(connection, "freelist_count")
        if free > FREE_PAGES and free * 5 > pragma(connection, "page_count"):
            connection.execute(f"PRAGMA incremental_vacuum({FREE_PAGES})").fetchall()
