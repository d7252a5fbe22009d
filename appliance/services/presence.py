"""Which devices are connected, since when, and why not; derived here alone, from the connections themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from appliance.contract.times import Clock

RESTARTED = "the appliance was restarted"


@dataclass(frozen=True, slots=True)
class Presence:
    """One device's connection; ``reason`` says why it is not connected. Times are milliseconds since 1970."""

    status: Literal["online", "offline", "unknown"]
    since_ms: int | None
    reason: str | None
    address: str | None
    last_telemetry_ms: int | None
    takeovers: int = 0


@dataclass(slots=True)
class _Entry:
    online: bool
    since_ms: int
    reason: str | None
    address: str | None
    takeovers: int = 0


class PresenceService:
    """Told by the broker, asked by the API. What it does not know since its start is ``unknown``."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self.last_telemetry_ms: dict[str, int] = {}
        """By device id; written by the telemetry service directly, it is in the hot path."""

    def connected(self, device_id: str, address: str, *, takeover: bool = False) -> None:
        """The device has logged in; ``takeover`` if another connection of the same id was closed for it."""
        before = self._entries.get(device_id)
        takeovers = (before.takeovers if before else 0) + takeover
        self._entries[device_id] = _Entry(True, self._clock.now_ms(), None, address, takeovers)

    def disconnected(self, device_id: str, reason: str) -> None:
        """The device's connection has ended."""
        before = self._entries.get(device_id)
        self._entries[device_id] = _Entry(
            False,
            self._clock.now_ms(),
            reason,
            before.address if before else None,
            before.takeovers if before else 0,
        )

    def status(self, device_id: str) -> Presence:
        """What is known of the device's connection."""
        entry = self._entries.get(device_id)
        last_telemetry_ms = self.last_telemetry_ms.get(device_id)
        if entry is None:
            return Presence("unknown", None, RESTARTED, None, last_telemetry_ms)
        return Presence(
            "online" if entry.online else "offline",
            entry.since_ms,
            entry.reason,
            entry.address,
            last_telemetry_ms,
            entry.takeovers,
        )

    @property
    def online(self) -> int:
        """How many devices are connected."""
        return sum(entry.online for entry in self._entries.values())
