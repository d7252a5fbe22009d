"""The life of a command as Odoo follows it: what its appliance reports, and what Odoo concluded by itself.

The appliance decides (``appliance/store/command_rules.py``), and its reports come in order; here is only settled what
a report may still change. What Odoo concluded by itself (nobody fetched it in time, a refused push) yields to any
report. What a device said is final. What the appliance concluded (expired, ``no_ack``, ``revoked``) yields to what
the device says later: such news are marked late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .times import rfc3339

STATES = ("queued", "sent", "delivered", "done", "failed", "expired", "cancelled")
FINAL = frozenset(("done", "failed", "expired", "cancelled"))
BY_DEVICE = "device"
HISTORY_ENTRIES = 100
_ANY = frozenset(STATES)
_NEXT = {
    "queued": _ANY,
    "sent": _ANY,  # also back to queued: a delivery that was counted but not written
    "delivered": frozenset(("delivered", "done", "failed")),
    "done": frozenset(),
    "failed": frozenset(("delivered", "done", "failed")),
    "expired": frozenset(("delivered", "done", "failed")),
    "cancelled": frozenset(),
}
_ANSWERS = {"ok": "done", "error": "failed", "in_progress": "delivered"}


@dataclass
class Life:
    """Where a command stands; times are naive UTC."""

    state: str
    reason: str | None = None
    detail: str | None = None
    concluded: bool = False
    """Odoo ended it by itself, without a report."""
    late: bool = False
    """News came after its end and overruled it."""
    deliveries: int = 0
    sent_at: datetime | None = None
    delivered_at: datetime | None = None
    ended_at: datetime | None = None
    response: str | None = None
    """JSON text of the device's last answer."""
    response_at: datetime | None = None
    heard: bool = False
    """Whether any report has come."""
    history: list[dict[str, Any]] = field(default_factory=list)

    def report(
        self,
        state: str,
        at: datetime,
        *,
        reason: str | None = None,
        detail: str | None = None,
        delivery: int | None = None,
        late: bool = False,
    ) -> bool:
        """What the appliance tells of it; whether that is where it stands now."""
        entry = {"state": state, "at": rfc3339(at), "delivery": delivery, "reason": reason, "by": "appliance"}
        entry["late"] = late or None
        self._note({key: value for key, value in entry.items() if value is not None})
        self.heard = True
        if not self._yields(state, reason):
            return False
        late = late or (self.state in FINAL and not self.concluded)
        self._enter(state, at, reason, detail, late=late)
        self.concluded = False
        if delivery is not None:
            self.deliveries = max(self.deliveries, delivery)
        return True

    def answer(self, status: str, at: datetime, response: str) -> None:
        """The device's answer: kept always; it moves the command unless a report did so already."""
        self.response, self.response_at, self.heard = response, at, True
        state = _ANSWERS[status]
        reason = BY_DEVICE if state == "failed" else None
        if state != self.state and self._yields(state, reason):
            entry = {"state": state, "at": rfc3339(at), "reason": reason, "by": "device"}
            self._note({key: value for key, value in entry.items() if value is not None})
            late = self.state in FINAL and not self.concluded
            self._enter(state, at, reason, None, late=late)
            self.concluded = False

    def conclude(self, state: str, at: datetime, reason: str | None = None, detail: str | None = None) -> None:
        """Odoo ends it by itself."""
        entry = {"state": state, "at": rfc3339(at), "reason": reason, "by": "odoo"}
        self._note({key: value for key, value in entry.items() if value is not None})
        self._enter(state, at, reason, detail, late=False)
        self.concluded = True

    def _yields(self, state: str, reason: str | None) -> bool:
        if self.concluded:
            return True
        if self.state == "failed" and self.reason == BY_DEVICE:
            return False
        if self.state in FINAL and state == "failed" and reason != BY_DEVICE:
            return False
        return state in _NEXT[self.state]

    def _enter(self, state: str, at: datetime, reason: str | None, detail: str | None, *, late: bool) -> None:
        self.state, self.reason, self.detail = state, reason, detail
        self.late = self.late or late
        if state == "queued":
            self.sent_at = None
        if state == "sent":
            self.sent_at = self.sent_at or at
        if state == "delivered" or (state in ("done", "failed") and reason in (None, BY_DEVICE)):
            self.delivered_at = self.delivered_at or at
        self.ended_at = at if state in FINAL else None

    def _note(self, entry: dict[str, Any]) -> None:
        """The first who tells of something is who it is from: the appliance repeats what a device has said."""
        if {**entry, "by": None} not in [{**known, "by": None} for known in self.history]:
            self.history = [*self.history, entry][-HISTORY_ENTRIES:]
