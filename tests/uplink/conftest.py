"""A buffer on disk, an Odoo on the loopback interface, and time that passes when the pump sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from pydantic import SecretStr

from appliance.contract.odoo import Kind
from appliance.contract.times import Clock
from appliance.store.buffer import Buffer, Rejection
from appliance.store.database import Database
from appliance.uplink.client import OdooClient, Timeouts
from appliance.uplink.pump import Pump, PumpLimits
from appliance.uplink.retry import Backoff, Breaker
from tests.uplink.chaos import ChaosOdoo

API_KEY = "geheim-0123456789"
GATEWAY = "6a1de5ae-4d22-4f09-8d43-6c8f2b1d5f10"


class Time(Clock):
    """Both clocks and ``sleep``. While ``frozen`` a sleeper waits for :meth:`pass_by`, otherwise time jumps to it."""

    def __init__(self) -> None:
        self.elapsed_s = 1000.0
        self.frozen = False
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._somebody_sleeps = asyncio.Event()

    def monotonic(self) -> float:
        return self.elapsed_s

    def now_ms(self) -> int:
        return 1_795_000_000_000 + int(self.elapsed_s * 1000)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self.frozen or seconds < 1e-6:
            self.elapsed_s += seconds
            await asyncio.sleep(0)
            return
        waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.elapsed_s + seconds, waker))
        self._somebody_sleeps.set()
        await waker

    async def next_sleep(self) -> float:
        """Wait until somebody sleeps; for how long."""
        async with asyncio.timeout(20):
            while not any(not waker.done() for _, waker in self._sleepers):
                self._somebody_sleeps.clear()
                await self._somebody_sleeps.wait()
        return min(until for until, waker in self._sleepers if not waker.done()) - self.elapsed_s

    def pass_by(self, seconds: float) -> None:
        self.elapsed_s += seconds
        due = [waker for until, waker in self._sleepers if until <= self.elapsed_s + 1e-9]
        self._sleepers = [(until, waker) for until, waker in self._sleepers if waker not in due and not waker.done()]
        for waker in due:
            if not waker.done():
                waker.set_result(None)


class WatchedBuffer(Buffer):
    """Tells when something was settled."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.changed = asyncio.Event()
        self.settled_seqs: list[int] = []
        self.rejections: list[Rejection] = []

    async def settle(self, done: Sequence[int], parked: Sequence[Rejection] = ()) -> None:
        await super().settle(done, parked)
        self.settled_seqs += done
        self.rejections += parked
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def drained(self) -> None:
        await self.until(lambda: self.backlog().waiting == 0)

    async def add(
        self, count: int = 1, *, device: str = "press-07", kind: Kind = Kind.TELEMETRY, size: int = 0
    ) -> None:
        """Commit some messages, received now."""
        await self.add_all([(device, kind)] * count, size=size)

    async def add_all(self, messages: Sequence[tuple[str, Kind]], *, size: int = 0) -> None:
        """Commit a message for each device and kind, received now."""
        first = self.backlog().last_seq + 1
        for number, (device, kind) in enumerate(messages, first):
            payload = b'{"n":%d,"pad":"%s"}' % (number, b"x" * size)
            self.append(device, kind, payload, received_at_ms=self._database.clock.now_ms())
        await self.wait_for_messages(first + len(messages) - 2)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def odoo() -> AsyncIterator[ChaosOdoo]:
    odoo = ChaosOdoo()
    await odoo.start()
    yield odoo
    await odoo.stop()


@pytest.fixture
async def database(tmp_path: Path, time: Time) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path, clock=time)
    yield database
    await database.close()


@pytest.fixture
async def buffer(database: Database) -> WatchedBuffer:
    buffer = WatchedBuffer(database)
    await buffer.load()
    return buffer


@pytest.fixture
async def client(odoo: ChaosOdoo, time: Time) -> AsyncIterator[OdooClient]:
    breaker = Breaker(clock=time, backoff=Backoff(random=Random(1)))
    async with OdooClient(
        base_url=odoo.url,
        api_key=SecretStr(API_KEY),
        timeouts=Timeouts(connect_s=2, read_s=2, write_s=2, pool_s=2),
        breaker=breaker,
        clock=time,
    ) as client:
        yield client


@pytest.fixture
def pump(buffer: WatchedBuffer, client: OdooClient, time: Time) -> Pump:
    return make_pump(buffer, client, time)


def make_pump(buffer: Buffer, client: OdooClient, time: Time, limits: PumpLimits | None = None) -> Pump:
    return Pump(
        buffer=buffer,
        client=client,
        gateway_uid=GATEWAY,
        clock=time,
        random=Random(2),
        limits=limits,
        sleep=time.sleep,
    )


@asynccontextmanager
async def running(pump: Pump) -> AsyncIterator[Pump]:
    """The pump at work; an error in it is an error of the test."""
    task = asyncio.create_task(pump.run(), name="pump")
    try:
        yield pump
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
