"""The stand-in's memory: one SQLite file, so that it survives its process and can be put back to an older copy.

It may lose its last moments in a power cut (``synchronous=OFF``): it stands in for Odoo in tests, nothing relies on it.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS devices (
    device_id TEXT PRIMARY KEY, serial TEXT NOT NULL UNIQUE, enabled INTEGER NOT NULL DEFAULT 1,
    config TEXT NOT NULL, paired_at_ms INTEGER, seen INTEGER NOT NULL DEFAULT 0,
    gateway TEXT, secret_version INTEGER NOT NULL DEFAULT 0, revoked INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, tag TEXT NOT NULL, device TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS tokens (
    token TEXT PRIMARY KEY, serial TEXT NOT NULL, expires_at_ms INTEGER NOT NULL,
    claimed INTEGER NOT NULL DEFAULT 0, request_id TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS epochs (
    gateway TEXT NOT NULL, epoch TEXT NOT NULL, floor INTEGER NOT NULL, highest INTEGER NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0, retired INTEGER NOT NULL DEFAULT 0,
    below INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (gateway, epoch)
) STRICT;
CREATE TABLE IF NOT EXISTS gateways (
    gateway TEXT PRIMARY KEY, epoch TEXT NOT NULL, start TEXT NOT NULL, cursor TEXT, synced_at_ms INTEGER NOT NULL,
    report TEXT NOT NULL, admission TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS starts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, gateway TEXT NOT NULL, epoch TEXT NOT NULL, start TEXT NOT NULL,
    first_seq INTEGER NOT NULL, previous TEXT, highest INTEGER NOT NULL DEFAULT 0, synced INTEGER NOT NULL DEFAULT 0,
    UNIQUE (gateway, epoch, start)
) STRICT;
CREATE TABLE IF NOT EXISTS codes (
    code TEXT PRIMARY KEY, expires_at_ms INTEGER NOT NULL, gateway TEXT, made_for TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS identities (
    gateway TEXT PRIMARY KEY, identity TEXT NOT NULL, at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS keys (
    digest BLOB PRIMARY KEY, gateway TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS receipts (
    gateway TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (gateway, epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS effects (
    id INTEGER PRIMARY KEY AUTOINCREMENT, gateway TEXT, epoch TEXT, seq INTEGER, device TEXT NOT NULL,
    kind TEXT NOT NULL, msg_id TEXT, at TEXT NOT NULL, received_at TEXT, lane TEXT, payload TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS counts (
    device TEXT NOT NULL, kind TEXT NOT NULL, messages INTEGER NOT NULL, PRIMARY KEY (device, kind)
) STRICT;
CREATE TABLE IF NOT EXISTS latest (
    device TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, payload TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS commands (
    command_id TEXT PRIMARY KEY, device TEXT NOT NULL, action TEXT, params TEXT, created_at_ms INTEGER NOT NULL,
    state TEXT NOT NULL, history TEXT NOT NULL, response TEXT, problem TEXT,
    waiting TEXT, offered INTEGER NOT NULL DEFAULT 0, cancel INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS updates (
    update_id TEXT PRIMARY KEY, device TEXT NOT NULL, action TEXT NOT NULL, params TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL, state TEXT NOT NULL, history TEXT NOT NULL,
    waiting INTEGER NOT NULL DEFAULT 1, offered INTEGER NOT NULL DEFAULT 0, problem TEXT
) STRICT;
"""


class State:
    """The stand-in's tables; ``path`` is a file, or ``None`` for memory only. Used by one thread."""

    def __init__(self, path: Path | None = None) -> None:
        self.connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = OFF")
        self.connection.executescript(SCHEMA)
        if not self.rows("SELECT 1 FROM pragma_table_info('epochs') WHERE name = 'below'"):  # a file of last week
            self.connection.execute("ALTER TABLE epochs ADD COLUMN below INTEGER NOT NULL DEFAULT 0")
        if not self.rows("SELECT 1 FROM pragma_table_info('codes') WHERE name = 'made_for'"):
            self.connection.execute("ALTER TABLE codes ADD COLUMN made_for TEXT")
        self.connection.execute(
            "INSERT OR IGNORE INTO meta VALUES ('database_uuid', ?), ('pruned', '0')", (str(uuid.uuid4()),)
        )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing of it."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def row(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row of a query."""
        row: tuple[Any, ...] | None = self.connection.execute(sql, values).fetchone()
        return row

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query that has few."""
        return self.connection.execute(sql, values).fetchall()

    def set_meta(self, name: str, value: str) -> None:
        """Change one named value."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def meta(self, name: str) -> str:
        """One named value."""
        row = self.row("SELECT value FROM meta WHERE name = ?", name)
        return str(row[0]) if row else ""

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()
