"""Settled messages stay for a while, so that an Odoo restored from a backup can be given them again; then they go."""

from __future__ import annotations

import sqlite3

from appliance.contract.times import Clock
from appliance.store.connection import PAGE_BYTES
from appliance.store.meta import last_seq, pragma

CHUNK_ROWS = 1000
CHUNK_BYTES = 4 << 20
FREE_PAGES = 512
"""Fewer free pages than these are kept."""
VACUUM_PAGES = 128
"""Given back at a time; each costs a page in the log."""
FREE_SHARE = 8
"""At most one page in so many is kept free."""
MARKS = 64
PRESSED_SHARE = 0.8
"""Of the quota; beyond it the room is needed for what waits."""


class History:
    """Removes settled rows from the old end, in chunks that ride along with other transactions.

    Runs in the writer thread. Rows are removed by range in order of ``seq``, never beyond what the caller allows.

    How long a row has been settled is told by marks: "at this time all was settled up to this number". Their time
    passes only while the process runs, so no jump of the wall clock makes a row old.
    """

    def __init__(self, *, keep_s: float, keep_bytes: int, clock: Clock) -> None:
        self._keep_ms = int(keep_s * 1000)
        self._keep_bytes = keep_bytes
        self._clock = clock
        self._oldest = 1
        self._offset_ms = 0
        self._chunk_rows = CHUNK_ROWS
        self._marks: list[tuple[int, int]] = []
        self._free_pages = False
        self._other_pages = 0
        self.up_to = 0
        """The last row that is to go."""
        self.row_bytes = 1.0
        """What a row takes in the file, roughly."""

    def restore(self, connection: sqlite3.Connection) -> None:
        """Read the marks, and start from the oldest row in the file."""
        oldest = connection.execute("SELECT seq FROM messages ORDER BY seq LIMIT 1").fetchone()
        self._marks = connection.execute("SELECT steady_ms, up_to FROM settled_marks ORDER BY up_to").fetchall()
        self._offset_ms = (self._marks[-1][0] if self._marks else 0) - int(self._clock.monotonic() * 1000)
        self.up_to = 0
        self._oldest = oldest[0] if oldest else last_seq(connection) + 1
        self._free_pages = False
        # each other table and index takes a page at least, and in a small file that is much
        row = connection.execute("SELECT count(*) FROM sqlite_master WHERE rootpage > 0").fetchone()
        self._other_pages = row[0]

    @property
    def oldest(self) -> int:
        """The oldest row that is kept; one beyond the newest where there is none."""
        return self._oldest

    def hold_from(self, connection: sqlite3.Connection, seq: int) -> None:
        """Rows from ``seq`` on are not settled any more: forget what was planned for them, and since when they were."""
        self.up_to = min(self.up_to, seq - 1)
        self._marks = [mark for mark in self._marks if mark[1] < seq]
        connection.execute("DELETE FROM settled_marks WHERE up_to >= ?", (seq,))

    @property
    def due(self) -> bool:
        """Whether :meth:`remove_chunk` has something to do."""
        return self._oldest <= self.up_to or self._free_pages

    def plan(self, connection: sqlite3.Connection, *, bound: int, newest: int, pressed: bool) -> None:
        """Decide how far to remove; ``bound`` is the last row that may go, ``pressed`` that all of them should."""
        used = pragma(connection, "page_count") - pragma(connection, "freelist_count")
        by_age = self._by_age(connection, bound)
        self._free_pages = self._too_many_free(connection)
        if self._oldest > bound:
            return
        self.row_bytes = max((used - self._other_pages) * PAGE_BYTES / (newest - self._oldest + 1), 1.0)
        self._chunk_rows = max(min(CHUNK_ROWS, int(CHUNK_BYTES / self.row_bytes)), 1)
        pressed = pressed or used > PRESSED_SHARE * pragma(connection, "max_page_count")
        by_size = bound if pressed else bound - int(self._keep_bytes / self.row_bytes)
        self.up_to = min(bound, max(self.up_to, by_size, by_age))

    def _by_age(self, connection: sqlite3.Connection, bound: int) -> int:
        """Up to where all has been settled for long enough."""
        now_ms = self._offset_ms + int(self._clock.monotonic() * 1000)
        newest_ms, marked = self._marks[-1] if self._marks else (-self._keep_ms, 0)
        if bound > marked and now_ms - newest_ms >= self._keep_ms // MARKS:
            self._marks.append((now_ms, bound))
            connection.execute("INSERT INTO settled_marks (up_to, steady_ms) VALUES (?, ?)", (bound, now_ms))
        old = [up_to for steady_ms, up_to in self._marks if now_ms - steady_ms >= self._keep_ms]
        if not old:
            return 0
        self._marks = self._marks[len(old) :]
        connection.execute("DELETE FROM settled_marks WHERE up_to <= ?", (old[-1],))
        return old[-1]

    def remove_chunk(self, connection: sqlite3.Connection) -> None:
        """Delete at most a chunk, and give pages back where many are free."""
        if self._oldest <= self.up_to:
            up_to = min(self.up_to, self._oldest + self._chunk_rows - 1)
            connection.execute("DELETE FROM messages WHERE seq <= ?", (up_to,))
            self._oldest = up_to + 1
        self._free_pages = self._too_many_free(connection)
        if self._free_pages:
            for _ in range(VACUUM_PAGES):
                # whatever number is given, Python steps once, and a step frees one page (executescript() would commit)
                connection.execute("PRAGMA incremental_vacuum(1)")

    @staticmethod
    def _too_many_free(connection: sqlite3.Connection) -> bool:
        free = pragma(connection, "freelist_count")
        return free >= FREE_PAGES and free * FREE_SHARE > pragma(connection, "page_count")
