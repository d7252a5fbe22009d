"""A disk that can fail and lose power: the library ``disk.c``, its record, and the files as they could be after a cut.

The kernel keeps what is written and not yet synced in memory; when the power goes, any part of it may have reached the
medium. A failed sync is worse: Linux then calls the pages clean, and only what is written again is synced later.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

SECTOR_BYTES = 512
ACKS = "acks"
"""A file of the watched folder: what the child wrote into it was acknowledged; its moments count, not its syncs."""
_HEAD = struct.Struct("=cBQQ")


def build_library(folder: Path) -> Path | str:
    """Compile ``disk.c``; a reason if that is not possible here."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return "no C compiler here"
    library = folder / "disk.so"
    source = Path(__file__).with_name("disk.c")
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl", "-lpthread"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return library if result.returncode == 0 else f"the compiler fails: {result.stderr[:200]}"


@dataclass(frozen=True, slots=True)
class Event:
    """One call of the recorded process: see ``disk.c`` for the letters."""

    operation: str
    name: str
    offset: int = 0
    data: bytes = b""


def read_log(path: Path) -> list[Event]:
    """The record of a process."""
    return list(_events(path.read_bytes()))


def _events(record: bytes) -> Iterator[Event]:
    position = 0
    while position + _HEAD.size <= len(record):
        operation, name_length, offset, length = _HEAD.unpack_from(record, position)
        position += _HEAD.size
        name = record[position : position + name_length].decode()
        position += name_length
        data = record[position : position + length] if operation in b"wr" else b""
        position += len(data)
        yield Event(operation.decode(), name, offset, data)


class File:
    """A file as the medium has it (``durable``) and what has been done to it since its last sync."""

    def __init__(self) -> None:
        self.durable = bytearray()
        self.pending: list[Event] = []

    def synced(self) -> None:
        for event in self.pending:
            _apply(self.durable, event)
        self.pending.clear()

    def sync_failed(self) -> None:
        """The pages are called clean now although they are not on the medium, and never will be of themselves."""
        for event in self.pending:
            if event.operation == "t":  # the size is the file system's own business
                _apply(self.durable, event)
        self.pending.clear()

    def after_cut(self, loss: str, random: Random) -> bytes:
        """The content after a power cut, one of many possible: see :data:`LOSSES`."""
        content = bytearray(self.durable)
        for event in self.pending if loss != "lost" else []:
            if loss == "kept":
                _apply(content, event)
            elif loss == "torn" and random.random() < 0.03:
                cut = random.randrange(len(event.data) + 1)
                _apply(content, Event("w", event.name, event.offset, event.data[:cut]))
                break
            elif loss == "torn":
                _apply(content, event)
            elif event.operation == "w":
                _apply_sectors(content, event, random)
            elif random.random() < 0.5:
                _apply(content, event)
        return bytes(content)


LOSSES = ("lost", "kept", "sectors", "torn")
"""What has not been synced is lost, kept, kept in single sectors, or kept up to a point in the middle of a write."""


def _apply(content: bytearray, event: Event) -> None:
    if event.operation == "t":
        del content[event.offset :]
        content.extend(bytes(event.offset - len(content)))
        return
    if not event.data:
        return
    content.extend(bytes(max(event.offset - len(content), 0)))
    content[event.offset : event.offset + len(event.data)] = event.data


def _apply_sectors(content: bytearray, event: Event, random: Random) -> None:
    for start in range(0, len(event.data), SECTOR_BYTES):
        if random.random() < 0.5:
            data = event.data[start : start + SECTOR_BYTES]
            _apply(content, Event("w", event.name, event.offset + start, data))


@dataclass
class Medium:
    """All files of the folder, as the events of a record change them one by one."""

    files: dict[str, File] = field(default_factory=dict)
    acks: bytearray = field(default_factory=bytearray)
    made: set[str] = field(default_factory=set)
    """Files made since the folder was last synced."""
    removed: dict[str, File] = field(default_factory=dict)
    """Files removed since the folder was last synced; they may come back."""

    def happen(self, event: Event) -> None:
        if event.name == ACKS:
            if event.operation == "w":
                self.acks += event.data
            return
        if event.operation == "d":
            self.made.clear()
            self.removed.clear()
        elif event.operation == "c":
            self.files[event.name] = File()
            self.made.add(event.name)
        elif event.operation == "u":
            file = self.files.pop(event.name, None)
            if file is not None and event.name not in self.made:
                self.removed[event.name] = file
        elif event.operation == "r":
            self._rename(event.name, event.data.decode())
        elif event.operation == "s":
            self.files[event.name].synced()
        elif event.operation == "S":
            self.files[event.name].sync_failed()
        else:
            self.files.setdefault(event.name, File()).pending.append(event)

    def _rename(self, old: str, new: str) -> None:
        replaced = self.files.pop(new, None)
        if replaced is None:
            self.made.add(new)
        elif new not in self.made:
            self.removed[new] = replaced
        self.files[new] = self.files.pop(old)
        self.made.discard(old)

    def write_after_cut(self, folder: Path, loss: str, random: Random) -> None:
        """Make the folder as it could be after a power cut now."""
        folder.mkdir()
        files = self.files
        if loss == "lost":
            files = {name: file for name, file in files.items() if name not in self.made} | self.removed
        for name, file in files.items():
            (folder / name).write_bytes(file.after_cut(loss, random))


def environment(library: Path, folder: Path, **more: str) -> dict[str, str]:
    """For a child whose disk is watched."""
    return {**os.environ, "LD_PRELOAD": str(library), "DISK_FOLDER": str(folder), **more}
