"""How the appliance is, in one word with reasons: what the health routes, and people, are told."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from appliance.broker.seams import PassedOn
from appliance.broker.server import EmbeddedBroker
from appliance.contract.times import Clock, rfc3339
from appliance.services.gateway_clock import GatewayClock
from appliance.services.presence import PresenceService
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.uplink.state import UplinkState
from appliance.uplink.sync_state import SyncState
from appliance.web.services import Health

LOOK_EVERY_S = 10.0
WARN_SHARE = 0.80
"""Of the disk, and of the buffer's quota."""


class HealthService:
    """Looks at the parts; the disk it looks at now and then, in a thread, because a sick one may take its time."""

    def __init__(
        self,
        *,
        database: Database,
        buffer: Buffer,
        broker: EmbeddedBroker,
        presence: PresenceService,
        gateway_clock: GatewayClock,
        uplink: Callable[[], UplinkState],
        sync: Callable[[], SyncState | None],
        quota_bytes: int,
        clock: Clock,
    ) -> None:
        self._database = database
        self._buffer = buffer
        self._broker = broker
        self._presence = presence
        self._gateway_clock = gateway_clock
        self._uplink = uplink
        self._sync = sync
        self._quota_bytes = quota_bytes
        self._clock = clock
        self._disk: dict[str, int] = {}

    async def run(self) -> None:
        """Look at the disk until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look at the disk once."""
        with suppress(OSError):
            # a disk that cannot even be looked at is the store's to report; the looking must go on
            self._disk = await asyncio.to_thread(_disk, self._database.path)

    @property
    def disk(self) -> Mapping[str, int]:
        """``total_bytes``, ``free_bytes`` and ``file_bytes`` as of the last look; empty before the first."""
        return self._disk

    def health(self) -> Health:
        """The verdict. ``failing``: nothing can be acknowledged now; ``degraded``: people should look."""
        failing = list(self._failing())
        degraded = list(self._degraded())
        status: Literal["ok", "degraded", "failing"] = "failing" if failing else "degraded" if degraded else "ok"
        return Health(status=status, reasons=(*failing, *degraded), details=self._details())

    def _failing(self) -> list[str]:
        reason = self._database.unavailable
        return [f"nothing can be stored, so nothing is acknowledged: {reason}"] if reason else []

    def _degraded(self) -> list[str]:
        reasons = []
        if self._gateway_clock.doubt:
            reasons.append(f"the clock of the appliance is wrong, and readings are marked: {self._gateway_clock.doubt}")
        uplink = self._uplink()
        if uplink.alarm:
            reasons.append(f"nothing is sent to Odoo until somebody acts: {uplink.alarm}")
        elif uplink.reachable is False:
            reasons.append(f"Odoo does not answer: {uplink.last_error}")
        sync = self._sync()
        if sync is not None:
            reasons += sync.problems(self._clock.now_ms())
        reasons += _passed_on_reasons(self._broker.passed_on())
        if self._disk and self._disk["free_bytes"] < (1 - WARN_SHARE) * self._disk["total_bytes"]:
            share = 100 * self._disk["free_bytes"] // self._disk["total_bytes"]
            reasons.append(f"only {share} % of the disk is free")
        if self._disk.get("file_bytes", 0) > WARN_SHARE * self._quota_bytes:
            reasons.append("the buffer has used more than 80 % of its quota (IIOT_BUFFER_QUOTA_MB)")
        return reasons

    def _details(self) -> dict[str, Any]:
        backlog = self._buffer.backlog()
        sync = self._sync()
        oldest_ms = backlog.oldest_received_at_ms
        return {
            "broker": {
                "connections": self._broker.listener.connections,
                "devices_online": self._presence.online,
            },
            "passed_on": asdict(self._broker.passed_on()),
            "buffer": {
                "waiting": backlog.waiting,
                "parked": backlog.parked,
                "oldest_received_at": None if oldest_ms is None else rfc3339(oldest_ms),
                "queued": self._database.queued,
                "epoch": self._database.epoch,
            },
            "uplink": asdict(self._uplink()),
            "sync": None if sync is None else asdict(sync),
            "disk": self._disk,
            "clock": {"plausible": self._gateway_clock.doubt is None, "doubt": self._gateway_clock.doubt},
        }


def _passed_on_reasons(passed_on: PassedOn) -> list[str]:
    reasons = []
    if passed_on.stalled:
        reasons.append(
            "nothing is passed on to viewers and between machines: amqtt does not keep up; readings and commands do "
            "not depend on it"
        )
    if passed_on.full and passed_on.subscriptions_refused:
        reasons.append(f"local topics are refused to further devices: {passed_on.machines} have them, and no more can")
    return reasons


def _disk(path: Path) -> dict[str, int]:
    usage = shutil.disk_usage(path.parent)
    file_bytes = sum(each.stat().st_size for each in path.parent.glob(path.name + "*"))
    return {"total_bytes": usage.total, "free_bytes": usage.free, "file_bytes": file_bytes}
