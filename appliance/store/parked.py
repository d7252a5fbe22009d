"""The list that says why not: messages that Odoo or the contract refused, kept with the reason."""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from dataclasses import dataclass

from pydantic_core import from_json, to_json

from appliance.contract.odoo import Kind
from appliance.store.ledger import UNKNOWN_DEVICE, count_readings
from appliance.store.messages import READING, Damage, known_devices
from appliance.store.meta import add_meta

PARKED_COUNT = "parked"
"""Key in ``meta`` of how many rows the table holds."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A stored message that was refused for good, and why."""

    seq: int
    code: str
    message: str


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
    return _insert(connection, (None, device, int(kind), received_at_ms, payload, code, message, received_at_ms))


def park_message(connection: sqlite3.Connection, rejection: Rejection, *, at_ms: int) -> None:
    """Copy a stored message to the list; the caller settles its ``seq`` in the same transaction."""
    cursor = connection.execute(
        "INSERT INTO parked (seq, device, kind, at_ms, received_at_ms, flags, payload, code, message, parked_at_ms)"
        " SELECT seq, device, kind, at_ms, received_at_ms, flags, payload, ?, ?, ? FROM messages WHERE seq = ?"
        " RETURNING device, kind",
        (rejection.code, rejection.message, at_ms, rejection.seq),
    )
    row = cursor.fetchone()
    if row is None:
        return
    device, kind = row
    add_meta(connection, PARKED_COUNT, 1)
    if kind == Kind.TELEMETRY:
        count_readings(connection, device, parked=1)


def park_damage(connection: sqlite3.Connection, damage: Damage, *, at_ms: int) -> None:
    """Put what is left of damaged messages on the list; the caller settles them in the same transaction.

    The checksum does not tell which column is wrong, but it was not the device's name if that is a known one.
    """
    count = damage.last - damage.first + 1
    if damage.row is None:
        message = f"messages {damage.first} to {damage.last} are gone from the file"
        values = (damage.first, UNKNOWN_DEVICE, READING, at_ms, b"null", damage.code, message, at_ms)
        kind, device = READING, UNKNOWN_DEVICE
    else:
        _, device, kind, _, received_at_ms, _, payload, _ = damage.row
        device = device if device in known_devices(connection) else UNKNOWN_DEVICE
        kind = kind if isinstance(kind, int) else READING
        received_at_ms = received_at_ms if isinstance(received_at_ms, int) else at_ms
        raw = payload if isinstance(payload, bytes) else str(payload).encode()
        message = "its row in the file does not match its checksum"
        if damage.code != "damaged":
            message = "this version does not know its kind"
        values = (damage.first, device, kind, received_at_ms, _base64(raw), damage.code, message, at_ms)
    _insert(connection, values)
    if kind == READING:
        count_readings(connection, device, parked=count)


def _base64(payload: bytes) -> bytes:
    return to_json({"base64": b64encode(payload).decode()})


def _insert(connection: sqlite3.Connection, values: tuple[object, ...]) -> int:
    add_meta(connection, PARKED_COUNT, 1)
    cursor = connection.execute(
        "INSERT INTO parked (seq, device, kind, received_at_ms, flags, payload, code, message, parked_at_ms)"
        " VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?)",
        values,
    )
    return int(cursor.lastrowid or 0)
