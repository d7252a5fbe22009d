"""Firmware files in the data folder, by their SHA-256; bounded by a quota, and by what must stay free on the disk.

A file is written as ``<name>.part`` and gets its own name, whole and synced, by one rename: what has that name is what
was checked. All work on the disk is done in a few threads of its own: neither the event loop waits for it, nor do
others that need a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from appliance.errors import FirmwareError

log = logging.getLogger(__name__)
T = TypeVar("T")

THREADS = 4
KEEP_FREE_BYTES = 256 << 20
"""Of the disk: readings go before firmware."""
_READ_BYTES = 1 << 20
_FILE = re.compile(r"[0-9a-f]{64}")
_PART = ".part"


class FirmwareFiles:
    """The folder. Call :meth:`load` first; methods belong to the event loop's thread."""

    def __init__(
        self, folder: Path, *, quota_bytes: int, most_bytes: int, keep_free_bytes: int = KEEP_FREE_BYTES
    ) -> None:
        self.most_bytes = most_bytes
        """Of one file."""
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._keep_free_bytes = keep_free_bytes
        self._sizes: dict[str, int] = {}
        """Of the files, the one that was not used for longest first."""
        self._reserved: dict[str, int] = {}
        """By the name of a part, what it may grow to."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="firmware")

    async def load(self) -> None:
        """Look at what is there. A folder that cannot be used is an error only when a file is to be fetched."""
        try:
            files, parts = await self.in_thread(self._look)
        except OSError as error:
            log.error("the firmware folder cannot be used: %s", error.strerror)
            return
        self._sizes, self._reserved = files, parts

    async def close(self) -> None:
        """End the threads once they have done what they do."""
        await asyncio.to_thread(self._threads.shutdown)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do something on the disk."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # --- whole files -----------------------------------------------------------------------------------------

    @property
    def total_bytes(self) -> int:
        """Of all files and of what is under way."""
        return sum(self._sizes.values()) + sum(self._reserved.values())

    @property
    def count(self) -> int:
        """How many whole files are here."""
        return len(self._sizes)

    def size(self, sha256: str) -> int | None:
        """Size of a file that is here."""
        return self._sizes.get(sha256)

    async def use(self, sha256: str) -> None:
        """It was used just now: others go before it."""
        if sha256 in self._sizes:
            self._sizes[sha256] = self._sizes.pop(sha256)
            with suppress(OSError):
                await self.in_thread(partial(os.utime, self._folder / sha256))

    async def open(self, sha256: str) -> int | None:
        """A descriptor to read from, which the caller closes; it stays good when the file goes. ``None``: not here."""
        if sha256 not in self._sizes:
            return None
        try:
            return await self.in_thread(partial(os.open, self._folder / sha256, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            # somebody has removed it by hand
            self._sizes.pop(sha256, None)
            return None

    # --- files under way -------------------------------------------------------------------------------------

    async def begin(self, name: str, *, resume: bool) -> Part:
        """A part to write to; with ``resume`` it goes on where it ended, else from the beginning. ``FirmwareError``."""
        self._reserved.setdefault(name, 0)
        part = Part(self, self._folder / f"{name}{_PART}", name)
        try:
            await self.in_thread(partial(part.open, resume=resume))
        except OSError as error:
            raise FirmwareError(f"the file cannot be kept: {error.strerror}") from error
        return part

    async def reserve(self, name: str, size: int, *, written: int, needed: Collection[str]) -> None:
        """Make room for a part of this size; files that nobody needs go, the one not used for longest first.

        What was promised to it before is looked at again: others have written to the disk since.
        :class:`FirmwareError` if there is no room for it.
        """
        before = self._reserved.get(name, 0)
        self._reserved[name] = max(size, before)
        going = [sha256 for sha256 in self._sizes if sha256 not in needed]
        free = await self.in_thread(lambda: shutil.disk_usage(self._folder).free)
        while self.total_bytes > self._quota_bytes or free - (size - written) < self._keep_free_bytes:
            if not going:
                break
            free += await self._remove(going.pop(0))
        if self.total_bytes > self._quota_bytes:
            self._reserved[name] = before
            text = f"no room for {size} bytes beside the firmware that is needed (IIOT_FIRMWARE_QUOTA_MB)"
            raise FirmwareError(text)
        if free - (size - written) < self._keep_free_bytes:
            self._reserved[name] = before
            raise FirmwareError(f"the disk is nearly full: {free >> 20} MiB are free")

    async def abandon(self, name: str) -> None:
        """Remove a part."""
        self._reserved.pop(name, None)
        with suppress(OSError):
            await self.in_thread(partial((self._folder / f"{name}{_PART}").unlink, missing_ok=True))

    async def clean(self, needed_parts: Collection[str]) -> None:
        """Remove parts that nobody will go on with."""
        for name in [name for name in self._reserved if name not in needed_parts]:
            await self.abandon(name)

    def adopt(self, name: str, sha256: str, size: int) -> None:
        """A part has become a file."""
        self._reserved.pop(name, None)
        self._sizes.pop(sha256, None)
        self._sizes[sha256] = size

    async def _remove(self, sha256: str) -> int:
        size = self._sizes.pop(sha256, 0)
        with suppress(OSError):
            await self.in_thread(partial((self._folder / sha256).unlink, missing_ok=True))
        log.info("firmware %s was removed to make room", sha256)
        return size

    def _look(self) -> tuple[dict[str, int], dict[str, int]]:
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        found = [(path, path.stat()) for path in self._folder.iterdir()]
        found.sort(key=lambda entry: entry[1].st_mtime)
        files = {path.name: stat.st_size for path, stat in found if _FILE.fullmatch(path.name)}
        parts = {path.name.removesuffix(_PART): stat.st_size for path, stat in found if path.name.endswith(_PART)}
        return files, parts


class Part:
    """A file under way: its bytes on disk, their number and their SHA-256 so far. One writer, one step at a time."""

    def __init__(self, files: FirmwareFiles, path: Path, name: str) -> None:
        self.size = 0
        self.resumed = False
        """Whether some of it was written by an earlier process, or over an earlier connection."""
        self.needed: Callable[[], Collection[str]] = frozenset
        """Which files must stay when room is made."""
        self._files = files
        self._path = path
        self._name = name
        self._descriptor = -1
        self._hash = hashlib.sha256()

    @property
    def most_bytes(self) -> int:
        """The largest file that is taken."""
        return self._files.most_bytes

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._hash.hexdigest()

    def open(self, *, resume: bool) -> None:
        """In a thread."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if resume else os.O_TRUNC)
        self._descriptor = os.open(self._path, flags, 0o640)
        while data := os.pread(self._descriptor, _READ_BYTES, self.size):
            self._hash.update(data)
            self.size += len(data)
        self.resumed = self.size > 0

    async def reserve(self, size: int) -> None:
        """Room for this size in all; :class:`FirmwareError`."""
        await self._files.reserve(self._name, size, written=self.size, needed=self.needed())

    async def write(self, data: bytes) -> None:
        """Add to its end; :class:`FirmwareError`."""
        await self.reserve(self.size + len(data))
        try:
            await self._files.in_thread(partial(self._write, data))
        except OSError as error:
            raise FirmwareError(f"the file cannot be written: {error.strerror}") from error

    async def restart(self) -> None:
        """Forget what was written."""
        self._hash = hashlib.sha256()
        self.size = 0
        self.resumed = False
        await self._files.in_thread(partial(os.ftruncate, self._descriptor, 0))

    async def finish(self) -> str:
        """Sync it and give it its name; returns that. :class:`FirmwareError`."""
        sha256 = self.sha256
        try:
            await self._files.in_thread(partial(self._finish, sha256))
        except OSError as error:
            raise FirmwareError(f"the file cannot be kept: {error.strerror}") from error
        self._files.adopt(self._name, sha256, self.size)
        return sha256

    def close(self) -> None:
        """What was written stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._descriptor, rest, self.size)
            self._hash.update(rest[:written])
            self.size += written
            rest = rest[written:]

    def _finish(self, sha256: str) -> None:
        os.fsync(self._descriptor)
        os.replace(self._path, self._path.with_name(sha256))
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
