"""Which devices are connected, since when, and why not; derived here alone, from the connections themselves.

Everything is in memory, for the listener and for those who ask. What is kept on disk and told to Odoo is the affair of
:mod:`appliance.services.presence_keeper`. Ages come from the monotonic clock: the wall clock may jump.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from appliance.contract.presence import OfflineCode, explain
from appliance.contract.times import Clock
from appliance.services.limits import Quiet

log = logging.getLogger(__name__)

CONTEST_TAKEOVERS, CONTEST_WITHIN_S, CONTEST_LASTS_S = 3, 60.0, 300.0
"""So many takeovers within a minute are no accident; the warning goes when there was none for five minutes."""


@dataclass(frozen=True, slots=True)
class Presence:
    """One device's connection. Times are milliseconds since 1970."""

    status: Literal["online", "offline", "unknown"]
    since_ms: int | None
    for_s: float | None
    """How long it has been so, in seconds."""
    reason_code: OfflineCode | None
    """Why it is not connected, ``None`` if it is."""
    reason: str | None
    """The same for people."""
    address: str | None
    last_seen_ms: int | None
    """When anything came from it last, be it a PINGREQ."""
    last_telemetry_ms: int | None
    connects: int = 0
    """Logins since the device was paired."""
    takeovers: int = 0
    """Logins that ended an older connection of the same device."""
    warning: str | None = None
    """That several clients fight over its device id."""


@dataclass(slots=True)
class Told:
    """What Odoo knows of a device."""

    online: bool
    connects: int
    takeovers: int
    contested: bool = False


@dataclass(slots=True)
class Entry:
    """What is known of one device that has connected before."""

    online: bool
    since_ms: int
    since: float
    """The same moment by the monotonic clock; after a restart that of the restart."""
    code: OfflineCode | None
    detail: str = ""
    address: str | None = None
    connects: int = 0
    takeovers: int = 0
    last_seen_ms: int | None = None
    rival: str | None = None
    """The address of the connection that was taken over last."""
    contest_begun: float = 0.0
    contest_count: int = 0
    contested_until: float = 0.0
    told: Told | None = None
    untold_since: float | None = None
    """Since when Odoo has not been told of something that may wait."""
    told_offline_at: float = -1e9
    unrest: int = 0
    """How often Odoo was told that it is offline, without a long quiet time in between."""


class PresenceService:
    """Told by the broker, asked by the API. Bounded by the number of paired devices."""

    def __init__(self, *, clock: Clock) -> None:
        self.clock = clock
        self.entries: dict[str, Entry] = {}
        self.last_telemetry_ms: dict[str, int] = {}
        """By device id; written by the telemetry service directly, it is in the hot path."""
        self.changed: Callable[[str, Entry], None] = lambda device_id, entry: None
        """Called after a device has come or gone."""
        self.silence_s: Callable[[str], float | None] = lambda device_id: None
        """How long nothing has come from a connected device; the listener knows."""
        self.online = 0
        """How many devices are connected."""
        self._quiet = Quiet(clock=clock)

    def connected(self, device_id: str, address: str, *, takeover: bool = False) -> None:
        """The device has logged in; ``takeover`` if another connection of the same id was closed for it."""
        now, now_ms = self.clock.monotonic(), self.clock.now_ms()
        entry = self.entries.get(device_id)
        if entry is None:
            entry = self.entries[device_id] = Entry(False, now_ms, now, None)
        if takeover:
            self._took_over(device_id, entry, address, now)
        self.online += not entry.online
        entry.online, entry.code, entry.detail = True, None, ""
        entry.since_ms, entry.since = now_ms, now
        entry.last_seen_ms = now_ms
        entry.address = address
        entry.connects += 1
        self.changed(device_id, entry)

    def disconnected(
        self, device_id: str, detail: str, code: OfflineCode = OfflineCode.ENDED, *, silence_s: float = 0.0
    ) -> None:
        """The device's connection has ended; nothing had come over it for ``silence_s`` seconds."""
        now_ms = self.clock.now_ms()
        entry = self.entries.get(device_id)
        if entry is None:
            entry = self.entries[device_id] = Entry(False, now_ms, 0.0, None)
        elif entry.online:
            self.online -= 1
            entry.last_seen_ms = now_ms - int(silence_s * 1000)
        entry.online, entry.code, entry.detail = False, code, detail
        entry.since_ms, entry.since = now_ms, self.clock.monotonic()
        self.changed(device_id, entry)

    def restore(self, device_id: str, entry: Entry, last_telemetry_ms: int | None) -> None:
        """What was known of a device before the appliance was started."""
        self.entries[device_id] = entry
        if last_telemetry_ms is not None:
            self.last_telemetry_ms[device_id] = last_telemetry_ms

    def forget(self, device_id: str) -> Entry | None:
        """The device is not paired any more, and its connection has ended; what was known of it."""
        self.last_telemetry_ms.pop(device_id, None)
        entry = self.entries.pop(device_id, None)
        if entry is not None and entry.online:
            self.online -= 1
        return entry

    def status(self, device_id: str) -> Presence:
        """What is known of the device's connection."""
        entry = self.entries.get(device_id)
        last_telemetry_ms = self.last_telemetry_ms.get(device_id)
        if entry is None:
            code = OfflineCode.NEVER_CONNECTED
            return Presence("unknown", None, None, code, explain(code), None, None, last_telemetry_ms)
        return Presence(
            status="online" if entry.online else "offline",
            since_ms=entry.since_ms,
            for_s=round(self.clock.monotonic() - entry.since, 3),
            reason_code=entry.code,
            reason=None if entry.code is None else explain(entry.code, entry.detail),
            address=entry.address,
            last_seen_ms=self.last_seen_ms(device_id, entry),
            last_telemetry_ms=last_telemetry_ms,
            connects=entry.connects,
            takeovers=entry.takeovers,
            warning=self._warning(entry) if self.is_contested(entry) else None,
        )

    def last_seen_ms(self, device_id: str, entry: Entry) -> int | None:
        """When anything came from the device last."""
        silence_s = self.silence_s(device_id) if entry.online else None
        return entry.last_seen_ms if silence_s is None else self.clock.now_ms() - int(silence_s * 1000)

    def is_contested(self, entry: Entry) -> bool:
        """Whether several clients seem to use the device's id."""
        return self.clock.monotonic() < entry.contested_until

    def _took_over(self, device_id: str, entry: Entry, address: str, now: float) -> None:
        entry.takeovers += 1
        entry.rival = entry.address
        if now - entry.contest_begun > CONTEST_WITHIN_S:
            entry.contest_begun, entry.contest_count = now, 0
        entry.contest_count += 1
        if entry.contest_count >= CONTEST_TAKEOVERS or now < entry.contested_until:
            entry.contested_until = now + CONTEST_LASTS_S
            if self._quiet.due(device_id):
                log.warning("%s: %s", device_id, self._contest(address, entry))
        elif self._quiet.due(f"takeover {device_id}"):
            log.info("%s: a new connection from %s took the place of one from %s", device_id, address, entry.rival)

    def _warning(self, entry: Entry) -> str:
        return self._contest(entry.address, entry)

    @staticmethod
    def _contest(address: str | None, entry: Entry) -> str:
        where = f"both from {address}" if address == entry.rival else f"from {address} and {entry.rival}"
        return (
            f"connections with its device id end one another ({entry.takeovers} times so far, {where}): "
            "either two devices have the same credentials, or it opens a new connection before it closes the old one"
        )
