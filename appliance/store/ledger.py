"""Counts per device, written in the transaction of what they count: received = stored + waiting + parked."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

TOPIC_CHARACTERS = 256
UNKNOWN_DEVICE = "?"
"""Whose readings were damaged so that their device cannot be told; no device is called so."""


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One device's readings. ``refused`` counts publishes that were acknowledged and dropped, ``repeated`` repeats
    of a ``msg_id``; neither is part of ``received``."""

    device: str
    received: int
    stored: int
    parked: int
    refused: int
    repeated: int

    @property
    def waiting(self) -> int:
        """Readings on this disk that Odoo does not have yet."""
        return self.received - self.stored - self.parked


def count_readings(
    connection: sqlite3.Connection,
    device: str,
    *,
    received: int = 0,
    stored: int = 0,
    parked: int = 0,
    refused: int = 0,
    repeated: int = 0,
) -> None:
    """Add to a device's line."""
    connection.execute(
        "INSERT INTO ledger (device, received, stored, parked, refused, repeated) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (device) DO UPDATE SET received = received + excluded.received,"
        " stored = stored + excluded.stored, parked = parked + excluded.parked,"
        " refused = refused + excluded.refused, repeated = repeated + excluded.repeated",
        (device, received, stored, parked, refused, repeated),
    )


def read_ledger(connection: sqlite3.Connection, device: str | None) -> list[LedgerLine]:
    """The lines of one device, or of all."""
    rows = connection.execute(
        "SELECT device, received, stored, parked, refused, repeated FROM ledger"
        " WHERE device = ? OR ? IS NULL ORDER BY device",
        (device, device),
    )
    return [LedgerLine(*row) for row in rows.fetchall()]


def note_refusal(
    connection: sqlite3.Connection, *, device: str, reason: str, topic: str, count: int, at_ms: int
) -> None:
    """Count publishes that were acknowledged and dropped, with the last topic they went to."""
    connection.execute(
        "INSERT INTO refusals (device, reason, count, last_at_ms, last_topic) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (device, reason) DO UPDATE SET count = count + excluded.count,"
        " last_at_ms = excluded.last_at_ms, last_topic = excluded.last_topic",
        (device, reason, count, at_ms, topic[:TOPIC_CHARACTERS]),
    )
    count_readings(connection, device, refused=count)


def read_refusals(connection: sqlite3.Connection, device: str) -> list[dict[str, object]]:
    """Why publishes of this device were dropped: reason, count, last time and topic."""
    rows = connection.execute(
        "SELECT reason, count, last_at_ms, last_topic FROM refusals WHERE device = ? ORDER BY reason", (device,)
    )
    names = ("reason", "count", "last_at_ms", "last_topic")
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
