"""Failures on request: what goes wrong, for how long, how often or for which share, where, and for which device.

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
    "hang": "take a request and never answer",
    "reset_request": "reset the connection while the request comes in",
    "reset_answer": "handle a request, then reset the connection in the middle of the answer",
    "slow": "wait delay_s before handling a request",
    "unavailable": "answer 503 and store nothing",
    "too_many": "answer 429 with Retry-After: delay_s, and store nothing",
    "too_large": "answer 413 to a body of more than bytes, before it has been read",
    "html": "answer as a proxy does, with a page: status 500, or the one given",
    "redirect": "answer 302 to a login page",
    "unauthorized": "answer 401",
    "forbidden": "answer 403",
    "not_found": "answer 404",
    "error_after_storing": "store the batch, then answer 500",
    "reject": "reject messages with code 'invalid', of one device or of all",
    "retry": "answer 'retry' for messages, of one device or of all",
    "loss": "answer 'stored' for a reading and forget it",
    "duplicate": "store a reading twice",
    "corrupt": "turn over the last byte of a firmware file that is sent",
}
OF_REQUESTS = frozenset(
    (
        *("hang", "reset_request", "reset_answer", "too_many", "too_large", "html", "redirect"),
        *("unauthorized", "forbidden", "not_found"),
    )
)
"""Those that hit whole requests, wherever they go; ``on`` narrows them down."""
PLACES = frozenset(("config", "webhook", "gateway", "firmware"))
"""What ``on`` may name: the part of the path after ``/iiot/``."""
MAX_FAULTS = 100


@dataclass(slots=True, kw_only=True)
class Fault:
    """One failure: it ends after ``remaining`` times, or at ``until`` (monotonic seconds), or when removed.

    ``share`` is the part of what it could hit that it does hit, evenly spread: 0.5 is every other one.
    """

    id: int
    kind: str
    remaining: int | None
    until: float | None
    share: float
    device: str | None
    on: str | None
    delay_s: float
    status: int | None
    bytes: int
    credit: float = 0.0

    def as_dict(self, now: float) -> dict[str, Any]:
        """For people and tests."""
        seconds = None if self.until is None else max(0.0, round(self.until - now, 3))
        return {
            "id": self.id,
            "kind": self.kind,
            "count": self.remaining,
            "seconds": seconds,
            "share": self.share,
            "device": self.device,
            "on": self.on,
            "delay_s": self.delay_s,
            "status": self.status,
            "bytes": self.bytes,
        }

    def concerns(self, kind: str, device: str | None, on: str | None, size: int, now: float) -> bool:
        """Whether it is in force for such a thing."""
        return (
            self.kind == kind
            and (self.device is None or self.device == device)
            and (self.on is None or self.on == on)
            and (self.until is None or now < self.until)
            and (self.remaining is None or self.remaining > 0)
            and (not self.bytes or size > self.bytes)
        )

    def hits(self) -> bool:
        """Whether it is this one's turn."""
        self.credit += self.share
        if self.credit < 1 - 1e-9:
            return False
        self.credit -= 1
        if self.remaining is not None:
            self.remaining -= 1
        return True


class Faults:
    """The failures in force. All of it runs on the event loop."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._faults: list[Fault] = []
        self._last_id = 0
        self.door_changed = asyncio.Event()
        """Set whenever :meth:`refused_for_s` may have changed."""

    def add(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Put one in force: ``{"kind", "count"?, "seconds"?, "share"?, "device"?, "on"?, "delay_s"?, …}``.

        ``status`` is that of ``html``, ``bytes`` the limit of ``too_large``. ``RefusalError`` if it is unusable.
        """
        kind = _one_of(order, "kind", frozenset(KINDS))
        if kind is None:
            raise RefusalError(422, "bad_request", f"kind must be one of {', '.join(KINDS)}")
        on = _one_of(order, "on", PLACES)
        if on is not None and kind not in OF_REQUESTS:
            raise RefusalError(422, "bad_request", f"{kind} has its place, on cannot change it")
        device = order.get("device")
        if device is not None and (not isinstance(device, str) or kind in OF_REQUESTS):
            raise RefusalError(422, "bad_request", "device must be a device id, of a fault that concerns messages")
        count, status = _number(order, "count", whole=True), _number(order, "status", whole=True)
        seconds, share = _number(order, "seconds"), _number(order, "share")
        if kind == "refuse" and seconds is None:
            raise RefusalError(422, "bad_request", "refuse needs seconds")
        if status is not None and not 200 <= status <= 599:
            raise RefusalError(422, "bad_request", "status must be one of HTTP's, 200 to 599")
        if share is not None and share > 1:
            raise RefusalError(422, "bad_request", "share must be above 0 and at most 1")
        self._drop_ended()
        if len(self._faults) >= MAX_FAULTS:
            raise RefusalError(409, "too_many", f"{MAX_FAULTS} faults are in force")
        now = self._clock.monotonic()
        self._last_id += 1
        fault = Fault(
            id=self._last_id,
            kind=kind,
            remaining=None if count is None else int(count),
            until=None if seconds is None else now + seconds,
            share=share or 1.0,
            device=device,
            on=on,
            delay_s=_number(order, "delay_s") or 0.0,
            status=None if status is None else int(status),
            bytes=int(_number(order, "bytes", whole=True) or 0),
        )
        self._faults.append(fault)
        self.door_changed.set()
        return fault.as_dict(now)

    def clear(self, kind: str | None = None) -> None:
        """Everything works again, or everything but the other kinds."""
        self._faults = [fault for fault in self._faults if kind is not None and fault.kind != kind]
        self.door_changed.set()

    def in_force(self) -> list[dict[str, Any]]:
        """What goes wrong now."""
        self._drop_ended()
        now = self._clock.monotonic()
        return [fault.as_dict(now) for fault in self._faults]

    def take(self, kind: str, device: str | None = None, *, on: str | None = None, size: int = 0) -> Fault | None:
        """The fault that hits now, counted down by one; ``None`` if nothing goes wrong.

        ``on`` is the place and ``size`` the bytes of the request, where that matters.
        """
        if not self._faults:
            return None
        now = self._clock.monotonic()
        for fault in self._faults:
            if fault.concerns(kind, device, on, size, now) and fault.hits():
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


def parse(text: str) -> dict[str, Any]:
    """A fault as it is written on a command line: ``KIND[:NAME=VALUE,…]``; ``ValueError`` says what is wrong."""
    kind, _, rest = text.partition(":")
    order: dict[str, Any] = {"kind": kind}
    for part in filter(None, rest.split(",")):
        name, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"{part!r} is not NAME=VALUE")
        if name in ("device", "on"):
            order[name] = value
        elif name in ("count", "status", "bytes"):
            order[name] = int(value)
        elif name in ("seconds", "share", "delay_s"):
            order[name] = float(value)
        else:
            raise ValueError(f"a fault has no {name!r}")
    try:
        Faults().add(order)
    except RefusalError as refusal:
        raise ValueError(str(refusal)) from None
    return order


def _one_of(order: Mapping[str, Any], name: str, known: frozenset[str]) -> str | None:
    value = order.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or value not in known:
        raise RefusalError(422, "bad_request", f"{name} must be one of {', '.join(sorted(known))}")
    return value


def _number(order: Mapping[str, Any], name: str, *, whole: bool = False) -> float | None:
    value = order.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 < value < 1e9:
        raise RefusalError(422, "bad_request", f"{name} must be a positive number")
    return float(value)
