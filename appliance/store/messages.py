"""The rows of the table ``messages``: how they are written, and how they are checked when they are read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from zlib import crc32

from appliance.contract.odoo import Kind, StoredMessage
from appliance.store.meta import last_seq

READING = int(Kind.TELEMETRY)
CRC_MASK = 0xFFFF_FFFF
MENDING_BYTES = 16 << 20
"""More than so much is not computed in search of a damaged name."""
_KIND, _CRC = 1, 7  # of a row's columns
_CHUNKS = tuple(1 << power for power in range(8, -1, -1))
_INSERT = "INSERT INTO messages (device, kind, at_ms, received_at_ms, flags, msg_key, payload, crc) VALUES "
_INSERTS = {size: _INSERT + ",".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * size) for size in _CHUNKS}
_SELECT = (
    "SELECT seq, device, kind, at_ms, received_at_ms, flags, payload, crc FROM messages"
    " WHERE seq BETWEEN ? AND ? ORDER BY seq"
)
_KINDS = {int(kind): kind for kind in Kind}


def checksum(device: str, kind: int, at_ms: int | None, received_at_ms: int, flags: int, payload: bytes) -> int:
    """CRC-32 of a message; its row holds this, exclusive-or its ``seq``."""
    return crc32(payload, crc32(f"{device} {kind} {at_ms} {received_at_ms} {flags}".encode()))


def insert_rows(connection: sqlite3.Connection, rows: Sequence[Sequence[Any]], *, first_seq: int) -> None:
    """Write rows (device, kind, at_ms, received_at_ms, flags, msg_key, payload, checksum, …) under consecutive ``seq``.

    Those that are no readings are noted in ``ordered``, by which they are found among millions of readings.
    """
    insert_readings(connection, rows, first_seq=first_seq)
    others = [(seq,) for seq, row in enumerate(rows, first_seq) if row[_KIND] != READING]
    connection.executemany("INSERT INTO ordered (seq) VALUES (?)", others)


def insert_readings(connection: sqlite3.Connection, rows: Sequence[Sequence[Any]], *, first_seq: int) -> None:
    """:func:`insert_rows` for rows that are all readings.

    A statement for many rows: Python's sqlite3 gives up the interpreter lock at every step of a statement, and a busy
    event loop takes its time to give it back.
    """
    position, count = 0, len(rows)
    for size in _CHUNKS:
        while count - position >= size:
            values: list[Any] = []
            for seq, row in enumerate(rows[position : position + size], first_seq + position):
                values += row[:_CRC]
                values.append(row[_CRC] ^ (seq & CRC_MASK))
            cursor = connection.execute(_INSERTS[size], values)
            position += size
            if cursor.lastrowid != first_seq + position - 1:
                raise RuntimeError(f"message {first_seq + position - 1} was written as {cursor.lastrowid}")


def add_message(
    connection: sqlite3.Connection,
    *,
    device: str,
    kind: Kind,
    payload: bytes,
    received_at_ms: int,
    at_ms: int | None = None,
    flags: int = 0,
) -> int:
    """Insert one message inside a job, with what it tells of; never telemetry. Returns its ``seq``."""
    seq = last_seq(connection) + 1
    crc = checksum(device, int(kind), at_ms, received_at_ms, flags, payload)
    row = (device, int(kind), at_ms, received_at_ms, flags, None, payload, crc)
    insert_rows(connection, [row], first_seq=seq)
    return seq


class Damage:
    """One or more messages that cannot be sent: their rows do not match their checksum, or are gone."""

    __slots__ = ("code", "first", "last", "row")

    def __init__(self, first: int, last: int, code: str, row: Sequence[Any] | None) -> None:
        self.first = first
        self.last = last
        self.code = code
        self.row = row


def read_messages(connection: sqlite3.Connection, first: int, last: int) -> Iterator[StoredMessage | Damage]:
    """The messages ``first`` to ``last``, all of which should be there, in order."""
    expected = first
    for row in connection.execute(_SELECT, (first, last)):
        seq = row[0]
        if seq > expected:
            yield Damage(expected, seq - 1, "vanished", None)
        expected = seq + 1
        yield _read(connection, row)
    if expected <= last:
        yield Damage(expected, last, "vanished", None)


def _read(connection: sqlite3.Connection, row: Sequence[Any]) -> StoredMessage | Damage:
    seq, device, kind, at_ms, received_at_ms, flags, payload, crc = row
    try:
        intact = checksum(device, kind, at_ms, received_at_ms, flags, payload) ^ (seq & CRC_MASK) == crc
    except TypeError:  # a damaged type
        return Damage(seq, seq, "damaged", row)
    if not intact:
        return _mended(connection, row) or Damage(seq, seq, "damaged", row)
    if kind not in _KINDS:
        return Damage(seq, seq, "unknown_kind", row)
    return StoredMessage(seq, device, _KINDS[kind], at_ms, received_at_ms, flags, payload)


def _mended(connection: sqlite3.Connection, row: Sequence[Any]) -> StoredMessage | None:
    """If only the device's name or the kind is damaged: the message with those for which its checksum is right."""
    seq, _, _, at_ms, received_at_ms, flags, payload, crc = row
    devices = known_devices(connection)
    if len(devices) * len(payload) > MENDING_BYTES:
        return None
    for device in devices:
        for number, kind in _KINDS.items():
            if checksum(device, number, at_ms, received_at_ms, flags, payload) ^ (seq & CRC_MASK) == crc:
                connection.execute("UPDATE messages SET device = ?, kind = ? WHERE seq = ?", (device, number, seq))
                return StoredMessage(seq, device, kind, at_ms, received_at_ms, flags, payload)
    return None


def known_devices(connection: sqlite3.Connection) -> list[str]:
    """Every device that has sent something or was paired."""
    rows: Iterable[tuple[str]] = connection.execute("SELECT device FROM ledger UNION SELECT device_id FROM devices")
    return [device for (device,) in rows]
