"""Commands that Odoo offers and that cannot be carried out: they end before they begin, and Odoo hears why, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic_core import to_json

from appliance.contract.command import state_message
from appliance.contract.odoo import Kind
from appliance.contract.times import rfc3339
from appliance.store.outbox import Moment, Outcome, Work, row_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCommand:
    """``reason`` is a code for programs, ``detail`` a sentence for people."""

    command_id: str
    device: str
    action: str
    digest: bytes
    state: Literal["failed", "cancelled"]
    reason: str
    detail: str


def refuse(work: Work, *, refused: RefusedCommand, moment: Moment) -> Outcome:
    """Store a command as settled, and its message; not ``changed`` if its id is known already."""
    at = rfc3339(moment.wall_ms)
    message, entry = state_message(refused.command_id, refused.state, at, reason=refused.reason)
    cursor = work.connection.execute(
        "INSERT INTO outbox (command_id, device, action, digest, payload, at_most_once, created_at_ms, expires_in_ms,"
        " response_limit_ms, state, reason, deliveries, deadline_ms, touched_ms, settled_ms, history)"
        " VALUES (?, ?, ?, ?, x'', 0, ?, 0, 0, ?, ?, 0, ?, ?, ?, ?) ON CONFLICT (command_id) DO NOTHING",
        (
            *(refused.command_id, refused.device, refused.action, refused.digest),
            *(moment.wall_ms, refused.state, refused.reason),
            *(moment.steady_ms, moment.steady_ms, moment.steady_ms, entry),
        ),
    )
    if cursor.rowcount:
        told = message[:-1] + b',"detail":' + to_json(refused.detail) + b"}"
        work.tell(refused.device, Kind.COMMAND_STATE, told, moment.wall_ms)
    return Outcome(bool(cursor.rowcount), row_of(work, refused.command_id))
