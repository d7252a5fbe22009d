"""What the command tests share: a clock to set, devices that do as they are told, and a look into the file."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.contract.command import SendCommand
from appliance.contract.odoo import DeviceConfig, Kind
from appliance.contract.times import Clock
from appliance.contract.topics import DeviceTopics, TopicTemplates
from appliance.services.commands import CommandService
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.outbox import Outbox


class SetClock(Clock):
    """Stands still; ``jump`` moves the wall clock alone."""

    def __init__(self, wall_ms: int = 1_795_341_600_000) -> None:
        self.wall_ms = wall_ms
        self.passed_s = 1000.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic(self) -> float:
        return self.passed_s

    def pass_time(self, seconds: float) -> None:
        self.passed_s += seconds
        self.wall_ms += int(seconds * 1000)

    def jump(self, seconds: float) -> None:
        self.wall_ms += int(seconds * 1000)


@dataclass
class FakeDevice:
    config: DeviceConfig
    topics: DeviceTopics
    enabled: bool = True
    serial: str = "SN-1"


class Registry:
    """Devices that exist because somebody named them."""

    def __init__(self) -> None:
        self.devices: dict[str, FakeDevice] = {}

    def add(self, device_id: str, **config: Any) -> FakeDevice:
        device = FakeDevice(
            config=DeviceConfig(device_id=device_id, **config), topics=TopicTemplates().expand(device_id, device_id)
        )
        self.devices[device_id] = device
        return device

    def get(self, device_id: str, /) -> FakeDevice | None:
        return self.devices.get(device_id)


@dataclass
class Delivered:
    """One PUBLISH as a device got it."""

    device: str
    topic: str
    payload: bytes
    redelivery: bool
    ack: Callable[[], None]

    @property
    def id(self) -> str:
        return str(json.loads(self.payload)["command_id"])


@dataclass
class FakeBroker:
    """Sessions of devices. ``look`` is called with every PUBLISH at the moment it is written."""

    service: CommandService
    sent: list[Delivered] = field(default_factory=list)
    connected: set[str] = field(default_factory=set)
    look: Callable[[Delivered], None] = lambda delivered: None
    writes: bool = True
    ack_at_once: bool = False
    unacked: dict[str, int] = field(default_factory=dict)
    most_unacked: int = 0

    def __post_init__(self) -> None:
        self.service.transmit = self._transmit

    def _transmit(
        self, device_id: str, topic: str, payload: bytes, /, *, redelivery: bool, on_ack: Callable[[], None]
    ) -> bool:
        if device_id not in self.connected or not self.writes:
            return False
        acked = False

        def ack() -> None:
            nonlocal acked
            if not acked:
                acked = True
                self.unacked[device_id] -= 1
            on_ack()

        delivered = Delivered(device_id, topic, payload, redelivery, ack)
        self.look(delivered)
        self.sent.append(delivered)
        self.unacked[device_id] = self.unacked.get(device_id, 0) + 1
        self.most_unacked = max(self.most_unacked, self.unacked[device_id])
        if self.ack_at_once:
            ack()
        return True

    def connect(self, *device_ids: str) -> None:
        for device_id in device_ids:
            self.connected.add(device_id)
            self.unacked[device_id] = 0
            self.service.device_ready(device_id)

    def disconnect(self, device_id: str) -> None:
        self.connected.discard(device_id)
        self.unacked[device_id] = 0
        self.service.device_gone(device_id)

    def ids(self) -> list[str]:
        return [delivered.id for delivered in self.sent]


class Bench:
    """A command service on a real file, which can be stopped and started again."""

    def __init__(self, folder: Path, clock: SetClock, **limits: Any) -> None:
        self.folder = folder
        self.clock = clock
        self.limits = limits
        self.devices = Registry()
        self.receipts: list[object] = []
        self.machine = 1
        self._order = 0

    async def start(self, *, run: bool = True) -> None:
        self.database = await Database.open(self.folder, clock=self.clock)
        self.database.committed = self.receipts.extend
        self.buffer = Buffer(self.database)
        await self.buffer.load()
        self.service = CommandService(
            outbox=Outbox(self.database),
            devices=self.devices,
            clock=self.clock,
            machine=self.machine,
            **self.limits,
        )
        self.broker = FakeBroker(self.service)
        if run:
            await self.run()

    async def run(self) -> None:
        self.running = asyncio.create_task(self.service.run(), name="commands")
        await self.settle()

    async def stop(self) -> None:
        self.running.cancel()
        with suppress(asyncio.CancelledError, ValueError):
            await self.running
        await self.database.close()

    async def restart(self, *, down_s: float = 0.0, jump_s: float = 0.0, reboot: bool = False) -> None:
        await self.stop()
        self.clock.pass_time(down_s)
        self.clock.jump(jump_s)
        if reboot:
            self.machine += 1
            self.clock.passed_s = 7.0
        await self.start()

    async def settle(self) -> None:
        """Return when everything that was handed over is committed, and so is what followed from it."""
        for _ in range(6):
            await self.database.run(lambda connection: None)
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        self.clock.pass_time(seconds)
        self.service.tick()
        await self.settle()

    async def send(self, device_id: str = "d1", command_id: str | None = None, **order: Any) -> str:
        if command_id is None:
            self._order += 1
            command_id = f"c{self._order}"
        order = {"action": "reset", **order, "device_id": device_id, "command_id": command_id}
        status = await self.service.send(SendCommand.model_validate(order))
        await self.settle()
        return status.command_id

    async def respond(self, device_id: str, body: object, receipt: object = None) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.service.accept_response(device_id, payload, self.clock.now_ms(), receipt)
        await self.settle()

    async def state(self, command_id: str) -> str:
        """State and reason, such as ``failed/no_ack``; a star says that nothing more is awaited."""
        status = await self.service.status(command_id)
        return status.state + (f"/{status.reason}" if status.reason else "") + ("*" if status.settled else "")

    async def history(self, command_id: str) -> list[str]:
        return [event.state for event in (await self.service.status(command_id)).history]

    async def messages(self, *kinds: Kind) -> list[dict[str, Any]]:
        batch = await self.buffer.take(limit=10_000)
        wanted = kinds or (Kind.COMMAND_STATE, Kind.COMMAND_RESPONSE)
        return [json.loads(message.payload) for message in batch.messages if message.kind in wanted]

    async def states_told(self, command_id: str) -> list[str]:
        messages = await self.messages(Kind.COMMAND_STATE)
        return [message["state"] for message in messages if message["command_id"] == command_id]

    def on_disk(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """What another process would read from the file: committed, or not there."""
        connection = sqlite3.connect(f"file:{self.folder / 'appliance.db'}?mode=ro", uri=True)
        try:
            return connection.execute(query, arguments).fetchall()
        finally:
            connection.close()


@asynccontextmanager
async def running_bench(folder: Path, devices: Iterable[str] = ("d1",), **limits: Any) -> AsyncIterator[Bench]:
    bench = Bench(folder, SetClock(), **limits)
    for device_id in devices:
        bench.devices.add(device_id)
    await bench.start()
    try:
        yield bench
    finally:
        await bench.stop()
