"""All that joins the appliance to Odoo: the client, the pump, ``sync``, and what the appliance tells of itself."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

from appliance import __version__
from appliance.contract.sync import BacklogReport, DiskReport, LedgerReport
from appliance.contract.times import Clock, rfc3339
from appliance.enrolment import OdooAccess
from appliance.parts.health import HealthService
from appliance.parts.identity_keeper import IdentityKeeper
from appliance.services.commands import CommandService
from appliance.services.gateway_clock import GatewayClock
from appliance.services.pending_commands import PendingCommands
from appliance.services.presence import PresenceService
from appliance.settings import Settings
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.devices import DeviceRegistry
from appliance.store.ledger import read_total
from appliance.store.standing import Standing
from appliance.uplink.client import OdooClient, Timeouts
from appliance.uplink.fetched import Devices, FetchedWork, Updates
from appliance.uplink.gate import Gate
from appliance.uplink.pump import Pump, PumpLimits
from appliance.uplink.state import UplinkState
from appliance.uplink.sync import NOT_ASKED, Sync
from appliance.uplink.sync_request import GatewayReport

STEP_S = 120.0
"""What a step of pump or sync may take besides its request: a slow card may take its time."""


async def begin(database: Database, access: OdooAccess | None) -> Standing:
    """Note this start of the process, before anything of it is stored."""
    standing = Standing(database)
    if access is None:
        await standing.begin()
    else:
        await standing.begin(consent=access.consent, database_uuid=access.database_uuid)
    return standing


class OdooLink:
    """Build it, :meth:`join` it to what it reports of and gives work to, then run its :meth:`tasks`."""

    def __init__(
        self,
        *,
        access: OdooAccess,
        settings: Settings,
        database: Database,
        buffer: Buffer,
        standing: Standing,
        gateway_uid: str,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._keep_identity = settings.iiot_identity_at_odoo and access.keep_identity
        self._database = database
        self._buffer = buffer
        self._standing = standing
        self._gateway_uid = gateway_uid
        self._clock = clock
        self._started_at = clock.monotonic()
        self._gate = Gate()
        self.client = OdooClient(
            base_url=access.base_url,
            api_key=access.api_key,
            database=access.database,
            timeouts=Timeouts(read_s=settings.odoo_timeout_s),
            clock=clock,
        )
        self.client.gate = self._gate
        self.pump = Pump(
            buffer=buffer,
            client=self.client,
            gateway_uid=gateway_uid,
            clock=clock,
            limits=PumpLimits(batch_messages=settings.odoo_batch_messages, batch_bytes=settings.odoo_batch_bytes),
            on_work=lambda: self.sync.wake(),
            on_behind=lambda: self.sync.behind(),
        )
        self.pump.hold(NOT_ASKED, alarm=False)
        self.sync: Sync
        self.identity: IdentityKeeper

    def join(
        self,
        *,
        commands: CommandService,
        registry: DeviceRegistry,
        presence: PresenceService,
        health: HealthService,
        gateway_clock: GatewayClock,
        api_url: str,
        fingerprint: str,
        updates: Updates | None = None,
        devices: Devices | None = None,
    ) -> None:
        """Say who takes the work that Odoo has, and who is to be reported of."""
        self._registry, self._presence, self._health = registry, presence, health
        self._api_url, self._fingerprint = api_url, fingerprint
        self.sync = Sync(
            client=self.client,
            pump=self.pump,
            buffer=self._buffer,
            standing=self._standing,
            work=FetchedWork(commands=PendingCommands(commands=commands), updates=updates, devices=devices),
            report=self._report,
            gateway_uid=self._gateway_uid,
            clock=self._clock,
            gate=self._gate,
            on_time=gateway_clock.agrees_with,
        )
        self.identity = IdentityKeeper(
            settings=self._settings,
            gateway_uid=self._gateway_uid,
            registry=registry,
            client=self.client,
            sender=lambda: self.sync.sender,
            clock=self._clock,
            wanted=self._keep_identity,
        )

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, object]]:
        """What must run, by name."""
        return {"uplink": self.pump.run(), "sync": self.sync.run(), "identity": self.identity.run()}

    def ask_soon(self) -> bool:
        """Somebody says that Odoo has work."""
        self.sync.wake()
        return True

    def stuck(self) -> str | None:
        """What is in the same step for longer than any step can take; Odoo being away is none: then both sleep."""
        longest_s = self.client.longest_s + STEP_S
        for name, progress in (("the pump", self.pump.progress), ("sync", self.sync.progress)):
            if progress.in_step_s > longest_s:
                return f"{name} has been at the same step for {progress.in_step_s:.0f} s"
        return None

    def state(self) -> UplinkState:
        """How it stands with Odoo, as messages and ``sync`` have shown."""
        pump, sync = self.pump.state(), self.sync.state()
        if pump.reachable is not None and sync.reachable is not False:
            return pump
        last_error, last_error_at_ms = sync.last_error, sync.last_error_at_ms
        if (pump.last_error_at_ms or 0) > (last_error_at_ms or 0):
            last_error, last_error_at_ms = pump.last_error, pump.last_error_at_ms
        return replace(
            pump,
            reachable=sync.reachable,
            last_success_at_ms=pump.last_success_at_ms or sync.last_success_at_ms,
            last_error=last_error,
            last_error_at_ms=last_error_at_ms,
        )

    async def _report(self) -> GatewayReport:
        health = self._health.health()
        backlog = self._buffer.backlog()
        oldest_ms = backlog.oldest_received_at_ms
        total, _ = await self._database.run(read_total)
        disk = self._health.looks.disk
        return GatewayReport(
            name=self._settings.mqtt_client_id,
            version=__version__,
            uptime_s=round(self._clock.monotonic() - self._started_at, 1),
            status=health.status,
            problems=health.reasons,
            backlog=BacklogReport(
                waiting=backlog.waiting,
                parked=backlog.parked,
                oldest_at=None if oldest_ms is None else rfc3339(oldest_ms),
                drain_s=self.pump.state().drain_s,
            ),
            ledger=LedgerReport(
                received=total.received,
                stored=total.stored,
                waiting=total.waiting,
                parked=total.parked,
                removed=total.removed,
                refused=total.refused,
                repeated=total.repeated,
            ),
            disk=DiskReport(free_bytes=disk["free_bytes"], total_bytes=disk["total_bytes"]) if disk else None,
            devices_paired=len(self._registry),
            devices_online=self._presence.online,
            api_url=self._api_url,
            ca_fingerprint=self._fingerprint,
        )
