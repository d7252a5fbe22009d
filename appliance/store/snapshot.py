"""The database file as it is at one moment, read as it lies on the disk while the appliance goes on writing.

A transaction that reads keeps SQLite from writing anything newer than it into the file: newer pages stay in the log.
So once the log has been written into the file up to that moment, the file holds the database of that moment, and can
be read from front to back like any other: no second copy of it is needed, and nobody waits. Meanwhile the log cannot
be begun anew and grows, which is why there are bounds.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from appliance.errors import StoreFormatError, StoreUnavailableError
from appliance.store.connection import is_damage
from appliance.store.meta import pragma
from appliance.store.schema import APPLICATION_ID, unknown_migrations

MOST_LOG_BYTES = 256 << 20
"""What may gather in the log while the file is read."""
TRIES_S = 30.0
"""How long another reader may keep the log from being written into the file."""
_PAUSE_S = 0.02


class Snapshot:
    """A file-like object over the database, for one user of the machine that may write to it: the appliance's, or root.

    Enter it, and :meth:`read` ``size_bytes`` bytes. :class:`StoreUnavailableError`, :class:`StoreFormatError`.
    """

    def __init__(self, path: Path, *, most_log_bytes: int = MOST_LOG_BYTES) -> None:
        self.size_bytes = 0
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._most_log_bytes = most_log_bytes
        self._stack = ExitStack()
        self._connection: sqlite3.Connection

    def __enter__(self) -> Self:
        if self._path.with_name("sync-failed").exists():
            raise StoreUnavailableError("the disk has failed to write, and the appliance has not mended its log since")
        with ExitStack() as stack:
            try:
                # closed last: to close any descriptor of the file takes SQLite's locks on it away
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, self._file)
                self._connection = self._open(stack)
                self._pin(self._open(stack))
            except sqlite3.Error as error:
                if is_damage(error):
                    raise StoreFormatError(f"{self._path} is damaged or no database: {error}") from error
                raise StoreUnavailableError(f"{self._path} cannot be read: {error}") from error
            except OSError as error:
                raise StoreUnavailableError(f"{self._path} cannot be read: {error.strerror}") from error
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def read(self, count: int) -> bytes:
        """The next bytes of the file; nothing at its end."""
        position = os.lseek(self._file, 0, os.SEEK_CUR)
        if self._log_bytes() > self._most_log_bytes:
            raise StoreUnavailableError("so much was written meanwhile that the copy was given up: take a faster disk")
        try:
            return os.read(self._file, max(min(count, self.size_bytes - position), 0))
        except OSError as error:
            raise StoreUnavailableError(f"{self._path} cannot be read: {error.strerror}") from error

    def flaws(self, within_s: float) -> list[str] | None:
        """What is wrong with the database, ten sentences at most; ``None`` if time was too short for all of it."""
        return find_flaws(self._connection, within_s)

    def _open(self, stack: ExitStack) -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{quote(str(self._path))}?mode=rw", uri=True, isolation_level=None)
        stack.callback(connection.close)
        connection.execute("PRAGMA busy_timeout = 5000")
        return connection

    def _pin(self, other: sqlite3.Connection) -> None:
        """Stay at this moment, with all of it in the file."""
        connection = self._connection
        try:
            check_ours(connection, self._path)
        except sqlite3.DatabaseError as error:
            # damaged: a copy of what is there is better than none, and flaws() tells
            if not is_damage(error) or pragma(connection, "application_id") != APPLICATION_ID:
                raise
        end = time.monotonic() + TRIES_S
        while True:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            connection.execute("BEGIN")
            pragma(connection, "page_count")  # the moment is that of the first look
            busy, in_log, in_file = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if not busy and in_log == in_file:
                break
            # something was committed just now, or somebody still reads what was before
            connection.execute("ROLLBACK")
            if time.monotonic() > end:
                raise StoreUnavailableError("another program has been reading the database file for too long")
            time.sleep(_PAUSE_S)
        self.size_bytes = pragma(connection, "page_count") * pragma(connection, "page_size")

    def _log_bytes(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:
            return 0


def check_ours(connection: sqlite3.Connection, path: Path) -> None:
    """:class:`StoreFormatError` unless this version can read it."""
    if pragma(connection, "application_id") != APPLICATION_ID:
        raise StoreFormatError(f"{path} is no database of an appliance")
    newer = unknown_migrations(connection)
    if newer:
        raise StoreFormatError(f"{path} was written by a newer version (it has {', '.join(newer)})")


def find_flaws(connection: sqlite3.Connection, within_s: float) -> list[str] | None:
    """What ``PRAGMA quick_check`` finds; ``None`` if it did not come to an end in time."""
    done = threading.Event()

    def stop_in_time() -> None:
        # again and again: it has no effect while no statement is under way
        overdue = not done.wait(within_s)
        while overdue and not done.wait(0.001):
            connection.interrupt()

    timer = threading.Thread(target=stop_in_time, name="quick_check", daemon=True)
    timer.start()
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(10)")]
    except sqlite3.DatabaseError as error:
        return None if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT else [str(error)]
    finally:
        done.set()
        timer.join()
    return [] if found == ["ok"] else found


def check_copy(path: Path) -> None:
    """Look at a copy that nobody uses yet, from front to back. :class:`StoreFormatError` if it cannot be used."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        check_ours(connection, path)
        flaws = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(10)")]
    except sqlite3.Error as error:
        raise StoreFormatError(f"{path} is damaged: {error}") from error
    finally:
        connection.close()
    if flaws != ["ok"]:
        raise StoreFormatError(f"{path} is damaged: {'; '.join(flaws)[:500]}")
