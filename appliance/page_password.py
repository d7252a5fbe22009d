"""The password of the status pages: one for the box, made at the first start, hashed with argon2.

Two files in the data folder, both for its user alone: ``page_password.hash``, and ``page_password`` with the first
password in plain text, for whoever installs the box. That one goes as soon as somebody has logged in with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import secrets
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import BusyError, DataFolderError, PasswordRefusedError
from appliance.secret_files import secret_file, write_file

if TYPE_CHECKING:
    from argon2 import PasswordHasher

FIRST_FILE, HASH_FILE = "page_password", "page_password.hash"
SHORTEST, LONGEST = 10, 256
MEMORY_KIB, PASSES = 19_456, 2
"""What OWASP recommends for argon2id with one lane: about 20 ms of a desktop's core, 19 MiB while it lasts."""
AT_ONCE = 1
MOST_WAITING = 16
"""Logins that wait for their turn; one more is turned away at once."""
_ALPHABET = "23456789bcdfghjkmnpqrstvwxz"
"""Without what is mistaken for something else, and without vowels, so that no words come out."""
_GROUPS, _GROUP = 4, 4
_M_MMAP_THRESHOLD, _GIVEN_BACK_FROM_BYTES = -3, 8 << 20


class PagePassword:
    """Verifies and changes it. Hashing takes time and memory: it happens in a thread, one at a time."""

    def __init__(self, folder: Path, hashed: str) -> None:
        self._folder = folder
        self._hash = hashed
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self.generation = 0
        """Counts up with each change: who logged in with an earlier password has to do so again."""

    @classmethod
    def open(cls, folder: Path) -> PagePassword:
        """Read what there is, or make the first password. Touches the disk; ``DataFolderError``."""
        path = folder / HASH_FILE
        if not path.exists():
            # this one is there already where the first start was cut off between the two
            first = secret_file(folder / FIRST_FILE, lambda: f"{generate()}\n".encode()).decode().strip()
            write_file(path, f"{_hasher().hash(_normal(first))}\n".encode(), replace=False)
        try:
            hashed = path.read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise DataFolderError(f"{path} cannot be read: {error}") from error
        if not hashed.startswith("$argon2"):
            raise DataFolderError(f"{path} is damaged: remove it and a new password is made")
        return cls(folder, hashed)

    async def verify(self, presented: str) -> bool:
        """Whether this is the password. ``BusyError`` where too many wait to know that."""
        if not presented or len(presented) > LONGEST:
            return False
        if self._waiting >= MOST_WAITING:
            raise BusyError("too many log in at this moment; try again", retry_after_s=1)
        self._waiting += 1
        try:
            async with self._turn:
                valid = await asyncio.to_thread(_is_valid, self._hash, presented)
        finally:
            self._waiting -= 1
        if valid:
            with suppress(DataFolderError):  # a sick disk keeps nobody from looking at what is wrong
                await asyncio.to_thread(self._forget_first)
        return valid

    async def change(self, new: str | None = None) -> str | None:
        """Take a new password; without one it is made, and returned. ``PasswordRefusedError``, ``DataFolderError``."""
        made = generate() if new is None else None
        password = (made or new or "").strip()
        if len(password) < SHORTEST:
            raise PasswordRefusedError(f"a password needs at least {SHORTEST} characters")
        if len(password) > LONGEST:
            raise PasswordRefusedError(f"a password has at most {LONGEST} characters")
        async with self._turn:
            self._hash = await asyncio.to_thread(self._write, password)
            self.generation += 1
        return made

    def _write(self, password: str) -> str:
        hashed = _hasher().hash(_normal(password))
        self._forget_first()
        write_file(self._folder / HASH_FILE, f"{hashed}\n".encode(), replace=True)
        return hashed

    def _forget_first(self) -> None:
        try:
            (self._folder / FIRST_FILE).unlink(missing_ok=True)
        except OSError as error:
            raise DataFolderError(f"{self._folder / FIRST_FILE}: {error.strerror}") from error


def generate() -> str:
    """A password of 76 random bits that people can read out and type."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
    return "-".join(groups)


def _normal(password: str) -> bytes:
    """The same bytes whatever keyboard it was typed on."""
    return unicodedata.normalize("NFKC", password.strip()).encode("utf-8", "surrogatepass")


def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # until somebody logs in nobody needs it

    # glibc would keep the 19 MiB of a hash for the next one, which may come in a month: what is as large goes back to
    # the system at once. Other libraries lack the call, or do so anyway.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK_FROM_BYTES)
    return PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=1)


def _is_valid(hashed: str, presented: str) -> bool:
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return _hasher().verify(hashed, _normal(presented))
    except (Argon2Error, InvalidHashError):
        return False
