"""A batch of ``POST /iiot/webhook``: what the appliance says of itself, and its messages one by one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import checks, json_text
from .message import KINDS, Message
from .problems import RefusalError, RejectedError
from .times import parse_rfc3339, usable_time
from .worded import _

MAX_MESSAGES = 1000
MAX_BODY_BYTES = 4_000_000
LIMITS = {"messages": MAX_MESSAGES, "body_bytes": MAX_BODY_BYTES}
"""The largest batch that is taken, as ``sync`` tells it."""
LANES = frozenset(("live", "backlog"))
GATEWAY_EVENT = "gateway_event"
TELEMETRY = "telemetry"


@dataclass(frozen=True)
class Told:
    """What an appliance says of one epoch: what it may still send, and what it was told is here."""

    floor: int
    settled: int
    """The highest ``seq`` that was confirmed."""
    stored: int
    """How many were confirmed."""
    below: int
    """How many of these are below ``floor``."""


@dataclass(frozen=True)
class Batch:
    """The frame of a batch is good; its messages have a ``seq`` and are objects, nothing more is known of them."""

    gateway: str
    epoch: str
    told: Told
    start: str | None
    database_uuid: str | None
    messages: list[dict[str, Any]]


def read_batch(body: object) -> Batch:
    """The batch; ``RefusalError`` where its frame makes no sense."""
    body = checks.of_this_contract(body)
    if "contract" not in body:
        raise checks.bad_request("contract is missing")
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise checks.bad_request("messages must be a list")
    if len(messages) > MAX_MESSAGES:
        raise RefusalError(413, "too_large", f"at most {MAX_MESSAGES} messages")
    batch = Batch(
        gateway=checks.text(body, "gateway"),
        epoch=checks.text(body, "epoch"),
        told=Told(
            floor=checks.count(body, "floor"),
            settled=checks.count(body, "settled"),
            stored=checks.count(body, "stored", 0),
            below=checks.count(body, "below", 0),
        ),
        start=_name(body, "start"),
        database_uuid=_name(body, "database_uuid"),
        messages=messages,
    )
    for message in messages:
        if not isinstance(message, dict) or not _is_seq(message.get("seq")):
            raise checks.bad_request("every message needs a seq")
    return batch


def read_message(raw: dict[str, Any], device: int) -> Message:
    """One message of a device that was found (0: of the gateway); ``RejectedError`` where it cannot be taken."""
    kind, lane = raw.get("kind"), raw.get("lane", "live")
    if not isinstance(kind, str) or kind not in KINDS:
        raise RejectedError("invalid", "no such kind")
    if "payload" not in raw:
        raise RejectedError("invalid", "payload is missing")
    if not isinstance(lane, str) or lane not in LANES:
        raise RejectedError("invalid", "no such lane")
    at, received_at = _times(raw)
    payload = raw["payload"]
    return Message(
        seq=raw["seq"],
        device=device,
        device_name=raw["device"],
        kind=kind,
        at=at,
        received_at=received_at,
        effective_at=usable_time(at, received_at),
        lane=lane,
        payload=payload,
        payload_json=storable_json(payload),
    )


def _times(raw: dict[str, Any]) -> tuple[datetime, datetime]:
    at_text = raw.get("at")
    received_text = raw.get("received_at", at_text)
    try:
        at = parse_rfc3339(at_text)
        return at, at if received_text == at_text else parse_rfc3339(received_text)
    except ValueError:
        raise RejectedError("invalid", "at and received_at must be RFC 3339") from None


def storable_json(payload: Any) -> str:
    """The payload as jsonb takes it; ``RejectedError`` ``not_storable`` where it takes none."""
    try:
        text = json_text.dumps(payload)
    except ValueError:
        raise RejectedError(
            "not_storable", _("the payload contains a number or a depth that databases do not accept")
        ) from None
    if "\\u0000" in text and "\x00" in _texts(payload):
        raise RejectedError("not_storable", _("the payload contains the character NUL, which databases do not accept"))
    if not text.isascii() and not checks.is_storable(text):
        raise RejectedError(
            "not_storable", _("the payload contains half of a surrogate pair, which is not a character")
        )
    return text


def _texts(payload: Any) -> str:
    """All texts in it, one after the other."""
    if isinstance(payload, str):
        return payload
    if isinstance(payload, dict):
        return "".join((*payload, *map(_texts, payload.values())))
    if isinstance(payload, list):
        return "".join(map(_texts, payload))
    return ""


def _name(body: dict[str, Any], name: str) -> str | None:
    """A text that is only compared; anything else that stands there is like none of ours."""
    value = body.get(name)
    return value if value is None or isinstance(value, str) else "?"


def _is_seq(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < checks.MAX_COUNT
