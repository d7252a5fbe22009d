"""What the tests of updates share: files that are there when a test says so, and devices that do as they are told."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from appliance.contract.odoo import Kind
from appliance.contract.ota import DownloadStatus, SendUpdate
from appliance.services.firmware import Fetched, Wish
from appliance.services.firmware_links import FirmwareLinks
from appliance.services.ota import OtaService
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.devices import DeviceNote
from appliance.store.update_rules import Deadlines
from appliance.store.updates import Updates
from tests.services.command_kit import FakeBroker, Registry, SetClock

FILE = "f" * 64
PARAMS = {"url": "http://files.factory.lan/fw.bin", "version": "2.1.0", "sha256": FILE, "size": 1000}
DEADLINES = Deadlines(fetch_ms=100_000, offer_ms=1_000_000, download_ms=200_000, install_ms=50_000)


class FakeFirmware:
    """Files that come when the test says so; ``here`` are those that are on disk."""

    most_bytes = 1 << 20

    def __init__(self) -> None:
        self.here: dict[str, int] = {}
        self.at_once = True
        self.waiting: dict[int, tuple[Wish, Callable[[Fetched | str], None]]] = {}
        self.needed: set[int] = set()
        self.wishes: list[Wish] = []

    def want(self, position: int, wish: Wish, done: Callable[[Fetched | str], None]) -> None:
        self.wishes.append(wish)
        self.needed.add(position)
        self.waiting[position] = (wish, done)
        if self.at_once:
            asyncio.get_running_loop().call_soon(self.arrive)

    def arrive(self, problem: str | None = None) -> None:
        """All files that are waited for come, or cannot be had."""
        waiting, self.waiting = self.waiting, {}
        for wish, done in waiting.values():
            sha256, size = wish.sha256 or "a" * 64, wish.size or 4711
            if problem is None:
                self.here[sha256] = size
            done(problem or Fetched(sha256, size))

    def hold(self, position: int, sha256: str, size: int | None) -> bool:
        self.needed.add(position)
        return sha256 in self.here

    def drop(self, position: int) -> None:
        self.needed.discard(position)
        self.waiting.pop(position, None)

    def resumed(self) -> None:
        pass

    def downloads(self, position: int) -> DownloadStatus | None:
        return None


class NotingRegistry(Registry):
    """Remembers which versions it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[str, str | None] = {}
        self.noting: Exception | None = None

    async def note(self, notes: Mapping[str, DeviceNote], /) -> None:
        if self.noting is not None:
            raise self.noting
        self.versions |= {device: note.firmware_version for device, note in notes.items()}


class UpdateBench:
    """An update service on a real file, which can be stopped and started again."""

    def __init__(self, folder: Path, clock: SetClock, **options: Any) -> None:
        self.folder = folder
        self.clock = clock
        self.options = {"deadlines": DEADLINES, **options}
        self.devices = NotingRegistry()
        self.firmware = FakeFirmware()
        self.receipts: list[object] = []
        self.machine = 1

    async def start(self, *, run: bool = True) -> None:
        self.database = await Database.open(self.folder, clock=self.clock)
        self.database.committed = self.receipts.extend
        self.buffer = Buffer(self.database)
        await self.buffer.load()
        self.service = OtaService(
            updates=Updates(self.database),
            devices=self.devices,
            firmware=self.firmware,
            links=FirmwareLinks(key=bytes(32), base_url="https://gw1.factory.lan:8000"),
            clock=self.clock,
            machine=self.machine,
            **self.options,
        )
        self.broker = FakeBroker(self.service)  # type: ignore[arg-type]  # it needs the three calls they share
        if run:
            await self.run()

    async def run(self) -> None:
        self.running = asyncio.create_task(self.service.run(), name="updates")
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
        self.firmware.waiting.clear()
        self.firmware.needed.clear()
        if reboot:
            self.machine += 1
            self.clock.passed_s = 7.0
        await self.start()

    async def settle(self) -> None:
        """Return when everything that was handed over is committed, and so is what followed from it."""
        for _ in range(8):
            await self.database.run(lambda connection: None)
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        self.clock.pass_time(seconds)
        self.service.tick()
        await self.settle()

    async def order(
        self, update_id: str = "u1", device_id: str = "d1", action: str = "start_update", **params: Any
    ) -> str:
        """The state that the answer tells."""
        body = {"device_id": device_id, "action": action, "update_id": update_id}
        body["params"] = {**PARAMS, **params} if action == "start_update" else params  # type: ignore[assignment]
        status = await self.service.send(SendUpdate.model_validate(body))
        await self.settle()
        return status.state

    async def report(self, state: str, update_id: str = "u1", device_id: str = "d1", **more: Any) -> None:
        payload = json.dumps({"update_id": update_id, "state": state, **more}).encode()
        self.service.accept_status(device_id, payload, self.clock.now_ms(), f"receipt of {state}")
        await self.settle()

    async def state(self, update_id: str = "u1") -> str:
        """State and reason, such as ``failed/no_ack``; a star says that nothing more is awaited."""
        status = await self.service.status(update_id)
        return status.state + (f"/{status.reason}" if status.reason else "") + ("*" if status.settled else "")

    async def history(self, update_id: str = "u1") -> list[str]:
        return [event.state for event in (await self.service.status(update_id)).history]

    async def told(self, update_id: str = "u1", *, by: str | None = "appliance") -> list[str]:
        """The states that Odoo is told of, in order; ``by`` ``None``: those that the device reported."""
        batch = await self.buffer.take(limit=10_000)
        bodies = [json.loads(message.payload) for message in batch.messages if message.kind is Kind.OTA_STATUS]
        return [body["state"] for body in bodies if body["update_id"] == update_id and body.get("source") == by]

    def on_disk(self, query: str) -> list[tuple[Any, ...]]:
        """What another process would read from the file: committed, or not there."""
        connection = sqlite3.connect(f"file:{self.folder / 'appliance.db'}?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def offers(self) -> list[dict[str, Any]]:
        """What was written to devices."""
        return [json.loads(delivered.payload) for delivered in self.broker.sent]


@asynccontextmanager
async def running_updates(folder: Path, devices: Iterable[str] = ("d1",), **options: Any) -> AsyncIterator[UpdateBench]:
    bench = UpdateBench(folder, SetClock(), **options)
    for device_id in devices:
        bench.devices.add(device_id)
    await bench.start()
    try:
        yield bench
    finally:
        await bench.stop()
