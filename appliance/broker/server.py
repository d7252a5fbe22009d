"""The embedded broker as one thing: amqtt with our plugin, and our listener in front of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from amqtt.broker import Broker

from appliance.broker.listener import Endpoint, Hooks, Limits, Listener
from appliance.broker.plugin import InterceptPlugin, Rights, plugin_configuration
from appliance.contract.times import Clock
from appliance.services.presence import PresenceService

log = logging.getLogger(__name__)

EXTERNAL_LISTENER = "default"
SESSION_EXPIRY_S = 24 * 3600


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
        endpoints: Sequence[Endpoint],
        plugins: dict[str, object] | None = None,
    ) -> None:
        self._endpoints = endpoints
        self.amqtt = Broker(
            {
                # the listener attaches clients itself; amqtt opens no socket
                "listeners": {EXTERNAL_LISTENER: {"type": "external", "bind": "external"}},
                "plugins": plugin_configuration(rights) if plugins is None else plugins,
                "session_expiry_interval": SESSION_EXPIRY_S,
            }
        )
        self.plugin = next(
            (each for each in self.amqtt.plugins_manager.plugins if isinstance(each, InterceptPlugin)), None
        )
        self.listener = Listener(plugin=self.plugin, hooks=hooks, presence=presence, clock=clock, limits=limits)
        self.ports: list[int] = []

    async def start(self) -> None:
        """Start amqtt, then listen; :attr:`ports` are those of the endpoints. ``OSError`` if a port cannot be had."""
        await self.amqtt.start()
        self.ports = await self.listener.start(self._endpoints)

    async def run(self) -> None:
        """What has to be done while it serves, until cancelled."""
        await self.listener.run()

    async def stop(self) -> None:
        """Close every connection and end amqtt."""
        await self.listener.stop()
        try:
            await self.amqtt.shutdown()
        except asyncio.CancelledError:
            # amqtt lets its own cancelled publishes out; a cancellation of ours must go on
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
