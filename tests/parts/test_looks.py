"""What health and metrics know of disk, dead letters and ledger, from a real store."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.odoo import Kind
from appliance.contract.times import Clock
from appliance.parts import looks as module
from appliance.parts.looks import Looks
from appliance.store.buffer import Buffer, Rejection
from appliance.store.database import Database
from appliance.store.ledger import check_ledger, count_readings


class SteppedClock(Clock):
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path)
    yield database
    await database.close()


@pytest.fixture
async def buffer(database: Database) -> Buffer:
    buffer = Buffer(database)
    await buffer.load()
    return buffer


def add(buffer: Buffer, count: int) -> None:
    for _ in range(count):
        buffer.append("press-07", Kind.TELEMETRY, b"{}", received_at_ms=1_700_000_000_000)


async def test_the_rate_is_that_of_the_last_minute(database: Database, buffer: Buffer) -> None:
    clock = SteppedClock()
    looks = Looks(database=database, clock=clock)
    assert looks.readings_per_s is None
    await looks.look()
    assert looks.readings_per_s is None
    for _ in range(3):
        add(buffer, 50)
        clock.now += 10
        await looks.look()
    assert looks.readings_per_s == 5.0
    for _ in range(module.RATE_LOOKS):
        clock.now += 10
        await looks.look()
    assert looks.readings_per_s == 0.0


async def test_the_disk_and_the_dead_letters_are_seen(
    database: Database, buffer: Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_PARKED", 10)
    looks = Looks(database=database, clock=SteppedClock())
    assert (looks.disk, looks.dead_letters_share) == ({}, 0.0)
    add(buffer, 9)
    await buffer.settle([], [Rejection(seq, "no_rule", "none") for seq in range(1, 10)])
    await looks.look()
    assert looks.disk["file_bytes"] > 0
    assert looks.disk["total_bytes"] > looks.disk["free_bytes"] > 0
    assert (looks.dead_letters_share, looks.adds_up) == (0.9, True)
    monkeypatch.setattr(module, "MOST_PARKED_BYTES", 18)
    assert looks.dead_letters_share == 1.0


@pytest.mark.parametrize(
    "change",
    [
        lambda connection: count_readings(connection, "press-07", stored=1),
        lambda connection: count_readings(connection, "press-07", received=1),
        lambda connection: count_readings(connection, "press-08", parked=-1, received=0, removed=1),
    ],
)
async def test_a_ledger_that_does_not_add_up_is_noticed(database: Database, buffer: Buffer, change: Any) -> None:
    add(buffer, 2)
    looks = Looks(database=database, clock=SteppedClock())
    await looks.look()
    assert looks.adds_up is True
    await database.run(change)
    assert await database.run(check_ledger) is False
    for _ in range(module.LEDGER_EVERY):
        await looks.look()
    assert looks.adds_up is False


async def test_without_a_store_nothing_is_claimed(database: Database, buffer: Buffer) -> None:
    looks = Looks(database=database, clock=SteppedClock())
    await looks.look()
    assert looks.adds_up is True
    await database.close()
    await looks.look()
    assert (looks.adds_up, looks.dead_letters, looks.readings_per_s) == (None, None, None)
    assert looks.disk["total_bytes"] > 0


async def test_each_commit_is_counted(database: Database, buffer: Buffer) -> None:
    before = database.commits

    def job(_: sqlite3.Connection) -> None:
        return None

    await database.run(job)
    await database.run(job)
    assert database.commits >= before + 2
