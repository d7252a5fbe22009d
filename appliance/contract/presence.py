"""Why a device is not connected, in a few fixed codes and in words for people; and what Odoo is told of it."""

from __future__ import annotations

from enum import StrEnum

from pydantic_core import to_json

from appliance.contract.times import rfc3339


class OfflineCode(StrEnum):
    """The reason in one word. Codes are stored and sent: never change one, only add."""

    CLOSED_BY_DEVICE = "closed_by_device"
    CONNECTION_LOST = "connection_lost"
    KEEP_ALIVE = "keep_alive"
    TOO_SLOW = "too_slow"
    TAKEN_OVER = "taken_over"
    PROTOCOL_ERROR = "protocol_error"
    NOT_STORED = "not_stored"
    REVOKED = "revoked"
    APPLIANCE_ERROR = "appliance_error"
    APPLIANCE_STOPPED = "appliance_stopped"
    APPLIANCE_RESTARTED = "appliance_restarted"
    ENDED = "ended"
    """By the appliance, for a reason that has no code of its own; the text says which."""
    NEVER_CONNECTED = "never_connected"


_WORDS = {
    OfflineCode.CLOSED_BY_DEVICE: "the device itself closed the connection",
    OfflineCode.CONNECTION_LOST: "the connection broke off without a goodbye: the device lost power or was restarted, "
    "or its network was interrupted",
    OfflineCode.KEEP_ALIVE: "nothing came from it for one and a half times its keep-alive: it has no power, it hangs, "
    "or its network is down",
    OfflineCode.TOO_SLOW: "it did not read what it was sent",
    OfflineCode.TAKEN_OVER: "another connection with the same device id took its place",
    OfflineCode.PROTOCOL_ERROR: "it sent what MQTT does not allow",
    OfflineCode.NOT_STORED: "a message of it could not be stored, so it was cut off to send it again",
    OfflineCode.REVOKED: "its access was revoked",
    OfflineCode.APPLIANCE_ERROR: "what it sent met an error of the appliance, whose log says more",
    OfflineCode.APPLIANCE_STOPPED: "the appliance was stopped",
    OfflineCode.APPLIANCE_RESTARTED: "the appliance was restarted, and the device has not come back since",
    OfflineCode.ENDED: "the appliance ended the connection",
    OfflineCode.NEVER_CONNECTED: "no connection of it is known yet",
}
_WITH_DETAIL = {OfflineCode.PROTOCOL_ERROR, OfflineCode.ENDED}
DETAIL_CHARACTERS = 200


def explain(code: OfflineCode, detail: str = "") -> str:
    """The reason as a sentence for an operator; ``detail`` is the listener's own text."""
    words = _WORDS[code]
    detail = detail.removeprefix("protocol error: ")[:DETAIL_CHARACTERS]
    return f"{words}: {detail}" if detail and code in _WITH_DETAIL else words


def presence_payload(
    *,
    online: bool,
    since_ms: int,
    code: OfflineCode | None,
    detail: str,
    address: str | None,
    reconnects: int,
    takeovers: int,
    contested: bool,
    last_seen_ms: int | None,
    last_telemetry_ms: int | None,
) -> bytes:
    """The payload of a message of kind ``presence``; times are milliseconds since 1970."""
    return to_json(
        {
            "status": "online" if online else "offline",
            "since": rfc3339(since_ms),
            "reason_code": None if online or code is None else code.value,
            "reason": None if online or code is None else explain(code, detail),
            "address": address,
            "reconnects": reconnects,
            "takeovers": takeovers,
            "contested": contested,
            "last_seen": None if last_seen_ms is None else rfc3339(last_seen_ms),
            "last_telemetry": None if last_telemetry_ms is None else rfc3339(last_telemetry_ms),
        }
    )
