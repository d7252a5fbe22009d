"""Keys of the HTTP API as rows: what they may do and how to recognise them, never the keys themselves."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

MOST_KEYS = 100
_COLUMNS = "key_id, name, scope, digest, created_at_ms, last_used_at_ms"


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """One key; times are milliseconds since 1970."""

    key_id: str
    name: str
    scope: str
    digest: bytes = field(repr=False)
    """SHA-256 of the key, which is 256 random bits: nothing slower is needed."""
    created_at_ms: int
    last_used_at_ms: int | None = None
    """As far as it was written; it may have been used since."""


def read_keys(connection: sqlite3.Connection) -> list[ApiKeyRow]:
    """All keys in order of their names; at most :data:`MOST_KEYS`."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM api_keys ORDER BY name")  # noqa: S608
    return [ApiKeyRow(*row) for row in rows.fetchall()]


def insert_key(connection: sqlite3.Connection, row: ApiKeyRow) -> bool:
    """Add a key; ``False``, and nothing is changed, where a key has this name already."""
    done = connection.execute(
        f"INSERT INTO api_keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",  # noqa: S608
        (row.key_id, row.name, row.scope, row.digest, row.created_at_ms, row.last_used_at_ms),
    )
    return done.rowcount == 1


def delete_key(connection: sqlite3.Connection, key_id: str) -> None:
    """Remove a key for good."""
    connection.execute("DELETE FROM api_keys WHERE key_id = ?", (key_id,))


def note_use(connection: sqlite3.Connection, key_id: str, at_ms: int) -> None:
    """Write when a key was used."""
    connection.execute("UPDATE api_keys SET last_used_at_ms = ? WHERE key_id = ?", (at_ms, key_id))
