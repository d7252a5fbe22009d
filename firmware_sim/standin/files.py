"""Firmware files that this Odoo has: made or uploaded, with the checksum that an update needs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

from firmware_sim.image import FLAWS, Flaw, make
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.state import State

SCHEMA = """
CREATE TABLE IF NOT EXISTS firmware (
    id INTEGER PRIMARY KEY, version TEXT NOT NULL, bad TEXT, size INTEGER NOT NULL, sha256 TEXT NOT NULL,
    content BLOB NOT NULL
) STRICT;
"""
MOST_FILES = 100
MOST_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
USUAL_BYTES = 200_000
FILE_PATH = "/iiot/firmware/{firmware}/file"


class Files:
    """All firmware of this Odoo."""

    def __init__(self, *, state: State) -> None:
        self._state = state
        state.connection.executescript(SCHEMA)

    def make(self, order: dict[str, Any]) -> dict[str, Any]:
        """Make an image: ``{"version", "size"?, "bad"?}``; ``RefusalError``."""
        size, bad = order.get("size", USUAL_BYTES), order.get("bad")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MOST_BYTES:
            raise RefusalError(422, "bad_request", f"size must be a number from 1 to {MOST_BYTES}")
        if bad is not None and bad not in FLAWS:
            raise RefusalError(422, "bad_request", f"bad must be one of {', '.join(FLAWS)}")
        flaw: Flaw | None = bad
        version = _version(order.get("version"))
        return self.add(version, make(version, size, bad=flaw, seed=len(self.all())), bad=flaw)

    def add(self, version: str, content: bytes, *, bad: str | None = None) -> dict[str, Any]:
        """Keep a file; ``RefusalError`` if it is empty, too large, or one too many."""
        if not 0 < len(content) <= MOST_BYTES:
            raise RefusalError(413 if content else 422, "bad_request", f"a file has 1 to {MOST_BYTES} bytes")
        if len(self.all()) >= MOST_FILES:
            raise RefusalError(409, "too_many", f"there are {MOST_FILES} files")
        cursor = self._state.connection.execute(
            "INSERT INTO firmware (version, bad, size, sha256, content) VALUES (?, ?, ?, ?, ?)",
            (_version(version), bad, len(content), hashlib.sha256(content).hexdigest(), content),
        )
        return self.one(int(cursor.lastrowid or 0))

    def all(self) -> list[dict[str, Any]]:
        """What there is, without contents."""
        rows = self._state.rows("SELECT id, version, bad, size, sha256 FROM firmware ORDER BY id")
        return [
            {"id": row[0], "version": row[1], "bad": row[2], "size": row[3], "sha256": row[4]}
            | {"path": FILE_PATH.format(firmware=row[0])}
            for row in rows
        ]

    def one(self, number: int) -> dict[str, Any]:
        """One of them; ``RefusalError`` 404."""
        found = [file for file in self.all() if file["id"] == number]
        if not found:
            raise RefusalError(404, "unknown_firmware", "no such firmware")
        return found[0]

    def remove(self, number: int) -> None:
        """Forget one."""
        self.one(number)
        self._state.connection.execute("DELETE FROM firmware WHERE id = ?", (number,))

    async def read(self, number: int, first: int, last: int, *, corrupt: bool) -> AsyncIterator[bytes]:
        """Bytes from ``first`` to ``last``, both included, in pieces; ``corrupt`` turns over the last of them."""
        for start in range(first, last + 1, PIECE_BYTES):
            end = min(start + PIECE_BYTES, last + 1)
            with self._state.connection.blobopen("firmware", "content", number, readonly=True) as blob:
                piece = bytes(blob[start:end])
            if corrupt and end == last + 1:
                piece = piece[:-1] + bytes((piece[-1] ^ 0xFF,))
            yield piece


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a ``Range`` with one range; ``None`` if there is none, or one that is not understood.

    ``RefusalError`` 416 if it lies outside (RFC 9110 §14).
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (header or "").replace(" ", ""))
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last or size - 1), size - 1)
    if start >= size or (first and last and int(last) < int(first)) or last == "0" * len(last) != "" == first:
        raise RefusalError(416, "bad_range", "outside the file", headers={"Content-Range": f"bytes */{size}"})
    return start, end


def _version(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise RefusalError(422, "bad_request", "version must be a text of 1 to 64 characters")
    return value
