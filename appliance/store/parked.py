"""The list that says why not: messages that Odoo or the contract refused, kept with the reason."""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from dataclasses import dataclass

from pydantic_core import from_json, to_json

from appliance.contract.odoo import Kind
from appliance.store.ledger import count_readings
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
        payload = to_json({"base64": b64encode(payload).decode()})
    if kind is Kind.TELEMETRY:
        count_readings(connection, device, received=1, parked=1)
    add_meta(connection, PARKED_COUNT, 1)
    cursor = connection.execute(
        "INSERT INTO parked (device, kind, received_at_ms, flags, payload, code, message, parked_at_ms)"
        " VALUES (?, ?, ?, 0, ?, ?, ?, ?)",
        (device, int(kind), received_at_ms, payload, code, message, received_at_ms),
    )
    return int(cursor.lastrowid or 0)


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
