"""Who goes first: other kinds before telemetry, new readings beside the backlog, and nobody held up by anybody."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.contract.odoo import Kind
from appliance.store.database import Database
from appliance.uplink import schedule
from appliance.uplink.client import OdooClient
from appliance.uplink.drain import DrainEstimate
from appliance.uplink.pump import Pump, PumpLimits
from tests.uplink import chaos
from tests.uplink.chaos import ChaosOdoo, Fault
from tests.uplink.conftest import Time, WatchedBuffer, make_pump, running

SMALL = PumpLimits(batch_messages=20)


def meanwhile(time: Time, *actions: Callable[[], None], seconds: float = 0.1) -> list[Fault]:
    """Answers as it should, and lets something happen, and time pass, before each answer."""

    def fault(action: Callable[[], None]) -> Fault:
        async def answer(odoo: ChaosOdoo, post: chaos.Post, writer: asyncio.StreamWriter) -> None:
            action()
            await asyncio.sleep(0.01)  # so that the writer commits it
            time.pass_by(seconds)
            await chaos.well(odoo, post, writer)

        return answer

    return [fault(action) for action in actions]


def add(buffer: WatchedBuffer, time: Time, *, kind: Kind = Kind.TELEMETRY, count: int = 1) -> Callable[[], None]:
    def action() -> None:
        for _ in range(count):
            buffer.append("press-07", kind, b'{"t":1}', received_at_ms=time.now_ms())

    return action


def posts_with(odoo: ChaosOdoo, kind: str) -> list[int]:
    return [number for number, post in enumerate(odoo.posts) if post.data["messages"][0]["kind"] == kind]


# --- other kinds first ----------------------------------------------------------------------------------------


async def test_other_kinds_overtake_all_telemetry_and_keep_their_order(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    await buffer.add(200)
    for kind in (Kind.COMMAND_STATE, Kind.COMMAND_RESPONSE, Kind.OTA_STATUS):
        await buffer.add(kind=kind)
        await buffer.add(50)
    async with running(make_pump(buffer, client, time, SMALL)):
        await buffer.drained()
    assert odoo.posts[0].seqs == [201, 252, 303]
    assert Counter(odoo.stored_seqs) == Counter(range(1, 354))
    assert buffer.backlog().last_ordered_seq == 0


async def test_other_kinds_that_come_while_a_backlog_drains_are_in_the_next_batch(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    odoo.faults.extend(meanwhile(time, lambda: None, lambda: None, add(buffer, time, kind=Kind.COMMAND_STATE)))
    await buffer.add(200)
    async with running(make_pump(buffer, client, time, SMALL)):
        await buffer.drained()
    assert posts_with(odoo, "command_state") == [3]


async def test_other_kinds_that_never_stop_coming_do_not_keep_telemetry_out(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    odoo.faults.extend(meanwhile(time, *[add(buffer, time, kind=Kind.PRESENCE)] * 40))
    await buffer.add(200)
    async with running(make_pump(buffer, client, time, SMALL)):
        await odoo.until(lambda: len(odoo.posts) >= 22)
        assert len(posts_with(odoo, "telemetry")[:10]) == 10
        assert len(posts_with(odoo, "presence")) >= 8
        await buffer.drained()


async def test_a_flood_of_other_kinds_goes_in_full_batches_before_any_telemetry(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    await buffer.add(50)
    await buffer.add(100, kind=Kind.PRESENCE)
    async with running(make_pump(buffer, client, time, SMALL)):
        await buffer.drained()
    assert posts_with(odoo, "presence") == [0, 1, 2, 3, 4]
    assert time.slept == []


async def test_finding_other_kinds_costs_the_same_however_many_readings_wait(tmp_path: Path, time: Time) -> None:
    async def steps(readings: int) -> int:
        database = await Database.open(tmp_path / str(readings), clock=time)
        buffer = WatchedBuffer(database)
        await buffer.load()
        await buffer.add(readings)
        await buffer.add(kind=Kind.COMMAND_STATE)
        await buffer.add(readings)
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        def watch(connection: sqlite3.Connection, handler: Callable[[], int] | None) -> None:
            connection.set_progress_handler(handler, 1)

        await database.run(lambda connection: watch(connection, count))
        assert [message.seq for message in (await buffer.take_ordered()).messages] == [readings + 1]
        await database.run(lambda connection: watch(connection, None))
        await database.close()
        return counted

    assert await steps(20_000) < 2 * await steps(20)


async def test_a_device_that_is_stuck_holds_up_its_other_kinds_and_nothing_else(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    odoo.put_off[1] = 10**9
    for device in ("a", "b"):
        await buffer.add(2, device=device, kind=Kind.COMMAND_STATE)  # 1 2, 3 4
        await buffer.add(100, device=device)
    async with running(make_pump(buffer, client, time, SMALL)):
        await buffer.until(lambda: buffer.backlog().waiting == 2)
        assert [message.seq for message in (await buffer.take()).messages] == [1, 2]
        # what stays pins nothing but itself: two intervals, whatever comes and goes
        await buffer.add(500, device="a")
        await buffer.until(lambda: buffer.backlog().waiting == 2)
        assert buffer.backlog().settled_ranges == 1
        odoo.put_off.clear()
        await buffer.drained()
    order = [message["seq"] for message in odoo.stored if message["kind"] != "telemetry" and message["device"] == "a"]
    assert order == [1, 2]


async def test_what_waits_behind_a_stuck_device_waits_though_its_batch_had_fallen_into_pieces(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    odoo.faults.extend([chaos.html_500, chaos.html_500])  # eight messages become two, two and four
    odoo.put_off[1] = 1
    await buffer.add_all([(device, Kind.COMMAND_STATE) for device in "abaaaaaa"])
    async with running(make_pump(buffer, client, time, SMALL)):
        await buffer.drained()
    assert odoo.stored_seqs == [2, 1, 3, 4, 5, 6, 7, 8]


# --- live beside backlog --------------------------------------------------------------------------------------


async def test_what_comes_while_a_backlog_drains_is_in_one_of_the_next_two_batches(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    odoo.faults.extend(meanwhile(time, *[add(buffer, time, count=3)] * 30))
    await buffer.add(1000)
    async with running(make_pump(buffer, client, time, SMALL)):
        await odoo.until(lambda: len(odoo.posts) >= 40)
        for number in range(30):
            soon = {seq for post in odoo.posts[number + 1 : number + 4] for seq in post.seqs}
            assert 1001 + 3 * number in soon
        await buffer.drained()
    assert Counter(odoo.stored_seqs) == Counter(range(1, 1091))
    assert odoo.most_in_flight == 1


async def test_the_lane_is_told(odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time) -> None:
    odoo.faults.extend(meanwhile(time, add(buffer, time, count=5)))
    await buffer.add(100)
    async with running(make_pump(buffer, client, time, SMALL)):
        await buffer.drained()
    lanes = {message["seq"]: message["lane"] for message in odoo.stored}
    assert {seq for seq, lane in lanes.items() if lane == "live"} == set(range(101, 106))


async def test_small_live_batches_do_not_make_the_backlog_wait(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    odoo.faults.extend(meanwhile(time, *[add(buffer, time)] * 49, seconds=0.01))
    time.frozen = True
    await buffer.add(1000)
    async with running(make_pump(buffer, client, time, SMALL)):
        await odoo.until(lambda: len(odoo.posts) >= 50)
        assert time.slept == []
        live = [len(post.seqs) for post in odoo.posts[:50] if post.seqs[0] > 1000]
        assert 3 <= len(live) <= 6
        assert min(live[1:]) >= 8
        time.frozen = False
        time.pass_by(1)
        await buffer.drained()


async def test_a_backlog_in_batches_that_are_full_of_bytes_does_not_wait(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    time.frozen = True
    await buffer.add(40, size=1000)
    async with running(make_pump(buffer, client, time, PumpLimits(batch_bytes=5_000))):
        await buffer.drained()
    assert time.slept == []


async def test_where_more_comes_than_half_of_what_odoo_takes_live_gets_more_turns(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    odoo.faults.extend(meanwhile(time, add(buffer, time, count=200)))
    await buffer.add(400)
    async with running(make_pump(buffer, client, time, SMALL)):
        await buffer.drained()
    turns = ["live" if post.seqs[0] > 400 else "backlog" for post in odoo.posts]
    assert turns[1:13] == ["live", "live", "live", "backlog"] * 3


async def test_what_piled_up_while_odoo_was_away_makes_way_for_what_comes_now(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    pump = make_pump(buffer, client, time, SMALL)
    async with running(pump):
        await buffer.add(10)
        await buffer.drained()
        odoo.faults.extend([chaos.html_500] * 6)
        await buffer.add(200)
        odoo.faults.extend(meanwhile(time, lambda: None, add(buffer, time, count=5), *[lambda: None] * 9))
        await buffer.drained()
    order = odoo.stored_seqs
    assert order.index(215) < 100
    assert {message["seq"] for message in odoo.stored if message["lane"] == "live"} >= set(range(211, 216))
    assert Counter(order) == Counter(range(1, 216))


async def test_what_is_settled_stays_in_few_intervals(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "MOST_RANGES", 6)
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, buffer.backlog().settled_ranges)

    async with running(make_pump(buffer, client, time, SMALL)):
        for _ in range(20):
            # an outage that ends before what piled up has drained, again and again
            odoo.faults.extend([*[chaos.html_500] * 6, *meanwhile(time, *[add(buffer, time, count=4)] * 4)])
            await buffer.add(200)
            await odoo.until(lambda: not odoo.faults)
            look()
        await buffer.drained()
    assert 5 < most <= 8
    assert buffer.backlog().settled_ranges == 1
    assert len(odoo.stored) == len(set(odoo.stored_seqs))


async def test_a_poisonous_message_is_not_taken_for_an_odoo_that_went_away(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    odoo.poison = lambda message: message["seq"] == 1
    await buffer.add(2000)
    async with running(make_pump(buffer, client, time, SMALL)):
        await buffer.until(lambda: buffer.backlog().waiting == 1)
        tries = sum(1 in post.seqs for post in odoo.posts)
    assert tries < 30
    assert len(odoo.posts) < 180


# --- how long it takes ----------------------------------------------------------------------------------------


def test_the_time_to_drain_is_that_at_the_net_rate_of_the_last_minute(time: Time) -> None:
    drain = DrainEstimate(clock=time)
    assert drain.seconds(0, at_once=500) == 0
    assert drain.seconds(10_000, at_once=500) is None
    for waiting in range(100_000, 69_999, -1000):
        drain.note(waiting)
        time.pass_by(1)
    assert drain.seconds(69_000, at_once=500) == pytest.approx(69, rel=0.05)
    # slower now: after a minute only the new rate counts
    for waiting in range(69_000, 62_000, -100):
        drain.note(waiting)
        time.pass_by(1)
    assert drain.seconds(62_000, at_once=500) == pytest.approx(620, rel=0.05)


def test_nobody_knows_how_long_it_takes_where_more_comes_than_goes(time: Time) -> None:
    drain = DrainEstimate(clock=time)
    for waiting in range(1000, 2000, 100):
        drain.note(waiting)
        time.pass_by(1)
    assert drain.seconds(2000, at_once=500) is None
    assert drain.seconds(20, at_once=500) is not None
    drain.reset()
    assert drain.seconds(20, at_once=500) is None


async def test_the_state_tells_how_long_and_says_nothing_where_nobody_can_know(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time
) -> None:
    assert pump.state().drain_s == 0
    await buffer.add(2000)
    assert pump.state().drain_s is None

    async def takes_a_second(odoo: ChaosOdoo, post: chaos.Post, writer: asyncio.StreamWriter) -> None:
        time.pass_by(2)
        await chaos.well(odoo, post, writer)

    odoo.faults.extend([takes_a_second] * 8)
    async with running(pump):
        await odoo.until(lambda: len(odoo.posts) >= 5)
        drain_s = pump.state().drain_s
        assert drain_s is not None
        assert 1 < drain_s < 30
        pump.hold("for a reason")
        assert pump.state().drain_s is None
        pump.release()
        odoo.faults.clear()
        await buffer.drained()
        assert pump.state().drain_s == 0
        odoo.faults.extend([chaos.status(401)] * 2)
        time.frozen = True
        await buffer.add(100)
        while pump.state().alarm is None:
            await asyncio.sleep(0.005)
        assert pump.state().drain_s is None
