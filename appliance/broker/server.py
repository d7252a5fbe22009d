"""The embedded broker as one thing: amqtt with our plugin, and our listener in front of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from amqtt.broker import Broker

from appliance.broker.adapters import EXTERNAL_LISTENER
from appliance.broker.attached import AttachedClients, AttachedLimits
from appliance.broker.fan_out import FanOut
from appliance.broker.listener import Endpoint, Hooks, Limits, Listener
from appliance.broker.local_traffic import LocalTraffic
from appliance.broker.plugin import InterceptPlugin, Rights, plugin_configuration
from appliance.broker.seams import PassedOn
from appliance.contract.times import Clock
from appliance.services.presence import PresenceService
from appliance.store.packet_ids import PacketIds

log = logging.getLogger(__name__)


class EmbeddedBroker:
    """Build it on the event loop, :meth:`start` it, keep :meth:`run` running, :meth:`stop` it."""

    def __init__(
        self,
        *,
        rights: Rights,
        hooks: Hooks,
        presence: PresenceService,
        clock: Clock,
        limits: Limits,
        packet_ids: PacketIds,
        endpoints: Sequence[Endpoint],
        attached: AttachedLimits | None = None,
        plugins: dict[str, object] | None = None,
    ) -> None:
        attached = replace(attached or AttachedLimits(), payload_bytes=limits.payload_bytes)
        self._endpoints = endpoints
        self._packet_ids = packet_ids
        self.amqtt = Broker(
            {
                # the listener attaches clients itself; amqtt opens no socket
                "listeners": {EXTERNAL_LISTENER: {"type": "external", "bind": "external"}},
                "plugins": plugin_configuration(rights) if plugins is None else plugins,
                # nothing of amqtt's outlives a connection: what has to is kept in front of it, bounded
                "session_expiry_interval": 0,
            }
        )
        self.plugin = next(
            (each for each in self.amqtt.plugins_manager.plugins if isinstance(each, InterceptPlugin)), None
        )
        self.fan_out = FanOut(
            amqtt=self.amqtt, most_messages=attached.fan_out_messages, most_bytes=attached.fan_out_bytes
        )
        self.attached: AttachedClients | None = None
        if self.plugin is not None:
            self.attached = AttachedClients(
                amqtt=self.amqtt, plugin=self.plugin, fan_out=self.fan_out, limits=attached, clock=clock
            )
        self.local: LocalTraffic | None = None
        if self.plugin is not None:
            self.local = LocalTraffic(
                amqtt=self.amqtt, plugin=self.plugin, fan_out=self.fan_out, limits=attached, clock=clock
            )
        self.listener = Listener(
            plugin=self.plugin,
            hooks=replace(hooks, fan_out=self.fan_out.offer),
            presence=presence,
            clock=clock,
            limits=limits,
            packet_ids=packet_ids,
            attach=self.attached.attach if self.attached is not None else None,
            is_attached=(lambda *_: False) if self.attached is None else self.attached.is_connected,
            local=self.local,
        )
        self.ports: list[int] = []

    async def start(self) -> None:
        """Start amqtt, then listen; :attr:`ports` are those of the endpoints. ``OSError`` if a port cannot be had."""
        await self._packet_ids.load()
        await self.amqtt.start()
        try:
            if self.plugin is not None:
                await self.fan_out.start()
            self.ports = await self.listener.start(self._endpoints)
        except BaseException:
            await self.stop()
            raise

    def passed_on(self) -> PassedOn:
        """How it stands with viewers and local topics."""
        attached, local = self.attached, self.local
        return PassedOn(
            viewers=0 if attached is None else len(attached),
            machines=0 if local is None else len(local),
            waiting=len(self.fan_out),
            dropped=self.fan_out.dropped + sum(part.dropped for part in (attached, local) if part is not None),
            publishes_refused=0 if attached is None else attached.refused,
            subscriptions_refused=0 if local is None else local.refused,
            stalled=self.fan_out.stalled,
            full=local is not None and local.full,
        )

    async def run(self) -> None:
        """What has to be done while it serves, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.listener.run(), name="listener")
            tasks.create_task(self.fan_out.run(), name="fan-out")

    async def stop(self) -> None:
        """Close every connection and end amqtt; after :meth:`run` has ended."""
        await self.listener.stop()
        if self.attached is not None:
            await self.attached.stop()
        if self.local is not None:
            await self.local.stop()
        await self.fan_out.stop()
        try:
            await self.amqtt.shutdown()
        except asyncio.CancelledError:
            # amqtt lets its own cancelled publishes out; a cancellation of ours must go on
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
