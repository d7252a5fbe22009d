"""What operators are told in numbers: the ledger, a device's counters, and the metrics of all parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from appliance import __version__
from appliance.broker.server import EmbeddedBroker
from appliance.errors import StoreUnavailableError
from appliance.parts.health import HealthService
from appliance.services.commands import CommandService
from appliance.services.firmware import FirmwareService
from appliance.services.ota import OtaService
from appliance.services.presence import PresenceService
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.dead_letters import DeadLetters
from appliance.store.devices import DeviceRegistry
from appliance.store.kinds import BufferKinds, read_kinds
from appliance.store.ledger import LedgerLine, LedgerPage, read_ledger, read_page, read_refusals, read_total
from appliance.uplink.state import UplinkState
from appliance.web.metrics import Figures, StoreFigures


class FigureService:
    """Asks the parts. What the store must be asked raises :class:`StoreUnavailableError`, but for the metrics."""

    def __init__(
        self,
        *,
        database: Database,
        buffer: Buffer,
        dead_letters: DeadLetters,
        registry: DeviceRegistry,
        broker: EmbeddedBroker,
        presence: PresenceService,
        commands: CommandService,
        updates: OtaService,
        firmware: FirmwareService,
        health: HealthService,
        uplink: Callable[[], UplinkState],
    ) -> None:
        self._database = database
        self._buffer = buffer
        self._dead_letters = dead_letters
        self._registry = registry
        self._broker = broker
        self._presence = presence
        self._commands = commands
        self._updates = updates
        self._firmware = firmware
        self._health = health
        self._uplink = uplink

    async def ledger(self, *, search: str, after: str, limit: int) -> LedgerPage:
        """Lines of devices behind ``after`` whose id holds ``search``."""
        return await self._database.run(partial(read_page, search=search, after=after, limit=limit))

    async def counters(self, device_id: str) -> Mapping[str, Any]:
        """A device's line of the ledger, with what was refused and why."""
        lines = await self._database.run(lambda connection: read_ledger(connection, device_id))
        refusals = await self._database.run(lambda connection: read_refusals(connection, device_id))
        line = lines[0] if lines else LedgerLine(device_id)
        counters = asdict(line)
        del counters["device"]
        return counters | {"waiting": line.waiting, "refusals": refusals}

    async def kinds(self) -> BufferKinds:
        """What waits and what was parked, by kind and reason; nothing of it while the store cannot be asked."""
        waiting = self._buffer.backlog().waiting
        try:
            return await self._database.run(partial(read_kinds, waiting=waiting))
        except StoreUnavailableError:
            return BufferKinds(None, None)

    async def metrics(self) -> Figures:
        """All figures at this moment; those of the store are missing while it cannot be asked."""
        store: StoreFigures | None = None
        with suppress(StoreUnavailableError):
            total, _ = await self._database.run(read_total)
            store = StoreFigures(total=total, stock=await self._dead_letters.stock())
        uplink, passed_on = self._uplink(), self._broker.passed_on()
        return Figures(
            version=__version__,
            store=store,
            backlog=self._buffer.backlog(),
            now_ms=self._database.clock.now_ms(),
            queued=self._database.queued,
            connections=self._broker.listener.connections,
            connections_accepted=self._broker.listener.accepted,
            viewer_sessions=passed_on.viewers,
            local_sessions=passed_on.machines,
            passed_on_dropped=passed_on.dropped,
            passed_on_stalled=passed_on.stalled,
            local_subscriptions_refused=passed_on.subscriptions_refused,
            devices_online=self._presence.online,
            devices_paired=len(self._registry),
            commands_open=self._commands.open_total,
            updates_open=self._updates.open_total,
            firmware_bytes=self._firmware.stored_bytes,
            firmware_downloads=self._firmware.active_downloads,
            firmware_bytes_sent=self._firmware.bytes_sent,
            uplink_up=uplink.reachable,
            uplink_alarm=uplink.alarm is not None,
            uplink_batches=uplink.batches,
            uplink_settled=uplink.settled,
            uplink_failures=uplink.failures,
            uplink_consecutive_failures=uplink.consecutive_failures,
            disk=self._health.looks.disk,
            quota_bytes=self._health.quota_bytes,
            commits=self._database.commits,
            readings_per_s=self._health.looks.readings_per_s,
            ledger_adds_up=self._health.looks.adds_up,
        )
