"""Small values of the database file itself: the table ``meta`` and pragmas."""

from __future__ import annotations

import sqlite3

_NEWEST_TIME = "newest_time_ms"


def get_meta(connection: sqlite3.Connection, key: str) -> int:
    """A number of the table ``meta``; 0 where it was never set."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0


def set_meta(connection: sqlite3.Connection, key: str, value: int) -> None:
    """Write a number of the table ``meta``."""
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def add_meta(connection: sqlite3.Connection, key: str, amount: int) -> None:
    """Add to a number of the table ``meta``."""
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = value + excluded.value",
        (key, amount),
    )


def last_seq(connection: sqlite3.Connection) -> int:
    """The highest ``seq`` ever given to a message (0: none yet)."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchone()
    return int(row[0]) if row else 0


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """A pragma that is a number, such as ``page_count``."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def newest_time(connection: sqlite3.Connection) -> int:
    """The newest wall-clock time that was ever stored, as far as it was written down; milliseconds since 1970."""
    row = connection.execute("SELECT received_at_ms FROM messages ORDER BY seq DESC LIMIT 1").fetchone()
    return max(get_meta(connection, _NEWEST_TIME), row[0] if row else 0)


def note_newest_time(connection: sqlite3.Connection, ms: int) -> None:
    """Write down the newest wall-clock time. It may be an earlier one: the clock may have been ahead, and mended."""
    set_meta(connection, _NEWEST_TIME, ms)
