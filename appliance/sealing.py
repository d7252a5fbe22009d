"""Encryption with a passphrase, for what leaves the box: backups, and the identity that Odoo keeps.

The format is a head and pieces of 1 MiB, each encrypted and authenticated on its own (AES-256-GCM), so that gigabytes
pass through little memory. A piece's nonce holds its number and whether it is the last one, so pieces can neither be
swapped nor left out, nor can the end be cut off (the construction is STREAM: Hoang, Reyhanitabar, Rogaway, Vizár 2015).
The key comes from the passphrase by scrypt (RFC 7914), and the head says with which cost.

    "IIOTSEAL" version(1) log2 N(1) r(1) p(1) salt(16) nonce prefix(7), then pieces
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import RawIOBase
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from appliance.errors import SealError

MAGIC = b"IIOTSEAL"
_HEAD = struct.Struct(">8s4B16s7s")
_NONCE = struct.Struct(">7sIB")
_VERSION = 1
PIECE_BYTES = 1 << 20
_TAG_BYTES = 16
_KEY_BYTES = 32
MOST_LOG2_N = 20
"""A file may not make us spend more than a gigabyte on finding its key."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of scrypt: with these 64 MiB, and a second on a small box."""

    log2_n: int = 16
    r: int = 8
    p: int = 1

    @property
    def allowed(self) -> bool:
        """Whether one may be asked to do it."""
        return 1 <= self.log2_n <= MOST_LOG2_N and 1 <= self.r <= 8 and 1 <= self.p <= 4


@dataclass(frozen=True, slots=True)
class SealKey:
    """A key with what it was derived from, but for the passphrase."""

    salt: bytes
    key: bytes = field(repr=False)
    cost: Cost = Cost()


def derive_key(passphrase: str, *, salt: bytes | None = None, cost: Cost = Cost()) -> SealKey:
    """The key for a passphrase, with a new salt unless one is given. Takes a second, and 64 MiB meanwhile."""
    salt = secrets.token_bytes(16) if salt is None else salt
    derived = Scrypt(salt=salt, length=_KEY_BYTES, n=1 << cost.log2_n, r=cost.r, p=cost.p).derive(passphrase.encode())
    return SealKey(salt, derived, cost)


class SealingWriter(RawIOBase):
    """Encrypts what is written to it and writes that to ``file``. Only :meth:`finish` makes it a whole."""

    def __init__(self, file: BinaryIO, key: SealKey) -> None:
        super().__init__()
        self._file = file
        self._cipher = AESGCM(key.key)
        self._prefix = secrets.token_bytes(7)
        cost = key.cost
        self._head = _HEAD.pack(MAGIC, _VERSION, cost.log2_n, cost.r, cost.p, key.salt, self._prefix)
        self._number = 0
        self._pending = bytearray()
        file.write(self._head)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Take all of ``data``."""
        self._pending += data
        # a full piece waits until it is known not to be the last
        while len(self._pending) > PIECE_BYTES:
            self._put(bytes(self._pending[:PIECE_BYTES]), last=False)
            del self._pending[:PIECE_BYTES]
        return len(data)

    def finish(self) -> None:
        """Write the last piece."""
        self._put(bytes(self._pending), last=True)
        self._pending.clear()

    def _put(self, piece: bytes, *, last: bool) -> None:
        nonce = _NONCE.pack(self._prefix, self._number, last)
        self._file.write(self._cipher.encrypt(nonce, piece, self._head))
        self._number += 1


class SealedReader(RawIOBase):
    """The plain text of a sealed file that stands at its beginning. :class:`SealError` as soon as something is wrong.

    The key is found with ``passphrase``, or is the one given.
    """

    def __init__(self, file: BinaryIO, *, passphrase: str | None = None, key: SealKey | None = None) -> None:
        super().__init__()
        self._head = file.read(_HEAD.size)
        salt, cost, self._prefix = _read_head(self._head)
        if key is None:
            key = derive_key(passphrase or "", salt=salt, cost=cost)
        self._cipher = AESGCM(key.key)
        self._pieces = self._open(file)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 at the end, which is told only where nothing is missing."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def _open(self, file: BinaryIO) -> Iterator[bytes]:
        number, last = 0, False
        piece = file.read(PIECE_BYTES + _TAG_BYTES)
        while not last:
            following = file.read(PIECE_BYTES + _TAG_BYTES)
            last = not following
            try:
                yield self._cipher.decrypt(_NONCE.pack(self._prefix, number, last), piece, self._head)
            except InvalidTag:
                why = "the passphrase is wrong, or it is damaged" if number == 0 else "it is damaged or cut off"
                raise SealError(f"it cannot be decrypted: {why}") from None
            piece, number = following, number + 1


def is_sealed(head: bytes) -> bool:
    """Whether a file that begins with these bytes is encrypted by this module."""
    return head.startswith(MAGIC)


def seal(plain: bytes, key: SealKey) -> bytes:
    """Encrypt what is small."""
    from io import BytesIO

    file = BytesIO()
    writer = SealingWriter(file, key)
    writer.write(plain)
    writer.finish()
    return file.getvalue()


def unseal(sealed: bytes, passphrase: str) -> bytes:
    """The reverse. :class:`SealError`."""
    from io import BytesIO

    return SealedReader(BytesIO(sealed), passphrase=passphrase).readall()


def _read_head(head: bytes) -> tuple[bytes, Cost, bytes]:
    if len(head) < _HEAD.size or not is_sealed(head):
        raise SealError("it is not encrypted by an appliance, or cut off")
    _, version, log2_n, r, p, salt, prefix = _HEAD.unpack(head)
    cost = Cost(log2_n, r, p)
    if version != _VERSION or not cost.allowed:
        raise SealError("it was encrypted in a way that this version does not know")
    return salt, cost, prefix


def main() -> None:
    """``python -m appliance.sealing``: encrypt standard input, whose first line is the key as JSON.

    A process of its own: the library takes 10 MB of memory, and the appliance needs it once in months.
    """
    import json
    import sys
    from base64 import b64decode

    given = json.loads(sys.stdin.buffer.readline())
    cost = Cost(given["log2_n"], given["r"], given["p"])
    key = SealKey(b64decode(given["salt"]), b64decode(given["key"]), cost)
    sys.stdout.buffer.write(seal(sys.stdin.buffer.read(), key))


if __name__ == "__main__":
    main()
