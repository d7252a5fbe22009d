"""What the tests of the store share: a store with its receipts, a manual clock, and the independent recount."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.contract.odoo import Kind
from appliance.contract.times import Clock
from appliance.store.buffer import Buffer
from appliance.store.database import Database

NOW_MS = 1_790_000_000_000
LONGEST_S = 20.0


class ManualClock(Clock):
    """Both clocks stand still until a test turns them, each on its own."""

    def __init__(self) -> None:
        self.wall_ms = NOW_MS
        self.steady_s = 1000.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic(self) -> float:
        return self.steady_s

    def forward(self, seconds: float) -> None:
        self.wall_ms += int(seconds * 1000)
        self.steady_s += seconds


class Receipts:
    """What the database has acknowledged, in order; can be awaited."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self.withheld: list[Any] = []
        self._grown = asyncio.Event()

    def take(self, receipts: list[Any]) -> None:
        self.all += receipts
        self._grown.set()

    async def wait_for(self, count: int, timeout_s: float = LONGEST_S) -> list[Any]:
        """The receipts, as soon as there are ``count``."""
        async with asyncio.timeout(timeout_s):
            while len(self.all) < count:
                self._grown.clear()
                await self._grown.wait()
        return self.all


@dataclass
class Store:
    """An opened data folder."""

    database: Database
    buffer: Buffer
    receipts: Receipts = field(default_factory=Receipts)

    def append(self, number: int, *, device: str = "press-07", **options: Any) -> None:
        """A reading whose payload is its number; the receipt is the number."""
        options.setdefault("receipt", number)
        options.setdefault("received_at_ms", NOW_MS)
        self.buffer.append(device, Kind.TELEMETRY, b'{"n":%d}' % number, **options)

    async def add(self, *numbers: int, **options: Any) -> None:
        """Append readings and wait until they are committed."""
        for number in numbers:
            self.append(number, **options)
        await self.settled_down()

    async def settled_down(self) -> None:
        """Everything handed over before is committed."""
        await self.query("SELECT 1")

    async def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        async with asyncio.timeout(LONGEST_S):
            return await self.database.run(lambda connection: connection.execute(sql, arguments).fetchall())

    async def numbers(self) -> list[int]:
        """The readings that wait, as :meth:`append` numbered them."""
        batch = await self.buffer.take(limit=1_000_000, max_bytes=1 << 40)
        return [number_of(message.payload) for message in batch.messages]

    async def close(self) -> None:
        await self.database.close()


def number_of(payload: bytes) -> int:
    return int(payload[5:-1])


async def open_store(
    folder: Path, *, keep_settled_s: float = 86_400, keep_settled_bytes: int = 256 << 20, **options: Any
) -> Store:
    options.setdefault("ballast_bytes", 1 << 20)
    database = await Database.open(folder, **options)
    buffer = Buffer(database, keep_settled_s=keep_settled_s, keep_settled_bytes=keep_settled_bytes)
    store = Store(database, buffer)
    database.committed = store.receipts.take
    database.withheld = store.receipts.withheld.extend
    await buffer.load()
    return store


def waiting_rows(connection: sqlite3.Connection) -> Counter[str]:
    """Unsettled readings per device, counted from the rows themselves."""
    rows = connection.execute(
        "SELECT device, count(*) FROM messages WHERE kind = 1"
        " AND NOT EXISTS (SELECT 1 FROM settled WHERE seq BETWEEN first AND last) GROUP BY device"
    )
    return Counter(dict(rows.fetchall()))


async def assert_adds_up(store: Store) -> None:
    """Received = stored + waiting + parked + removed for every device, where what waits, what is parked and what was
    removed is counted from the rows themselves."""
    lines = await store.buffer.ledger()
    counted = await store.database.run(waiting_rows)
    assert {line.device: line.waiting for line in lines if line.waiting} == dict(counted)
    parked = dict(await store.query("SELECT device, count(*) FROM parked WHERE kind = 1 GROUP BY device"))
    assert {line.device: line.parked for line in lines if line.parked} == parked
    removed = dict(await store.query("SELECT device, sum(count) FROM removals WHERE kind = 1 GROUP BY device"))
    assert {line.device: line.removed for line in lines if line.removed} == removed
    unsettled = await store.query(
        "SELECT count(*) FROM messages WHERE NOT EXISTS (SELECT 1 FROM settled WHERE seq BETWEEN first AND last)"
    )
    assert store.buffer.backlog().waiting == unsettled[0][0]
    assert store.buffer.backlog().parked == (await store.query("SELECT count(*) FROM parked"))[0][0]
