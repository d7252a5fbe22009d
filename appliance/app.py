"""The one place where the appliance's parts are built and joined; nothing is reached through a global."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from appliance import __version__
from appliance.broker.connection import Connection
from appliance.broker.listener import Endpoint, Hooks, Limits
from appliance.broker.plugin import Interceptors, Rights
from appliance.broker.server import EmbeddedBroker
from appliance.broker.session import Receipt
from appliance.contract.times import Clock
from appliance.enrolment import read_access
from appliance.errors import StoreUnavailableError
from appliance.http_server import http_server, listen
from appliance.identity import Identity, read_identity
from appliance.notify import Notifier
from appliance.parts.devices import DeviceParts
from appliance.parts.facts import Ports
from appliance.parts.figures import FigureService
from appliance.parts.health import HealthService
from appliance.parts.observers import Observers
from appliance.parts.odoo import OdooLink, begin
from appliance.parts.pages import build_pages
from appliance.parts.summary import Summary
from appliance.parts.updates import build_updating
from appliance.parts.watchdog import Watchdog
from appliance.services.api_keys import ApiKeys
from appliance.services.commands import CommandService
from appliance.services.configuration import BrokerAddress
from appliance.services.refusals import RefusalService
from appliance.services.telemetry import TelemetryService
from appliance.settings import Settings
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.dead_letters import DeadLetters
from appliance.store.devices import DeviceRegistry
from appliance.store.outbox import Outbox
from appliance.store.packet_ids import PacketIds
from appliance.uplink.state import UplinkState
from appliance.web.api import WebServices, create_app
from appliance.web.mqtt_socket import MqttSockets

log = logging.getLogger("appliance")

MIB = 1 << 20


class _StopRequested(Exception):
    """Ends the task group."""


class Appliance:
    """All parts, built from the settings: enter :meth:`started`, and await :meth:`run` inside."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, notifier: Notifier | None = None) -> None:
        self.settings = settings
        self._notifier = notifier
        self.clock = clock or Clock()
        self.ports: Ports
        self.fingerprint = ""
        """Of the certificate authority, as labels carry it."""
        self.restarting = False
        self._stop = asyncio.Event()

    def stop(self, *, restart: bool = False) -> None:
        """Ask :meth:`run` to return; with ``restart``, whoever has started this to begin another."""
        self.restarting = restart
        self._stop.set()

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Appliance]:
        """Open the store, load what is in it, and listen. Everything is closed again on the way out.

        Raises what :meth:`Database.open` raises, ``DataFolderError``, ``SettingsError``, or ``OSError`` for a port.
        """
        settings = self.settings
        async with AsyncExitStack() as stack:
            self.database = await Database.open(
                settings.iiot_data_dir, quota_bytes=settings.iiot_buffer_quota_mb * MIB, clock=self.clock
            )
            stack.push_async_callback(self.database.close)
            identity = await asyncio.to_thread(read_identity, settings)
            self._access = await asyncio.to_thread(read_access, settings)
            self.fingerprint = identity.certificates.fingerprint
            http_socket = listen(settings.host, settings.port)
            stack.callback(http_socket.close)
            await self._build_store()
            self.api_keys = ApiKeys(database=self.database, own_keys=[identity.api_key], clock=self.clock)
            await self.api_keys.load()
            self._build_uplink(identity, stack)
            self.updating = await build_updating(
                settings,
                stack,
                database=self.database,
                registry=self.registry,
                credentials=identity.credentials,
                odoo=self._access,
                clock=self.clock,
                host=identity.names[0],
                http_port=http_socket.getsockname()[1],
            )
            await self._start_broker(identity, stack)
            self.ports = Ports(
                mqtt=self.broker.ports[0],
                mqtt_plain=self.broker.ports[1] if len(self.broker.ports) > 1 else None,
                http=http_socket.getsockname()[1],
            )
            await self._build_web(identity, http_socket, stack)
            yield self

    async def run(self) -> None:
        """Serve until :meth:`stop`. A task that fails ends all of them, and its error is raised here."""
        tasks: dict[str, Coroutine[Any, Any, object]] = {
            "store": self._watch_store(),
            "broker": self.broker.run(),
            "devices": self.devices.run(),
            "commands": self.commands.run(),
            **self.updating.tasks(),
            "refusals": self.refusals.run(),
            "observers": self.observers.run(),
            "health": self.health.run(),
            "summary": self.summary.run(),
            **self.pages.tasks(),
            "web": self._serve_web(),
            "stop": self._until_stopped(),
        }
        if self.odoo is not None:
            tasks |= self.odoo.tasks()
        if self._notifier is not None and self._notifier.listens:
            tasks["watchdog"] = self._watchdog(self._notifier).run()
        try:
            async with asyncio.TaskGroup() as group:
                for name, work in tasks.items():
                    group.create_task(work, name=name)
        except* _StopRequested:
            log.info("stopped")

    # --- building --------------------------------------------------------------------------------------------

    async def _build_store(self) -> None:
        settings = self.settings
        self.buffer = Buffer(
            self.database,
            keep_settled_s=settings.iiot_history_hours * 3600,
            keep_settled_bytes=settings.iiot_history_mb * MIB,
        )
        await self.buffer.load()
        self.standing = await begin(self.database, self._access)
        self.registry = DeviceRegistry(database=self.database, templates=settings.topics)
        await self.registry.load()
        self.registry.handed_over = self.buffer.handed_over

    def _build_uplink(self, identity: Identity, stack: AsyncExitStack) -> None:
        self.odoo: OdooLink | None = None
        if self._access is None:
            return
        self.odoo = OdooLink(
            access=self._access,
            settings=self.settings,
            database=self.database,
            buffer=self.buffer,
            standing=self.standing,
            gateway_uid=identity.gateway_uid,
            clock=self.clock,
        )
        stack.push_async_callback(self.odoo.client.aclose)

    async def _start_broker(self, identity: Identity, stack: AsyncExitStack) -> None:
        settings, clock = self.settings, self.clock
        self.observers = Observers(database=self.database, clock=clock)
        self.presence = self.observers.presence
        self.refusals = RefusalService(database=self.database, clock=clock)
        self.telemetry = TelemetryService(database=self.database, buffer=self.buffer, presence=self.presence)
        self.observers.gateway_clock.changed.append(self.telemetry.mark)
        await self.observers.load()
        self.ota = self.updating.service
        self.commands = CommandService(outbox=Outbox(self.database), devices=self.registry, clock=clock)
        viewers = {}
        if settings.mqtt_broker_username and settings.mqtt_broker_password:
            viewers[settings.mqtt_broker_username] = settings.mqtt_broker_password.get_secret_value()
        tls = identity.certificates.server_context() if settings.mqtt_use_tls else None
        endpoints = [Endpoint(settings.mqtt_bind, settings.mqtt_broker_port, tls)]
        if settings.mqtt_plain_port is not None:
            endpoints.append(Endpoint(settings.mqtt_bind, settings.mqtt_plain_port))
        self.broker = EmbeddedBroker(
            rights=Rights(
                registry=self.registry,
                credentials=identity.credentials,
                templates=settings.topics,
                viewers=viewers,
                interceptors=Interceptors(
                    telemetry=self.telemetry.accept,
                    command_response=self.commands.accept_response,
                    ota_status=self.ota.accept_status,
                    config_request=lambda *taken: self.devices.accept_config_request(*taken),
                ),
            ),
            hooks=Hooks(
                in_order=self._in_order,
                refused=self.refusals.note,
                # these need the port, which is known once the broker listens
                pair=lambda *asked: self.devices.pairing.accept_request(*asked),
                logged_in=lambda *shown: self.devices.push.logged_in(*shown),
                ready=self._device_ready,
                gone=self._device_gone,
            ),
            presence=self.presence,
            clock=clock,
            limits=Limits(
                payload_bytes=settings.mqtt_max_payload_bytes,
                connections=settings.mqtt_max_connections,
                unpaired_per_address=settings.mqtt_max_unpaired_per_address,
            ),
            packet_ids=PacketIds(self.database),
            endpoints=endpoints,
        )
        listener = self.broker.listener
        self.database.committed = listener.acknowledge
        self.database.withheld = listener.withhold
        self.commands.transmit = self.ota.transmit = listener.deliver
        self.registry.changed.append(listener.device_changed)
        self.registry.removed.append(lambda device: listener.revoke(device.device_id))
        self.registry.removed.append(lambda device: self.observers.keeper.removed(device.device_id))
        await self.broker.start()
        stack.push_async_callback(self._stop_broker)
        self.devices = DeviceParts(
            registry=self.registry,
            database=self.database,
            listener=listener,
            commands=self.commands,
            identity=identity,
            source=None if self.odoo is None else self.odoo.client,
            address=BrokerAddress(
                host=identity.names[0],
                port=self.broker.ports[0],
                tls=settings.mqtt_use_tls,
            ),
            clock=clock,
        )

    async def _build_web(self, identity: Identity, http_socket: socket.socket, stack: AsyncExitStack) -> None:
        settings = self.settings
        self.health = HealthService(
            database=self.database,
            buffer=self.buffer,
            broker=self.broker,
            presence=self.presence,
            gateway_clock=self.observers.gateway_clock,
            uplink=self.uplink_state,
            sync=lambda: None if self.odoo is None else self.odoo.sync.state(),
            quota_bytes=settings.iiot_buffer_quota_mb * MIB,
            clock=self.clock,
        )
        listener = self.broker.listener
        if self.odoo is not None:
            self.odoo.join(
                commands=self.commands,
                registry=self.registry,
                presence=self.presence,
                health=self.health,
                gateway_clock=self.observers.gateway_clock,
                devices=self.devices.changes,
                api_url=f"{'https' if settings.http_use_tls else 'http'}://{identity.names[0]}:{self.ports.http}",
                fingerprint=self.fingerprint,
                updates=self.ota,
            )
        dead_letters = DeadLetters(database=self.database, buffer=self.buffer)
        figures = FigureService(
            database=self.database,
            buffer=self.buffer,
            dead_letters=dead_letters,
            registry=self.registry,
            broker=self.broker,
            presence=self.presence,
            commands=self.commands,
            updates=self.ota,
            firmware=self.updating.firmware,
            health=self.health,
            uplink=self.uplink_state,
        )
        self.summary = Summary(figures.metrics, clock=self.clock)
        self.pages = await build_pages(
            settings,
            stack,
            identity=identity,
            access=self._access,
            database=self.database,
            api_keys=self.api_keys,
            health=self.health,
            ports=self.ports,
            clock=self.clock,
            restart=lambda: self.stop(restart=True),
        )
        self._mqtt_sockets = MqttSockets(open_connection=lambda: Connection(listener))
        web = create_app(
            WebServices(
                name=settings.mqtt_client_id,
                version=__version__,
                clock=self.clock,
                api_keys=self.api_keys,
                registry=self.registry,
                credentials=identity.credentials,
                pairing=self.devices.pairing,
                push=self.devices.push,
                changes=self.devices.changes,
                commands=self.commands,
                updates=self.ota,
                firmware_files=self.updating.files,
                firmware_downloads=self.updating.firmware,
                presence=self.presence.status,
                counters=figures.counters,
                backlog=self.buffer.backlog,
                kinds=figures.kinds,
                ledger=figures.ledger,
                dead_letters=dead_letters,
                metrics=figures.metrics,
                health=self.health.health,
                ca_pem=identity.certificates.ca_pem,
                pages=self.pages.services,
                stopping=self._stop.is_set,
                sync_soon=lambda: self.odoo is not None and self.odoo.ask_soon(),
            ),
            mqtt_sockets=self._mqtt_sockets,
        )
        self._http_socket = http_socket
        self._web = http_server(web, settings=settings, tls=identity.certificates if settings.http_use_tls else None)

    def _watchdog(self, notifier: Notifier) -> Watchdog:
        return Watchdog(
            notifier=notifier,
            database=self.database,
            listener=self.broker.listener,
            odoo=self.odoo,
            health=self.health,
        )

    # --- joining ---------------------------------------------------------------------------------------------

    def _in_order(self, receipt: Receipt) -> None:
        self.database.submit(_nothing, receipt=receipt)

    def _device_ready(self, device_id: str, topic: str) -> None:
        """The device can be sent what waits for it on this topic."""
        if topic == "command":
            self.commands.device_ready(device_id)
        elif topic == "config_response":
            self.devices.push.device_ready(device_id)
        elif topic == "ota_notify":
            self.ota.device_ready(device_id)

    def _device_gone(self, device_id: str) -> None:
        self.commands.device_gone(device_id)
        self.devices.push.device_gone(device_id)
        self.ota.device_gone(device_id)

    def uplink_state(self) -> UplinkState:
        """How it stands with Odoo."""
        return UplinkState() if self.odoo is None else self.odoo.state()

    # --- running and stopping --------------------------------------------------------------------------------

    async def _watch_store(self) -> None:
        """The store's writer ends only by an error that nothing can mend: then the process must end too."""
        # shielded: whoever is cancelled here must not make the store believe that it has failed
        await asyncio.shield(self.database.failed)

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        log.info("stopping")
        # before the HTTP server goes, and like the others, once what was read is committed and acknowledged
        with suppress(StoreUnavailableError):
            await self.database.run(_nothing)
        self._mqtt_sockets.stop()
        self._web.should_exit = True

    async def _serve_web(self) -> None:
        await self._web.serve(sockets=[self._http_socket])
        if not self._stop.is_set():
            raise RuntimeError("the HTTP server ended by itself")
        raise _StopRequested

    async def _stop_broker(self) -> None:
        with suppress(StoreUnavailableError):
            # what has been read is committed, and acknowledged, before the connections close
            await self.database.run(_nothing)
        await self.broker.stop()
        # after the last publish that can be refused, and the last device that goes
        await self.refusals.write()
        await self.observers.close()


def _nothing(_: object) -> None:
    """A job that only takes its turn."""
