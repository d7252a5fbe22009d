"""Opening the database file: pragmas that lose nothing, read back one by one, and the file's identity."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

from appliance.errors import StoreFormatError, StoreUnavailableError
from appliance.store.schema import APPLICATION_ID, migrate, only_adds, unknown_migrations

log = logging.getLogger(__name__)

SQLITE_VERSION = sqlite3.sqlite_version
PAGE_BYTES = 4096
_LEAST_PAGES = 256
_PRAGMAS: dict[str, object] = {
    "auto_vacuum": 2,  # incremental; it and the page size must stand before WAL, or they do nothing
    "page_size": PAGE_BYTES,
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: NORMAL loses acknowledged rows on a power cut
    "wal_autocheckpoint": 4000,
    "journal_size_limit": 64 << 20,
    "mmap_size": 0,
    "busy_timeout": 5000,
    "foreign_keys": 1,
    "secure_delete": 0,  # Debian's default writes zeros over all that is deleted: every message twice to the card
}
_DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
_MEDIUM_ERRORS = _DAMAGED | {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}
_NOTHING_LOST = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_NOMEM}


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_medium_error(error: BaseException) -> bool:
    """Whether the disk or the file is at fault, not the statement."""
    return isinstance(error, sqlite3.Error) and _primary_code(error) in _MEDIUM_ERRORS


def is_damage(error: BaseException) -> bool:
    """Whether a page of the file, or all of it, makes no sense."""
    return isinstance(error, sqlite3.Error) and _primary_code(error) in _DAMAGED


def is_known_after(error: BaseException | None) -> bool:
    """Whether it is known what is on the medium after this error. A failed sync, above all, leaves that open."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _NOTHING_LOST or code == sqlite3.SQLITE_IOERR_WRITE


def connect(path: Path, *, quota_bytes: int) -> tuple[sqlite3.Connection, str]:
    """Open or make the database file and bring it to this version's schema; also returns the file's epoch.

    :class:`StoreFormatError` if it is not ours, damaged or newer; :class:`StoreUnavailableError` if it cannot be used.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    except sqlite3.Error as error:
        raise StoreUnavailableError(f"{path} cannot be opened: {error}") from error
    # a flipped bit in a name must not keep the rest of the file from being read
    connection.text_factory = lambda text: text.decode(errors="replace")
    try:
        epoch = _prepare(connection, path, max(quota_bytes // PAGE_BYTES, _LEAST_PAGES))
        os.chmod(path, 0o640)
    except (sqlite3.Error, OSError) as error:
        connection.close()
        if is_damage(error):
            raise StoreFormatError(f"{path} is damaged or no database: {error}") from error
        raise StoreUnavailableError(f"{path} cannot be opened: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection, epoch


def _prepare(connection: sqlite3.Connection, path: Path, quota_pages: int) -> str:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    # we mark the file before we make the first table
    if application != APPLICATION_ID and (application or tables):
        raise StoreFormatError(f"{path} belongs to another program")
    newer = unknown_migrations(connection)
    if newer and only_adds(connection):
        log.warning("the database has additions of a newer version, which stay as they are: %s", ", ".join(newer))
    elif newer:
        raise StoreFormatError(f"{path} was written by a newer version (it has {', '.join(newer)})")
    for name, wanted in _PRAGMAS.items():
        connection.execute(f"PRAGMA {name} = {wanted}").fetchall()
    connection.execute(f"PRAGMA max_page_count = {quota_pages}").fetchall()
    for name, wanted in _PRAGMAS.items():
        found = connection.execute(f"PRAGMA {name}").fetchone()[0]
        if found != wanted:
            raise StoreFormatError(f"{path}: PRAGMA {name} is {found!r} and will not become {wanted!r}")
    if application == 0:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    migrate(connection)
    epoch = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    if epoch is None:
        raise StoreFormatError(f"{path} is damaged: it has no epoch")
    return str(epoch[0])
