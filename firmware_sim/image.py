"""Firmware images: a line that says what they are, then bytes. Any other file is taken too, and works."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

MAGIC = b"IIOT-FIRMWARE "
LONGEST_LINE_BYTES = 512
Flaw = Literal["boot", "connect"]
FLAWS: dict[str, str] = {
    "boot": "crashes when it starts",
    "connect": "starts, and never reaches the appliance",
}
"""What may be wrong with an image."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an image says of itself; ``bad`` names its flaw."""

    version: str | None = None
    bad: Flaw | None = None


def make(version: str, size: int, *, bad: Flaw | None = None, seed: int = 0) -> bytes:
    """An image of about ``size`` bytes, never less than its first line; the same ``seed`` gives the same bytes."""
    line = MAGIC + json.dumps({"version": version, "bad": bad}).encode() + b"\n"
    return line + Random(seed).randbytes(max(0, size - len(line)))


def read_header(path: Path) -> Header:
    """The first line; an image without one has neither a version of its own nor a flaw. ``OSError`` if unreadable."""
    with path.open("rb") as file:
        line = file.readline(LONGEST_LINE_BYTES)
    if not line.startswith(MAGIC):
        return Header()
    try:
        content = json.loads(line.removeprefix(MAGIC))
    except ValueError:
        return Header()
    version, bad = (content.get("version"), content.get("bad")) if isinstance(content, dict) else (None, None)
    return Header(version if isinstance(version, str) else None, bad if bad in FLAWS else None)


def checksum(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits. ``OSError`` if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
