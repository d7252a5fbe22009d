"""Failures on request: what goes wrong, for how long or how often, and for which device.

Each fault is a row of :data:`KINDS`. A new one needs a line there and one place that asks :meth:`Faults.take`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.contract.times import Clock
from firmware_sim.standin.refusal import RefusalError

KINDS: Mapping[str, str] = {
    "refuse": "close the door: connections are refused (needs seconds)",
    "unavailable": "answer 503 and store nothing",
    "error_after_storing": "store the batch, then answer 500",
    "slow": "wait delay_s before handling a request",
    "reject": "reject messages with code 'invalid', of one device or of all",
    "retry": "answer 'retry' for messages, of one device or of all",
    "loss": "answer 'stored' for a reading and forget it",
    "duplicate": "store a reading twice",
}
MAX_FAULTS = 100


@dataclass(slots=True)
class Fault:
    """One failure: it ends after ``remaining`` times, or at ``until`` (monotonic seconds), or when removed."""

    id: int
    kind: str
    remaining: int | None
    until: float | None
    device: str | None
    delay_s: float

    def as_dict(self, now: float) -> dict[str, Any]:
        """For people and tests."""
        seconds = None if self.until is None else max(0.0, round(self.until - now, 3))
        return {
            "id": self.id,
            "kind": self.kind,
            "count": self.remaining,
            "seconds": seconds,
            "device": self.device,
            "delay_s": self.delay_s,
        }


class Faults:
    """The failures in force. All of it runs on the event loop."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._faults: list[Fault] = []
        self._last_id = 0
        self.door_changed = asyncio.Event()
        """Set whenever :meth:`refused_for_s` may have changed."""

    def add(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Put one in force: ``{"kind", "count"?, "seconds"?, "device"?, "delay_s"?}``; ``RefusalError`` if unusable."""
        kind, device = order.get("kind"), order.get("device")
        if not isinstance(kind, str) or kind not in KINDS:
            raise RefusalError(422, "bad_request", f"kind must be one of {', '.join(KINDS)}")
        count = _number(order, "count", whole=True)
        seconds = _number(order, "seconds")
        delay_s = _number(order, "delay_s") or 0.0
        if device is not None and not isinstance(device, str):
            raise RefusalError(422, "bad_request", "device must be a device id")
        if kind == "refuse" and seconds is None:
            raise RefusalError(422, "bad_request", "refuse needs seconds")
        self._drop_ended()
        if len(self._faults) >= MAX_FAULTS:
            raise RefusalError(409, "too_many", f"{MAX_FAULTS} faults are in force")
        now = self._clock.monotonic()
        self._last_id += 1
        remaining = None if count is None else int(count)
        until = None if seconds is None else now + seconds
        fault = Fault(self._last_id, kind, remaining, until, device, delay_s)
        self._faults.append(fault)
        self.door_changed.set()
        return fault.as_dict(now)

    def clear(self) -> None:
        """Everything works again."""
        self._faults.clear()
        self.door_changed.set()

    def in_force(self) -> list[dict[str, Any]]:
        """What goes wrong now."""
        self._drop_ended()
        now = self._clock.monotonic()
        return [fault.as_dict(now) for fault in self._faults]

    def take(self, kind: str, device: str | None = None) -> Fault | None:
        """The fault that hits now, counted down by one; ``None`` if nothing goes wrong."""
        if not self._faults:
            return None
        now = self._clock.monotonic()
        for fault in self._faults:
            if fault.kind != kind or (fault.device is not None and fault.device != device):
                continue
            if fault.until is not None and now >= fault.until:
                continue
            if fault.remaining is not None:
                if fault.remaining <= 0:
                    continue
                fault.remaining -= 1
            return fault
        return None

    def refused_for_s(self) -> float:
        """How long the door stays closed, in seconds; 0 if it is open."""
        now = self._clock.monotonic()
        times = [fault.until - now for fault in self._faults if fault.kind == "refuse" and fault.until is not None]
        return max(0.0, *times) if times else 0.0

    def _drop_ended(self) -> None:
        now = self._clock.monotonic()
        self._faults = [
            fault
            for fault in self._faults
            if (fault.until is None or now < fault.until) and (fault.remaining is None or fault.remaining > 0)
        ]


def _number(order: Mapping[str, Any], name: str, *, whole: bool = False) -> float | None:
    value = order.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 < value < 1e9:
        raise RefusalError(422, "bad_request", f"{name} must be a positive number")
    return float(value)
