"""Presence on disk and towards Odoo: who came and went is written together, once a second, and told sparingly.

A device that comes back is told at once, if Odoo believes that it is away. That it is away is told after a grace: most
are back within seconds. What was not worth a message by itself (reconnects, takeovers) is told later, or with the next.
So a thousand devices that reconnect ten times in a minute make a thousand messages at most. The row that says what
Odoo was told and the message itself are one transaction.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from appliance.contract.presence import DETAIL_CHARACTERS, OfflineCode, presence_payload
from appliance.contract.times import Clock
from appliance.errors import StoreUnavailableError
from appliance.services.presence import Entry, PresenceService, Told
from appliance.store.presence import PresenceMessage, PresenceRow, PresenceStore

WRITE_EVERY_S = 1.0
WRITE_ROWS = 500
SEEN_EVERY_S = 60.0
"""How far ``last_seen`` and ``last_telemetry`` on disk may lag behind."""
OFFLINE_GRACE_S = 15.0
LONGEST_GRACE_S = 300.0
RESTART_GRACE_S = 60.0
CALM_S = 600.0
"""The grace doubles each time a device is told offline, up to the longest, until it was not for so long."""
LATER_S = 900.0
"""Reconnects and takeovers that changed nothing are told after this time at the latest."""

_TOLD_CONTESTED = 2
"""In the column ``told_online``: Odoo was told of a contest. A restart ends it, and Odoo must hear of that."""


class PresenceKeeper:
    """Call :meth:`load` before the broker listens, keep :meth:`run` running, and :meth:`write` last of all."""

    def __init__(
        self,
        *,
        presence: PresenceService,
        store: PresenceStore,
        clock: Clock,
        flags: Callable[[], int] = lambda: 0,
    ) -> None:
        self._presence = presence
        self._store = store
        self._clock = clock
        self._flags = flags
        self._dirty: dict[str, None] = {}
        """Devices whose row on disk is not what memory says."""
        self._due: dict[str, float] = {}
        """When Odoo is to be told of a device, by the monotonic clock."""
        self._farewells: list[PresenceMessage] = []
        """Of devices that were removed while Odoo believed them online."""
        self._written_telemetry: dict[str, int] = {}
        self._seen_at = clock.monotonic()
        presence.changed = self._changed

    async def load(self) -> None:
        """Who was online when the appliance ended is offline since its restart, until it returns."""
        now, now_ms = self._clock.monotonic(), self._clock.now_ms()
        for row in await self._store.load():
            entry = _entry(row, now, now_ms)
            self._presence.restore(row.device, entry, row.last_telemetry_ms)
            if row.last_telemetry_ms is not None:
                self._written_telemetry[row.device] = row.last_telemetry_ms
            if entry.code is OfflineCode.APPLIANCE_RESTARTED:
                self._dirty[row.device] = None
            if entry.told is None or entry.told.online:
                self._due[row.device] = now + RESTART_GRACE_S
            else:
                self._schedule(row.device, entry)

    async def run(self) -> None:
        """Write and tell once a second until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write what has changed, and tell Odoo what is due. What cannot be stored now stays for the next time."""
        now = self._clock.monotonic()
        if now - self._seen_at >= SEEN_EVERY_S:
            self._seen_at = now
            self._look_who_was_seen()
        due = {device_id for device_id, at in self._due.items() if at <= now}
        pending = [*self._dirty, *(due - self._dirty.keys())]
        try:
            await self._say_farewell()
            for start in range(0, len(pending), WRITE_ROWS):
                await self._write_some(pending[start : start + WRITE_ROWS], due)
        except StoreUnavailableError:
            pass  # health says so

    async def close(self) -> None:
        """The last write, with what was seen since the last time; after the last connection has ended."""
        self._look_who_was_seen()
        await self.write()

    def removed(self, device_id: str) -> None:
        """The device is not paired any more, its row went with it, and its connection has ended."""
        self._dirty.pop(device_id, None)
        self._due.pop(device_id, None)
        self._written_telemetry.pop(device_id, None)
        entry = self._presence.entries.get(device_id)
        if entry is not None and entry.told is not None and entry.told.online:
            if entry.online or entry.code is not OfflineCode.REVOKED:
                self._presence.disconnected(device_id, "its pairing was removed", OfflineCode.REVOKED)
            self._farewells.append(self._message(device_id, entry))
            self._dirty.pop(device_id, None)
            self._due.pop(device_id, None)
        self._presence.forget(device_id)

    # --- what is to be done when ------------------------------------------------------------------------------

    def _changed(self, device_id: str, entry: Entry) -> None:
        self._dirty[device_id] = None
        if entry.untold_since is None:
            entry.untold_since = self._clock.monotonic()
        self._schedule(device_id, entry)

    def _schedule(self, device_id: str, entry: Entry) -> None:
        at = self._due_at(entry)
        if at is None:
            self._due.pop(device_id, None)
        else:
            self._due[device_id] = at

    def _due_at(self, entry: Entry) -> float | None:
        """When the next message about a device goes out, or ``None`` if there is nothing to tell."""
        told = entry.told
        if told is None or told.online != entry.online:
            if entry.online or entry.code is OfflineCode.REVOKED:
                return 0.0
            return entry.since + min(OFFLINE_GRACE_S * (1 << min(entry.unrest, 8)), LONGEST_GRACE_S)
        contested = self._presence.is_contested(entry)
        if contested and not told.contested:
            return 0.0
        times: list[float] = []
        if told.contested:
            times.append(entry.contested_until)
        if entry.untold_since is not None and (told.connects, told.takeovers) != (entry.connects, entry.takeovers):
            times.append(entry.untold_since + LATER_S)
        return min(times) if times else None

    def _look_who_was_seen(self) -> None:
        presence, written = self._presence, self._written_telemetry
        for device_id, entry in presence.entries.items():
            silence_s = presence.silence_s(device_id) if entry.online else None
            seen = silence_s is not None and silence_s < SEEN_EVERY_S
            if seen or presence.last_telemetry_ms.get(device_id) != written.get(device_id):
                self._dirty[device_id] = None

    # --- writing ----------------------------------------------------------------------------------------------

    async def _write_some(self, device_ids: list[str], due: set[str]) -> None:
        rows: list[PresenceRow] = []
        messages: list[PresenceMessage] = []
        before: dict[str, tuple[Entry, Told | None, int, float]] = {}
        for device_id in device_ids:
            self._dirty.pop(device_id, None)
            entry = self._presence.entries.get(device_id)
            if entry is None:
                continue
            # it may have changed while the rows before it were written
            if device_id in due and self._due.get(device_id, math.inf) <= self._clock.monotonic():
                messages.append(self._message(device_id, entry))
                before[device_id] = entry, entry.told, entry.unrest, entry.told_offline_at
                self._tell(device_id, entry)
            rows.append(self._row(device_id, entry))
        if not rows:
            return
        try:
            # whoever changes meanwhile is compared with what is being told
            await self._store.write(rows, messages)
        except StoreUnavailableError:
            self._dirty.update(dict.fromkeys(device_ids))
            for device_id, (entry, told, unrest, told_offline_at) in before.items():
                # what was not told is no unrest: the grace would be at its longest after a minute of a full disk
                entry.told, entry.unrest, entry.told_offline_at = told, unrest, told_offline_at
                self._due[device_id] = 0.0
            raise
        for row in rows:
            if row.last_telemetry_ms is not None and row.device in self._presence.entries:
                self._written_telemetry[row.device] = row.last_telemetry_ms

    def _tell(self, device_id: str, entry: Entry) -> None:
        now = self._clock.monotonic()
        if not entry.online:
            entry.unrest = entry.unrest + 1 if now - entry.told_offline_at < CALM_S else 0
            entry.told_offline_at = now
        entry.told = Told(entry.online, entry.connects, entry.takeovers, self._presence.is_contested(entry))
        entry.untold_since = None
        self._schedule(device_id, entry)

    async def _say_farewell(self) -> None:
        while self._farewells:
            farewells = self._farewells[:WRITE_ROWS]
            await self._store.write([], farewells)
            del self._farewells[: len(farewells)]

    def _message(self, device_id: str, entry: Entry) -> PresenceMessage:
        told = entry.told
        connects = entry.connects - (told.connects if told else 0)
        # the connection that this message tells of is no reconnect
        first = entry.online and (told is None or not told.online)
        now_ms = self._clock.now_ms()
        payload = presence_payload(
            online=entry.online,
            since_ms=entry.since_ms,
            code=entry.code,
            detail=entry.detail,
            address=entry.address,
            reconnects=max(connects - first, 0),
            takeovers=max(entry.takeovers - (told.takeovers if told else 0), 0),
            contested=self._presence.is_contested(entry),
            last_seen_ms=self._presence.last_seen_ms(device_id, entry),
            last_telemetry_ms=self._presence.last_telemetry_ms.get(device_id),
        )
        return PresenceMessage(device_id, payload, min(entry.since_ms, now_ms), now_ms, self._flags())

    def _row(self, device_id: str, entry: Entry) -> PresenceRow:
        told = entry.told
        return PresenceRow(
            device=device_id,
            online=int(entry.online),
            since_ms=entry.since_ms,
            code=None if entry.code is None else entry.code.value,
            detail=entry.detail[:DETAIL_CHARACTERS],
            address=entry.address,
            connects=entry.connects,
            takeovers=entry.takeovers,
            last_seen_ms=self._presence.last_seen_ms(device_id, entry),
            last_telemetry_ms=self._presence.last_telemetry_ms.get(device_id),
            told_online=None if told is None else told.online | told.contested * _TOLD_CONTESTED,
            told_connects=0 if told is None else told.connects,
            told_takeovers=0 if told is None else told.takeovers,
        )


def _entry(row: PresenceRow, now: float, now_ms: int) -> Entry:
    """A device as it was left; nobody is connected yet."""
    code = OfflineCode.ENDED
    if row.code is not None and row.code in OfflineCode._value2member_map_:
        code = OfflineCode(row.code)
    since_ms = row.since_ms
    if row.online:
        code, since_ms = OfflineCode.APPLIANCE_RESTARTED, now_ms
    elif code is OfflineCode.APPLIANCE_STOPPED:
        code = OfflineCode.APPLIANCE_RESTARTED
    told = None
    if row.told_online is not None:
        # the login that follows the restart is no reconnect worth telling
        more = int(bool(row.told_online & 1) and code is OfflineCode.APPLIANCE_RESTARTED)
        contested = bool(row.told_online & _TOLD_CONTESTED)
        told = Told(bool(row.told_online & 1), row.told_connects + more, row.told_takeovers, contested)
    return Entry(
        online=False,
        since_ms=since_ms,
        since=now - max(now_ms - since_ms, 0) / 1000,
        code=code,
        detail=row.detail if not row.online else "",
        address=row.address,
        connects=row.connects,
        takeovers=row.takeovers,
        last_seen_ms=row.last_seen_ms,
        told=told,
        untold_since=now,
    )
