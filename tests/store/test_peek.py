"""A look at single rows: the right ones, in the right order, and never too many scanned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.contract.odoo import Kind
from appliance.store.buffer import Buffer, Rejection
from appliance.store.database import Database
from appliance.store.peek import MOST_SCANS, SCANNED_ROWS, SHOWN_BYTES, Peek


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


async def fill(buffer: Buffer, count: int, *, device: str = "press-01", kind: Kind = Kind.TELEMETRY) -> None:
    last = buffer.backlog().last_seq
    for number in range(count):
        buffer.append(device, kind, b'{"n":%d}' % number, received_at_ms=1_795_341_600_000 + number)
    while buffer.backlog().last_seq < last + count:
        await buffer.wait_for_messages(buffer.backlog().last_seq)


async def test_readings_of_a_device_come_newest_first_with_where_they_are(database: Database, buffer: Buffer) -> None:
    await fill(buffer, 3)
    await fill(buffer, 5, device="lathe-1")
    await fill(buffer, 2, kind=Kind.COMMAND_RESPONSE)
    await buffer.settle([1], [Rejection(2, "no_rule", "none")])
    found = await Peek(database).readings("press-01", limit=10)
    assert [(each.seq, each.place) for each in found] == [(3, "waiting"), (2, "parked"), (1, "stored")]
    assert [each.seq for each in await Peek(database).readings("press-01", limit=2)] == [3, 2]
    assert await Peek(database).readings("nobody", limit=2) == []


async def test_it_looks_back_over_several_jobs_and_not_for_ever(database: Database, buffer: Buffer) -> None:
    await fill(buffer, 1)
    await fill(buffer, SCANNED_ROWS + 10, device="lathe-1")
    commits = database.commits
    assert [each.seq for each in await Peek(database).readings("press-01", limit=5)] == [1]
    assert database.commits - commits == 2
    await fill(buffer, SCANNED_ROWS * MOST_SCANS, device="lathe-1")
    commits = database.commits
    assert await Peek(database).readings("press-01", limit=5) == []
    assert database.commits - commits == MOST_SCANS


async def test_the_oldest_that_wait_are_shown_past_what_is_settled(database: Database, buffer: Buffer) -> None:
    await fill(buffer, 10)
    await buffer.settle([1, 2, 5])
    assert [each.seq for each in await Peek(database).waiting(limit=4)] == [3, 4, 6, 7]
    assert len(await Peek(database).waiting(limit=100)) == 7


async def test_of_a_long_payload_the_beginning_is_read(database: Database, buffer: Buffer) -> None:
    payload = b'{"x":"' + b"y" * 50_000 + b'"}'
    buffer.append("press-01", Kind.TELEMETRY, payload, received_at_ms=1)
    await buffer.wait_for_messages(0)
    (found,) = await Peek(database).waiting(limit=1)
    assert (found.payload, found.payload_bytes) == (payload[:SHOWN_BYTES], len(payload))


async def test_an_empty_box_has_nothing_to_show(database: Database, buffer: Buffer) -> None:
    peek = Peek(database)
    assert await peek.readings("press-01", limit=5) == []
    assert await peek.waiting(limit=5) == []
    assert await peek.commands("press-01", limit=5) == []
    assert await peek.updates("press-01", limit=5) == []
    assert await peek.received(["press-01"]) == {}


async def test_received_is_counted_by_device(database: Database, buffer: Buffer) -> None:
    await fill(buffer, 3)
    await fill(buffer, 1, device="lathe-1")
    await buffer.settle([], [Rejection(1, "no_rule", "none")])
    assert await Peek(database).received(["press-01", "lathe-1", "nobody"]) == {
        "press-01": (3, 0, 1),
        "lathe-1": (1, 0, 0),
    }
