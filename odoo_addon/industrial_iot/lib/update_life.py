"""The life of a firmware update as Odoo follows it, by the rules of ``appliance/store/update_rules.py``.

What a device says is final. What the appliance or Odoo concluded by itself yields to a final report that comes later,
and after ``installed`` or ``failed`` a device may still report ``rolled_back``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .times import rfc3339

WAITING = "waiting"
"""Odoo's own: no appliance has told of it yet."""
FINAL = ("installed", "failed", "rolled_back", "already_installed", "cancelled")
ORDER = (
    *("draft", WAITING, "fetching", "queued", "offered", "delivered", "accepted", "downloading", "downloaded"),
    *("verified", "installing", "rebooting", "cancelling"),
)
"""In which the states that are not final follow one another."""
REPORTED = (*ORDER[2:], *FINAL)
HISTORY_ENTRIES = 100


@dataclass
class UpdateLife:
    """Where an update stands; times are naive UTC, ``progress`` is in percent."""

    state: str
    progress: float = 0.0
    error: str | None = None
    reason: str | None = None
    from_device: bool = False
    """The device itself said how it ended."""
    new_version: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    heard: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def report(
        self,
        state: str,
        at: datetime,
        *,
        from_device: bool,
        progress: float | None = None,
        version: str | None = None,
        error: str | None = None,
        reason: str | None = None,
    ) -> bool:
        """What was told of it; whether it has changed the state."""
        self.heard = True
        if not self._yields(state, from_device):
            return False
        if progress is not None and state not in FINAL:
            self.progress = max(self.progress, progress)
        if state == self.state:
            return False
        self._enter(state, at, error=error, reason=reason, by="device" if from_device else "appliance")
        if state in FINAL:
            self.from_device = from_device
            if version and state in ("installed", "already_installed", "rolled_back"):
                self.new_version = version
            if state in ("installed", "already_installed"):
                self.progress = 100.0
        return True

    def conclude(self, state: str, at: datetime, *, reason: str, error: str | None = None) -> None:
        """Odoo ends it by itself."""
        self._enter(state, at, error=error, reason=reason, by="odoo")
        self.from_device = False

    def _yields(self, state: str, from_device: bool) -> bool:
        if self.state not in FINAL:
            if state in FINAL:
                return True
            # back to the beginning: the file was lost before anything was offered
            again = state == "fetching" and not from_device and self.state == "queued"
            return again or ORDER.index(state) >= ORDER.index(self.state)
        if state not in FINAL or not from_device:
            return False
        return not self.from_device or (state == "rolled_back" and self.state in ("installed", "failed"))

    def _enter(self, state: str, at: datetime, *, error: str | None, reason: str | None, by: str) -> None:
        late = self.state in FINAL
        entry = {"state": state, "at": rfc3339(at), "reason": reason, "error": error, "by": by, "late": late or None}
        self.history = [*self.history, {key: value for key, value in entry.items() if value is not None}]
        self.history = self.history[-HISTORY_ENTRIES:]
        self.state, self.error, self.reason = state, error, reason
        self.ended_at = at if state in FINAL else None
