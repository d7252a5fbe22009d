"""The data folder: one process at a time, and some space put by for the day the disk is full."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from appliance.errors import StoreLockedError, StoreUnavailableError

FILE_NAME = "appliance.db"
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
        self._ballast = path / "ballast"
        self._lock_file: int | None = None

    def lock(self) -> None:
        """:class:`StoreLockedError` if another process has it, :class:`StoreUnavailableError` if it cannot be used."""
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

    def unlock(self) -> None:
        """Another process may have it now."""
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

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
