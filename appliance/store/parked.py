"""The list that says why not: messages that Odoo or the contract refused, kept with the reason.

The list is bounded in rows and in bytes of payload. When it is full the oldest go, and each of them is counted: in the
ledger as ``removed``, and in the table ``removals`` by device, kind and reason. To stop parking instead would let one
device that sends nonsense hold up all others, whose messages Odoo would have taken.
"""

from __future__ import annotations

import logging
import sqlite3
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic_core import from_json, to_json

from appliance.contract.odoo import Kind
from appliance.store.ledger import UNKNOWN_DEVICE, count_readings, count_removal
from appliance.store.messages import READING, Damage, known_devices
from appliance.store.meta import add_meta, get_meta

log = logging.getLogger(__name__)

PARKED_COUNT = "parked"
"""Key in ``meta`` of how many rows the table holds."""
PARKED_BYTES = "parked_bytes"
"""Key in ``meta`` of how many bytes of payload they hold."""
MOST_PARKED = 100_000
MOST_PARKED_BYTES = 256 << 20
DROPS_PER_ROW = 1000
"""At most so many rows go for one that comes."""
CODE_CHARACTERS = 64
MESSAGE_CHARACTERS = 500
_COLUMNS = "seq, device, kind, at_ms, received_at_ms, flags, messages, retryable, code, message, parked_at_ms, payload"
_INSERT = f"INSERT INTO parked ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Rejection:
    """A stored message that was refused for good, and why."""

    seq: int
    code: str
    message: str


class ParkedRow(NamedTuple):
    """What must be known of a parked row to take it off the list."""

    id: int
    device: str
    kind: int
    messages: int
    payload_bytes: int


def park(
    connection: sqlite3.Connection,
    *,
    device: str,
    kind: Kind,
    payload: bytes,
    code: str,
    message: str,
    received_at_ms: int,
) -> int:
    """Park a payload that never became a message; returns its id in the list.

    What is not JSON is kept as ``{"base64": …}``.
    """
    try:
        from_json(payload, allow_inf_nan=False)
    except ValueError:
        payload = _base64(payload)
    if kind is Kind.TELEMETRY:
        count_readings(connection, device, received=1, parked=1)
    values = (None, device, int(kind), None, received_at_ms, 0, 1, 0, code, message, received_at_ms, payload)
    return _insert(connection, values, at_ms=received_at_ms)


def park_message(connection: sqlite3.Connection, rejection: Rejection, *, at_ms: int) -> None:
    """Copy a stored message to the list; the caller settles its ``seq`` in the same transaction."""
    row = connection.execute(
        "SELECT device, kind, at_ms, received_at_ms, flags, payload FROM messages WHERE seq = ?", (rejection.seq,)
    ).fetchone()
    if row is None:
        return
    device, kind, own_at_ms, received_at_ms, flags, payload = row
    if kind == READING:
        count_readings(connection, device, parked=1)
    reason = (rejection.code[:CODE_CHARACTERS], rejection.message[:MESSAGE_CHARACTERS])
    values = (rejection.seq, device, kind, own_at_ms, received_at_ms, flags, 1, 1, *reason, at_ms, payload)
    _insert(connection, values, at_ms=at_ms)


def park_damage(connection: sqlite3.Connection, damage: Damage, *, at_ms: int) -> None:
    """Put what is left of damaged messages on the list; the caller settles them in the same transaction.

    The checksum does not tell which column is wrong, but it was not the device's name if that is a known one.
    """
    count = damage.last - damage.first + 1
    device, kind, received_at_ms, payload = UNKNOWN_DEVICE, READING, at_ms, b"null"
    if damage.row is None:
        message = f"messages {damage.first} to {damage.last} are gone from the file"
    else:
        _, device, kind, _, received_at_ms, _, content, _ = damage.row
        device = device if device in known_devices(connection) else UNKNOWN_DEVICE
        kind = kind if isinstance(kind, int) else READING
        received_at_ms = received_at_ms if isinstance(received_at_ms, int) else at_ms
        payload = _base64(content if isinstance(content, bytes) else str(content).encode())
        message = "its row in the file does not match its checksum"
        if damage.code != "damaged":
            message = "this version does not know its kind"
    if kind == READING:
        count_readings(connection, device, parked=count)
    values = (damage.first, device, kind, None, received_at_ms, 0, count, 0, damage.code, message, at_ms, payload)
    _insert(connection, values, at_ms=at_ms)


def take_off(connection: sqlite3.Connection, rows: Sequence[ParkedRow]) -> None:
    """Take rows off the list. Where their readings go from there is the caller's to count."""
    connection.executemany("DELETE FROM parked WHERE id = ?", [(row.id,) for row in rows])
    add_meta(connection, PARKED_COUNT, -len(rows))
    add_meta(connection, PARKED_BYTES, -sum(row.payload_bytes for row in rows))


def remove(
    connection: sqlite3.Connection, rows: Sequence[ParkedRow], *, reason: Literal["operator", "limit"], at_ms: int
) -> None:
    """Remove rows for good, and count each."""
    take_off(connection, rows)
    counts: Counter[tuple[str, int]] = Counter()
    for row in rows:
        counts[row.device, row.kind] += row.messages
    for (device, kind), count in counts.items():
        count_removal(connection, device=device, kind=kind, reason=reason, count=count, at_ms=at_ms)


def _base64(payload: bytes) -> bytes:
    return to_json({"base64": b64encode(payload).decode()})


def _insert(connection: sqlite3.Connection, values: tuple[object, ...], *, at_ms: int) -> int:
    cursor = connection.execute(_INSERT, values)
    added = int(cursor.lastrowid or 0)
    payload = values[-1]
    add_meta(connection, PARKED_COUNT, 1)
    add_meta(connection, PARKED_BYTES, len(payload) if isinstance(payload, bytes) else 0)
    _make_room(connection, at_ms=at_ms)
    return added


def _make_room(connection: sqlite3.Connection, *, at_ms: int) -> None:
    """Where the list is over its bounds the oldest go, but never the newest."""
    too_many = get_meta(connection, PARKED_COUNT) - MOST_PARKED
    too_long = get_meta(connection, PARKED_BYTES) - MOST_PARKED_BYTES
    if too_many <= 0 and too_long <= 0:
        return
    found = connection.execute(
        "SELECT id, device, kind, messages, length(payload) FROM parked"
        " WHERE id < (SELECT max(id) FROM parked) ORDER BY id LIMIT ?",
        (DROPS_PER_ROW,),
    )
    going: list[ParkedRow] = []
    for values in found.fetchall():
        if too_many <= 0 and too_long <= 0:
            break
        row = ParkedRow(*values)
        going.append(row)
        too_many -= 1
        too_long -= row.payload_bytes
    remove(connection, going, reason="limit", at_ms=at_ms)
