"""A broker with real store and services on a free port, and a client that speaks raw MQTT."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.broker import frames
from appliance.broker.attached import AttachedLimits
from appliance.broker.listener import Endpoint, Hooks, Limits
from appliance.broker.plugin import Interceptors, Rights
from appliance.broker.server import EmbeddedBroker
from appliance.contract.odoo import DeviceConfig
from appliance.contract.times import Clock
from appliance.contract.topics import TopicTemplates
from appliance.services.credentials import Credentials
from appliance.services.presence import PresenceService
from appliance.services.refusals import RefusalService
from appliance.services.telemetry import TelemetryService
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.device_rows import Claim
from appliance.store.devices import Device, DeviceRegistry
from appliance.store.packet_ids import PacketIds

WITHIN_S = 5.0


@dataclass
class Rig:
    """The parts, and what the services were told."""

    database: Database
    buffer: Buffer
    registry: DeviceRegistry
    credentials: Credentials
    presence: PresenceService
    refusals: RefusalService
    broker: EmbeddedBroker
    intercepted: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Family, device id and payload of what was intercepted, except telemetry."""
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    """Serial number and payload of unpaired requests; each is answered with the payload itself."""
    logged_in: list[tuple[str, int]] = field(default_factory=list)
    ready: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    clients: list[Client] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.broker.ports[0]

    async def client(self) -> Client:
        """A new connection, closed with the rig."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def pair(self, device_id: str, serial: str | None = None, **config: Any) -> tuple[Device, str]:
        """A paired device and its password."""
        pairing = await self.registry.pair(
            Claim(
                serial=serial or f"SN-{device_id}",
                token_digest=os.urandom(16),
                request_id="r",
                config=DeviceConfig(device_id=device_id, **config),
            )
        )
        device = self.registry.get(pairing.device_id)
        assert device is not None
        return device, self.credentials.password(device_id, device.generation)

    async def login(self, device_id: str, *, clean: bool = True, keep_alive_s: int = 60, **config: Any) -> Client:
        """A paired device's connection, logged in."""
        device = self.registry.get(device_id)
        if device is None:
            device, _ = await self.pair(device_id, **config)
        password = self.credentials.password(device_id, device.generation)
        client = await self.client()
        client.send(connect(device_id, device_id, password.encode(), clean=clean, keep_alive_s=keep_alive_s))
        assert (await client.packet())[0] == frames.CONNACK
        return client


@asynccontextmanager
async def running(
    folder: Path,
    *,
    viewers: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    attached: AttachedLimits | None = None,
    plugins: dict[str, object] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Rig]:
    """A rig that listens on a free port of the loopback interface."""
    clock = clock or Clock()
    database = await Database.open(folder, clock=clock)
    buffer = Buffer(database)
    await buffer.load()
    templates = TopicTemplates()
    registry = DeviceRegistry(database=database, templates=templates)
    await registry.load()
    credentials = Credentials(b"k" * 32)
    presence = PresenceService(clock=clock)
    refusals = RefusalService(database=database, clock=clock)
    telemetry = TelemetryService(database=database, buffer=buffer, presence=presence)
    rig: Rig

    def intercept(family: str) -> Any:
        def accept(device_id: str, payload: bytes, received_at_ms: int, receipt: object) -> None:
            rig.intercepted.append((family, device_id, payload))
            database.submit(lambda connection: None, receipt=receipt)

        return accept

    def pair(serial: str, payload: bytes, address: str, reply: Any) -> None:
        rig.asked.append((serial, payload))
        reply(payload)

    broker = EmbeddedBroker(
        rights=Rights(
            registry=registry,
            credentials=credentials,
            templates=templates,
            viewers=viewers or {},
            interceptors=Interceptors(
                telemetry.accept, intercept("command_response"), intercept("ota_status"), intercept("config_request")
            ),
        ),
        hooks=Hooks(
            in_order=lambda receipt: database.submit(lambda connection: None, receipt=receipt),
            refused=refusals.note,
            pair=pair,
            logged_in=lambda device_id, generation: rig.logged_in.append((device_id, generation)),
            ready=lambda device_id, name: rig.ready.append(device_id) if name == "command" else None,
            gone=lambda device_id: rig.gone.append(device_id),
        ),
        presence=presence,
        clock=clock,
        limits=limits or Limits(),
        packet_ids=PacketIds(database),
        endpoints=[Endpoint("127.0.0.1", 0)],
        attached=attached,
        plugins=plugins,
    )
    rig = Rig(database, buffer, registry, credentials, presence, refusals, broker)
    database.committed = broker.listener.acknowledge
    database.withheld = broker.listener.withhold
    registry.changed.append(broker.listener.device_changed)
    registry.removed.append(lambda device: broker.listener.revoke(device.device_id))
    await broker.start()
    running_task = asyncio.create_task(broker.run(), name="broker")
    try:
        yield rig
    finally:
        for client in rig.clients:
            client.close()
        for client in rig.clients:
            with suppress(OSError):
                await client.writer.wait_closed()
        running_task.cancel()
        with suppress(asyncio.CancelledError):
            await running_task  # raises what it failed with
        await broker.stop()
        await database.close()


class Client:
    """Sends bytes, reads packets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *packets: bytes) -> None:
        self.writer.write(b"".join(packets))

    async def packet(self) -> tuple[int, bytes]:
        """First byte and body of the next packet."""
        async with asyncio.timeout(WITHIN_S):
            first = (await self.reader.readexactly(1))[0]
            length, shift = 0, 0
            while True:
                digit = (await self.reader.readexactly(1))[0]
                length |= (digit & 0x7F) << shift
                shift += 7
                if not digit & 0x80:
                    break
            return first, await self.reader.readexactly(length)

    async def packets(self, count: int) -> list[tuple[int, bytes]]:
        return [await self.packet() for _ in range(count)]

    async def end(self) -> bytes:
        """What still comes until the server closes."""
        async with asyncio.timeout(WITHIN_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def silent(self) -> bool:
        """Whether nothing comes before the answer to a PINGREQ."""
        self.send(b"\xc0\x00")
        return await self.packet() == (frames.PINGRESP, b"")

    def close(self) -> None:
        self.writer.transport.abort()


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + frames.remaining_length(len(body)) + body


def connect(
    client_id: str,
    username: str | None = None,
    password: bytes | None = None,
    *,
    clean: bool = True,
    keep_alive_s: int = 60,
    name: bytes = b"MQTT",
    level: int = 4,
    will: tuple[str, bytes] | None = None,
    flags: int = 0,
) -> bytes:
    flags |= clean << 1 | (will is not None) << 2 | (username is not None) << 7 | (password is not None) << 6
    body = text(name) + bytes([level, flags]) + keep_alive_s.to_bytes(2, "big") + text(client_id)
    if will is not None:
        body += text(will[0]) + text(will[1])
    for part in (username, password):
        if part is not None:
            body += text(part)
    return packet(0x10, body)


def subscribe(packet_id: int, *filters: str, qos: int = 1) -> bytes:
    return packet(0x82, packet_id.to_bytes(2, "big") + b"".join(text(each) + bytes([qos]) for each in filters))


def puback(packet_id: int) -> bytes:
    return frames.PUBACK_HEAD + packet_id.to_bytes(2, "big")
