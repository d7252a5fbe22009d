"""Settled messages are kept for a while, by age and by size, and then their room is given back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

import pytest

from appliance.store import history
from tests.store.conftest import OpenStore
from tests.store.support import ManualClock, Store, assert_adds_up

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


async def oldest(store: Store) -> int | None:
    return (await store.query("SELECT min(seq) FROM messages"))[0][0]


async def count(store: Store) -> int:
    return (await store.query("SELECT count(*) FROM messages"))[0][0]


async def tick(store: Store, clock: ManualClock, seconds: float = 2.0) -> None:
    """Time passes, and a group is committed."""
    clock.forward(seconds)
    await store.settled_down()


async def fill_and_settle(store: Store, rows: int, *, size: int = 300, keep_waiting: int = 0) -> None:
    last = store.buffer.backlog().last_seq
    for _ in range(rows):
        store.buffer.append("press-07", 1, b'"' + b"x" * size + b'"', received_at_ms=1)
    await store.settled_down()
    await store.buffer.settle(range(last + 1, last + rows + 1 - keep_waiting))


def idle_chores(store: Store) -> Callable[[], bool]:
    return lambda: not store.buffer.busy


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_is_settled_stays_for_a_day_and_then_goes(store: Store, clock: ManualClock) -> None:
    await store.add(*range(10))
    await store.buffer.settle([1, 2, 3])
    await tick(store, clock)
    await tick(store, clock, DAY_S - HOUR_S)
    assert await oldest(store) == 1
    await tick(store, clock, HOUR_S)
    assert await oldest(store) == 4
    await assert_adds_up(store)


async def test_the_day_begins_when_a_message_is_settled_not_when_it_came(store: Store, clock: ManualClock) -> None:
    """An outage of three days must not leave Odoo's readings unprotected as soon as they have drained."""
    await store.add(1)
    await tick(store, clock, 3 * DAY_S)
    await store.buffer.settle([1])
    await tick(store, clock)
    await tick(store, clock, DAY_S / 2)
    assert await oldest(store) == 1
    await tick(store, clock, DAY_S)
    assert await oldest(store) is None


async def test_a_jump_of_the_wall_clock_makes_nothing_old(store: Store, clock: ManualClock) -> None:
    await store.add(1)
    await store.buffer.settle([1])
    await tick(store, clock)
    clock.wall_ms += int(365 * DAY_S * 1000)
    await tick(store, clock)
    assert await oldest(store) == 1
    clock.wall_ms -= int(3650 * DAY_S * 1000)
    await tick(store, clock, DAY_S)
    assert await oldest(store) is None


async def test_age_is_counted_on_after_a_restart(open_again: OpenStore, clock: ManualClock) -> None:
    store = await open_again()
    await store.add(1)
    await store.buffer.settle([1])
    await tick(store, clock)
    await tick(store, clock, DAY_S / 2)
    await store.add(2)
    await store.buffer.settle([2])
    await tick(store, clock)
    await store.close()
    clock.steady_s = 5.0  # a reboot
    store = await open_again()
    await tick(store, clock, DAY_S / 2)
    await tick(store, clock)
    assert await oldest(store) == 2
    await tick(store, clock, DAY_S / 2)
    assert await oldest(store) is None


async def test_the_marks_of_age_stay_few(store: Store, clock: ManualClock) -> None:
    for number in range(300):
        await store.add(number)
        await store.buffer.settle([number + 1])
        await tick(store, clock, DAY_S / 200)
    marks = (await store.query("SELECT count(*) FROM settled_marks"))[0][0]
    assert 30 < marks <= history.MARKS + 1
    # kept for a day, and not much longer
    assert 200 - 1 <= await count(store) <= 200 + 2 * 200 // history.MARKS


async def test_no_more_than_the_given_bytes_are_kept(open_again: OpenStore, clock: ManualClock) -> None:
    store = await open_again(keep_settled_bytes=400_000)
    for _ in range(10):
        await fill_and_settle(store, 1000)
        await tick(store, clock)
        await tick(store, clock)
    await until(idle_chores(store))
    kept = await count(store)
    assert 800 < kept < 1600  # of some 330 bytes
    assert await oldest(store) == 10_000 - kept + 1
    await assert_adds_up(store)


async def test_what_waits_is_never_removed_whatever_the_limits(open_again: OpenStore, clock: ManualClock) -> None:
    store = await open_again(keep_settled_bytes=0, keep_settled_s=0)
    await fill_and_settle(store, 3000, keep_waiting=10)
    await store.buffer.settle([2995])
    for _ in range(3):
        await tick(store, clock, DAY_S)
    await until(idle_chores(store))
    assert await oldest(store) == 2991
    assert len((await store.buffer.take()).messages) == 9
    await assert_adds_up(store)


async def test_the_file_shrinks_after_draining(
    open_again: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def counted(self: history.History, connection: sqlite3.Connection) -> None:
        nonlocal steps
        steps += 1
        remove_chunk(self, connection)

    remove_chunk = history.History.remove_chunk
    monkeypatch.setattr(history.History, "remove_chunk", counted)
    store = await open_again(keep_settled_bytes=100_000)
    await fill_and_settle(store, 30_000, keep_waiting=100)
    full = (await store.query("PRAGMA page_count"))[0][0]
    clock.forward(2)
    await store.settled_down()
    # no other message comes: the writer goes on by itself
    await until(idle_chores(store))
    pages = (await store.query("PRAGMA page_count"))[0][0]
    free = (await store.query("PRAGMA freelist_count"))[0][0]
    assert pages < full / 4
    assert steps <= 30_000 / history.CHUNK_ROWS + full / history.VACUUM_PAGES
    assert pages <= 1.2 * (pages - free) + history.FREE_PAGES
    await store.close()
    assert store.database.path.stat().st_size == pages * 4096


async def test_large_messages_are_removed_in_small_steps(
    open_again: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    remove_chunk = history.History.remove_chunk

    def watched(self: history.History, connection: sqlite3.Connection) -> None:
        before = connection.total_changes
        remove_chunk(self, connection)
        steps.append(connection.total_changes - before)

    monkeypatch.setattr(history.History, "remove_chunk", watched)
    store = await open_again(keep_settled_s=0)
    await fill_and_settle(store, 200, size=100_000)
    await tick(store, clock)
    await until(idle_chores(store))
    assert await count(store) == 0
    assert sum(steps) == 200
    assert max(steps) * 100_000 < 2 * history.CHUNK_BYTES


async def test_ids_that_stand_in_removable_rows_only_do_not_hold_up_much(
    open_again: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.store.buffer.IDS_HOLD_UP_BYTES", 500_000)
    store = await open_again(keep_settled_s=0)
    await store.add(1, msg_id="a")
    await store.buffer.settle([1])
    for _ in range(4):
        await fill_and_settle(store, 2000)
        await tick(store, clock)
        await tick(store, clock)
    await until(idle_chores(store))
    assert await count(store) < 2000
    await store.add(2, msg_id="a")
    assert store.buffer.backlog().waiting == 0
