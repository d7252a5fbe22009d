"""One message of a batch, as the inbox hands it on: read, checked, its device found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

KINDS = frozenset(("telemetry", "command_response", "command_state", "ota_status", "presence", "gateway_event"))


@dataclass(frozen=True)
class Message:
    """Times are naive UTC; ``effective_at`` is ``at``, or ``received_at`` where ``at`` lies too far ahead of it."""

    seq: int
    device: int
    """Id of the ``iiot.device``; 0 for events of the gateway itself."""
    device_name: str
    """The device id on the wire."""
    kind: str
    at: datetime
    received_at: datetime
    effective_at: datetime
    lane: str
    payload: Any
    payload_json: str
    """The payload as text that jsonb takes."""
