"""What devices saw, written down at once: the proof that an acknowledged reading arrived is made from this.

One JSON object per line, each written by a single system call, so that the lines survive the process:
``{"t": ms since 1970, "e": event, "d": device, …}``. Events: ``paired``, ``up``, ``down`` (``why``), ``pub`` and
``ack`` (``id``; ``ms`` from transmission to PUBACK), ``drop`` (``id``), ``cmd`` and ``repeat`` (``id``), ``ota``
(``id``, ``state``), ``odd`` (``kind``: done wrong on purpose), ``pub0`` (a reading with QoS 0, which nobody promises),
``full``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from appliance.contract.times import Clock

LIMIT_BYTES = 2 << 30


class Recorder:
    """Counts events and, with a ``path``, appends them to a file of at most ``limit_bytes``."""

    def __init__(self, path: Path | None = None, *, clock: Clock | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        self._clock = clock or Clock()
        self._left_bytes = limit_bytes
        self._file: int | None = None
        self.counts: Counter[str] = Counter()
        if path is not None:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._left_bytes -= os.fstat(self._file).st_size

    def note(self, event: str, device: str, **more: Any) -> None:
        """Write one event down before the caller goes on. ``OSError`` if the disk refuses."""
        self.counts[event] += 1
        if self._file is None or self._left_bytes <= 0:
            return
        line = {"t": self._clock.now_ms(), "e": event, "d": device, **more}
        data = to_json(line) + b"\n"
        self._left_bytes -= len(data)
        if self._left_bytes <= 0:
            data = to_json({"t": line["t"], "e": "full", "d": device}) + b"\n"
        os.write(self._file, data)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass(slots=True)
class FleetRecord:
    """A record read back. Readings are (device, msg_id); latencies are (ms since 1970, ms until PUBACK)."""

    published: set[tuple[str, str]] = field(default_factory=set)
    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    dropped: set[tuple[str, str]] = field(default_factory=set)
    paired: set[str] = field(default_factory=set)
    lost_connections: list[tuple[int, str, str]] = field(default_factory=list)
    """(ms since 1970, device, reason) of each connection that ended."""
    latencies: list[tuple[int, float]] = field(default_factory=list)
    commands: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each (device, command id) was carried out."""
    odd: int = 0
    """What was said wrong on purpose."""
    complete: bool = True
    """False if the file reached its limit."""


def read_record(path: Path) -> FleetRecord:
    """Read a record, also one whose process was killed or still writes: a torn last line is left out."""
    record = FleetRecord()
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                _add(record, json.loads(line))
    return record


def _add(record: FleetRecord, line: dict[str, Any]) -> None:
    event, device = line["e"], line["d"]
    if event == "pub":
        record.published.add((device, line["id"]))
    elif event == "ack":
        record.acknowledged.add((device, line["id"]))
        record.latencies.append((line["t"], line["ms"]))
    elif event == "drop":
        record.dropped.add((device, line["id"]))
    elif event == "paired":
        record.paired.add(device)
    elif event == "down":
        record.lost_connections.append((line["t"], device, line["why"]))
    elif event == "cmd":
        record.commands[device, line["id"]] += 1
    elif event == "odd":
        record.odd += 1
    elif event == "full":
        record.complete = False
