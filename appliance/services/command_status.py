"""What callers are told of a command, and how a request is recognised when it comes again."""

from __future__ import annotations

import json
import os
from hashlib import blake2b
from uuid import UUID

from pydantic_core import from_json

from appliance.contract.command import CommandEvent, CommandStatus, Deliver, SendCommand
from appliance.contract.times import rfc3339
from appliance.store.outbox import NewCommand, StoredCommand

_DIGEST_BYTES = 16
_canonical = json.JSONEncoder(sort_keys=True).encode


def new_command_id(now_ms: int) -> str:
    """A UUID of version 7 (RFC 9562 §5.7): ids in the order of their making are near each other in the index."""
    random = int.from_bytes(os.urandom(10), "big")
    high = (now_ms & 0xFFFF_FFFF_FFFF) << 80
    return str(UUID(int=high | 0x7 << 76 | (random >> 62 & 0xFFF) << 64 | 0b10 << 62 | random & 0x3FFF_FFFF_FFFF_FFFF))


def request_digest(order: SendCommand) -> bytes:
    """The same for a request that asks for the same again.

    How long it may wait is left out: who asks again later may well ask for less.
    """
    payload = order.payload
    if isinstance(payload, (dict, list)):
        payload = _canonical(payload)
    parts = [order.device_id, order.action, order.params, payload, order.deliver]
    return blake2b(_canonical(parts).encode(), digest_size=_DIGEST_BYTES).digest()


def accepted(command: NewCommand | StoredCommand, *, created_at_ms: int) -> CommandStatus:
    """The answer to a request that was accepted, the first time and every time."""
    return CommandStatus(
        command_id=command.command_id,
        device_id=command.device,
        action=command.action,
        state="queued",
        deliver=_deliver(command.at_most_once),
        deliveries=0,
        settled=False,
        created_at=rfc3339(created_at_ms),
        expires_at=rfc3339(created_at_ms + command.expires_in_ms),
        history=[CommandEvent(state="queued", at=rfc3339(created_at_ms))],
    )


def full_status(stored: StoredCommand) -> CommandStatus:
    """All that is known now."""
    return CommandStatus(
        command_id=stored.command_id,
        device_id=stored.device,
        action=stored.action,
        state=stored.state,
        reason=stored.reason,
        deliver=_deliver(stored.at_most_once),
        deliveries=stored.deliveries,
        settled=stored.settled_ms is not None,
        created_at=rfc3339(stored.created_at_ms),
        expires_at=rfc3339(stored.created_at_ms + stored.expires_in_ms),
        response=None if stored.response is None else from_json(stored.response),
        response_bytes=stored.response_bytes if stored.response is None else None,
        history=from_json(f"[{stored.history}]"),
    )


def _deliver(at_most_once: int) -> Deliver:
    return "at_most_once" if at_most_once else "at_least_once"
