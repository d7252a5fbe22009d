"""Paired devices and what they are told, on a real store and registry; the broker is a stand-in that is looked into."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.contract.device import ConfigOk, ConfigRequest
from appliance.contract.odoo import DeviceConfig
from appliance.contract.sync import DeviceChange
from appliance.contract.topics import TopicTemplates
from appliance.services.config_push import ConfigPush, PushLimits
from appliance.services.configuration import BrokerAddress
from appliance.services.credentials import Credentials
from appliance.services.device_changes import DeviceService
from appliance.services.pairing import PairingService
from appliance.store.database import Database
from appliance.store.device_rows import Claim
from appliance.store.devices import Device, DeviceRegistry
from tests.services.odoo_source import OdooSource
from tests.store.support import ManualClock

KEY = bytes(range(32))
CREDENTIALS = Credentials(KEY)
WITHIN_S = 10.0


@dataclass
class Delivery:
    """What was written to a connection."""

    device_id: str
    topic: str
    answer: dict[str, Any]
    ack: Callable[[], None]

    @property
    def version(self) -> int:
        return int(self.answer["config_version"])

    @property
    def password(self) -> str | None:
        found = self.answer["mqtt"].get("password")
        return None if found is None else str(found)


@dataclass
class FakeBroker:
    """Connections by device id, each with the generation of its secret; ``deaf`` ones do not read."""

    registry: DeviceRegistry
    push: ConfigPush
    connections: dict[str, int] = field(default_factory=dict)
    subscribed: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    acknowledges: bool = False
    sent: list[Delivery] = field(default_factory=list)
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def transmit(
        self, device_id: str, topic: str, payload: bytes, /, *, redelivery: bool, on_ack: Callable[[], None]
    ) -> bool:
        if device_id not in self.subscribed or device_id in self.deaf:
            return False
        self.sent.append(Delivery(device_id, topic, json.loads(payload), on_ack))
        self.grown.set()
        if self.acknowledges:
            asyncio.get_running_loop().call_soon(on_ack)
        return True

    def login(self, device_id: str, generation: int | None = None, *, subscribe: bool = True) -> None:
        """With the newest secret, or an older one; refused as the real one refuses it."""
        device = self.registry.get(device_id)
        assert device is not None
        generation = generation or device.generation
        assert device.enabled
        assert device.accepts(generation), "the door is closed"
        self.logout(device_id)
        self.connections[device_id] = generation
        self.push.logged_in(device_id, generation)
        if subscribe:
            self.subscribe(device_id)

    def subscribe(self, device_id: str) -> None:
        self.subscribed.add(device_id)
        self.push.device_ready(device_id)

    def logout(self, device_id: str) -> None:
        if self.connections.pop(device_id, None) is not None:
            self.subscribed.discard(device_id)
            self.push.device_gone(device_id)

    def device_changed(self, device: Device) -> None:
        generation = self.connections.get(device.device_id)
        if generation is not None and not (device.enabled and device.accepts(generation)):
            self.logout(device.device_id)


@dataclass
class Box:
    """An appliance, as far as it minds what devices know."""

    clock: ManualClock
    database: Database
    registry: DeviceRegistry
    pairing: PairingService
    push: ConfigPush
    changes: DeviceService
    broker: FakeBroker
    odoo: OdooSource

    async def pair(self, device_id: str = "press-07", serial: str = "SN-1", **config: Any) -> Device:
        """As if Odoo had granted it; the device has not been told anything yet."""
        made = DeviceConfig.model_validate({"device_id": device_id, **config})
        await self.registry.pair(Claim(serial=serial, token_digest=serial.encode(), request_id="r", config=made))
        return self.device(device_id)

    async def pair_fully(self, device_id: str = "press-07", serial: str = "SN-1", **config: Any) -> Device:
        """With a token, and its answer; it has logged in with it, and all that is on disk."""
        token = f"T-{serial}"
        self.odoo.issue(token, serial, device_id, **config)
        asked = ConfigRequest(serial=serial, token=token, request_id="r1")
        assert isinstance(await self.pairing.answer(asked, source_address="10.0.0.1"), ConfigOk)
        self.broker.login(device_id)
        await self.settled()
        assert self.push.is_current(self.device(device_id))
        return self.device(device_id)

    def device(self, device_id: str = "press-07") -> Device:
        device = self.registry.get(device_id)
        assert device is not None
        return device

    async def change(self, device_id: str = "press-07", **values: Any) -> None:
        """One change from Odoo."""
        await self.changes.apply([change(device_id, **values)], [])

    async def delivery(self, number: int) -> Delivery:
        """What was written as the ``number``-th, from 1."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.broker.sent) < number:
                self.broker.grown.clear()
                await self.broker.grown.wait()
        return self.broker.sent[number - 1]

    async def settled(self) -> None:
        """All that was to be sent has been sent, and all that was to be written is on disk."""
        async with asyncio.timeout(WITHIN_S):
            while self.push._due or self.pairing.notes._waiting or self.pairing.notes._writing:
                await self.database.run(lambda connection: None)
            # a turn of the loop for what looks at the last of it
            await self.database.run(lambda connection: None)

    async def said(self, event: str) -> list[dict[str, Any]]:
        """What Odoo is told of this kind of event."""
        rows = await self.database.run(
            lambda connection: connection.execute("SELECT payload FROM messages WHERE kind = 6 ORDER BY seq").fetchall()
        )
        found = [json.loads(payload) for (payload,) in rows]
        return [each for each in found if each["event"] == event]


def change(device_id: str = "press-07", **values: Any) -> DeviceChange:
    config = values.pop("config", None)
    if config is not None:
        values["config"] = {"device_id": device_id, **config}
    return DeviceChange.model_validate({"device_id": device_id, **values})


@asynccontextmanager
async def opened(
    folder: Path,
    *,
    clock: ManualClock | None = None,
    odoo: OdooSource | None = None,
    templates: TopicTemplates | None = None,
    limits: PushLimits | None = None,
    host: str = "gw1.factory.lan",
) -> AsyncIterator[Box]:
    """A box on a data folder; again after its end is a restart."""
    clock = clock or ManualClock()
    odoo = odoo or OdooSource()
    database = await Database.open(folder, clock=clock, ballast_bytes=1 << 20)
    registry = DeviceRegistry(database=database, templates=templates or TopicTemplates())
    await registry.load()
    pairing = PairingService(
        registry=registry,
        credentials=CREDENTIALS,
        source=odoo,
        address=BrokerAddress(host, 8883, tls=True),
        ca_pem="-----BEGIN CERTIFICATE-----\n",
        clock=clock,
    )
    push = ConfigPush(registry=registry, pairing=pairing, clock=clock, limits=limits or PushLimits(pause_s=0.0))
    changes = DeviceService(registry=registry, database=database)
    broker = FakeBroker(registry, push)
    push.transmit = broker.transmit
    registry.changed.insert(0, broker.device_changed)
    registry.removed.insert(0, lambda device: broker.logout(device.device_id))
    running = [
        asyncio.create_task(work, name=name)
        for name, work in (("pairing", pairing.run()), ("push", push.run()), ("changes", changes.run()))
    ]
    await asyncio.sleep(0)
    try:
        yield Box(clock, database, registry, pairing, push, changes, broker, odoo)
    finally:
        for task in running:
            task.cancel()
        for task in running:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await database.close()
