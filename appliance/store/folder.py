"""The data folder: one process at a time, some space put by for the day the disk is full, and what failed syncs leave.

After a failed sync Linux calls the pages clean that never reached the medium: every process reads them, no later sync
writes them, and a power cut takes them. In the process that saw it happen SQLite writes all of them again. A process
that comes after it would take the log for good, build on it, and lose what it acknowledged. So a mark is left for it,
and where the mark stands the log is copied, synced and put in its own place before anything is read from it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from appliance.errors import StoreLockedError, StoreUnavailableError

FILE_NAME = "appliance.db"
NEW_FILE_BYTES = 64 << 10
"""A database file no larger may be one whose making failed; what grows beyond is always written by way of the log."""
RESTORE_MARK = "restore-unfinished"
"""While it stands, the folder holds a part of a backup only (:mod:`appliance.backup.restoring`)."""
VOLATILE = frozenset({"lock", "ballast", "sync-failed", RESTORE_MARK})
"""What belongs to this place and moment, not to the appliance."""
_COPIED_BYTES = 1 << 20
BALLAST_BYTES = 24 << 20
"""More than the log may hold: it must be possible to write all of it into the file, or nothing can ever be deleted."""


class DataFolder:
    """Lock and ballast of a folder; makes it where it is missing."""

    def __init__(self, path: Path, *, ballast_bytes: int) -> None:
        self.path = path
        self._ballast_bytes = ballast_bytes
        self.database_path = path / FILE_NAME
        self._log = path / f"{FILE_NAME}-wal"
        self._log_bytes = 0
        self._distrust = path / "sync-failed"
        self._ballast = path / "ballast"
        self._lock_file: int | None = None

    def lock(self, *, restoring: bool = False) -> None:
        """:class:`StoreLockedError` if another process has it, :class:`StoreUnavailableError` if it cannot be used.

        ``restoring``: also where a restore was cut off, which is to be done again.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock_file = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StoreUnavailableError(f"the data folder {self.path} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock_file)
            raise StoreLockedError(f"another appliance already works on the data folder {self.path}") from None
        self._lock_file = lock_file
        if not restoring and (self.path / RESTORE_MARK).exists():
            self.unlock()
            raise StoreUnavailableError(
                f"a backup was being put back into {self.path} and that was cut off: run iiot-appliance restore again"
            )

    def unlock(self) -> None:
        """Another process may have it now."""
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def distrust_log(self) -> None:
        """A sync has failed."""
        with suppress(OSError):
            self._distrust.touch()

    def trust_log(self) -> None:
        """Everything has been written and synced since."""
        with suppress(OSError):
            self._distrust.unlink(missing_ok=True)

    def renew_log(self) -> None:
        """If a sync has failed in a process before this one: write the log anew. :class:`StoreUnavailableError`."""
        try:
            if not self._distrust.exists():
                return
            if self._log.exists():
                _renew(self._log)
            if self.database_path.exists() and self.database_path.stat().st_size <= NEW_FILE_BYTES:
                _renew(self.database_path)
            _sync_folder(self.path)
            self._distrust.unlink()
        except OSError as error:
            raise StoreUnavailableError(f"the database's log cannot be written anew: {error.strerror}") from error

    def log_has_outgrown(self) -> bool:
        """Whether the database's log has grown, and beyond what the ballast can pay for."""
        before = self._log_bytes
        try:
            self._log_bytes = self._log.stat().st_size
        except OSError:
            return False
        return before < self._log_bytes > self._ballast_bytes * 3 // 4

    def keep_ballast(self) -> bool:
        """Put the space by that :meth:`release_ballast` gives back; whether there is enough for it."""
        try:
            with self._ballast.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, self._ballast_bytes)
        except OSError:
            with suppress(OSError):
                self._ballast.unlink(missing_ok=True)
            return False
        return True

    def release_ballast(self) -> bool:
        """If the disk is full: give the space back, so that deleting rows is possible at all. Whether it was."""
        try:
            if shutil.disk_usage(self.path).free < self._ballast_bytes:
                self._ballast.unlink()
                return True
        except OSError:  # there is none, or the disk is past help
            pass
        return False


def _renew(path: Path) -> None:
    """Put a synced copy in the file's place."""
    copy = path.with_name(f"{path.name}-renewed")
    with path.open("rb") as old, copy.open("wb") as new:
        while data := old.read(_COPIED_BYTES):
            new.write(data)
        new.flush()
        os.fsync(new.fileno())
    os.replace(copy, path)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
