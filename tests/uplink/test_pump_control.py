"""What others ask of the pump: to hold, to hurry, to send less; and what becomes of an Odoo that knows too little."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from appliance.contract.odoo import Kind, Sender
from appliance.contract.sync import BatchLimits
from appliance.store.database import Database
from appliance.uplink.client import OdooClient
from appliance.uplink.pump import Pump
from tests.uplink import chaos
from tests.uplink.chaos import ChaosOdoo
from tests.uplink.conftest import GATEWAY, Time, WatchedBuffer, running


def pump_with(buffer: WatchedBuffer, client: OdooClient, time: Time, **callbacks: Callable[[], None]) -> Pump:
    return Pump(buffer=buffer, client=client, gateway_uid=GATEWAY, clock=time, sleep=time.sleep, **callbacks)


# --- holding and hurrying -------------------------------------------------------------------------------------


async def test_nothing_is_sent_while_the_pump_is_held_and_all_of_it_afterwards(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time
) -> None:
    pump.hold("this Odoo is a copy of the one this appliance belongs to")
    await buffer.add(3)
    async with running(pump):
        assert (pump.state().alarm, pump.state().next_attempt_in_s) == (
            "this Odoo is a copy of the one this appliance belongs to",
            None,
        )
        for _ in range(20):
            time.pass_by(60)
            await buffer.add()
        assert odoo.posts == []
        pump.release()
        await buffer.drained()
        assert pump.state().alarm is None
    assert Counter(odoo.stored_seqs) == Counter(range(1, 24))


async def test_a_hold_while_a_batch_is_on_its_way_lets_its_answer_count(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    asked = asyncio.Event()

    async def holds(odoo: ChaosOdoo, post: chaos.Post, writer: asyncio.StreamWriter) -> None:
        pump.hold("wait")
        asked.set()
        await chaos.well(odoo, post, writer)

    odoo.faults.append(holds)
    await buffer.add(2)
    async with running(pump):
        await buffer.drained()
        await buffer.add(2)
        for _ in range(50):
            await asyncio.sleep(0)
        assert buffer.backlog().waiting == 2
        pump.release()
        await buffer.drained()
    assert len(odoo.posts) == 2


async def test_when_odoo_answers_others_the_back_off_is_not_waited_out(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time
) -> None:
    odoo.faults.extend([chaos.html_500] * 2)
    time.frozen = True
    await buffer.add()
    async with running(pump):
        for count in range(1, 3):
            await odoo.until(lambda count=count: len(odoo.posts) == count)
            assert await time.next_sleep() > 0
            pump.try_now()
        await buffer.drained()
    assert time.monotonic() == 1000
    assert odoo.stored_seqs == [1]


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [(chaos.status(429, problem="gateway_busy", retry_after="45"), 45), (chaos.status(401), 60)],
)
async def test_what_odoo_wished_and_what_people_must_mend_are_waited_for_all_the_same(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time, fault: chaos.Fault, seconds: float
) -> None:
    odoo.faults.append(fault)
    time.frozen = True
    await buffer.add()
    async with running(pump):
        assert await time.next_sleep() == pytest.approx(seconds)
        time.pass_by(1)
        pump.try_now()
        for _ in range(50):
            await asyncio.sleep(0)
        assert await time.next_sleep() == pytest.approx(seconds - 1)
        assert len(odoo.posts) == 1
        time.pass_by(seconds - 1)
        await buffer.drained()


async def test_batches_are_no_larger_than_odoo_says_it_takes(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    pump.use_limits(BatchLimits(messages=30))
    await buffer.add(200)
    async with running(pump):
        await buffer.drained()
        assert max(len(post.seqs) for post in odoo.posts) == 30
        pump.use_limits(BatchLimits(body_bytes=2_000))
        odoo.posts.clear()
        await buffer.add(200, size=100)
        await buffer.drained()
        assert 1_500 < max(len(post.body) for post in odoo.posts) <= 2_000
        pump.use_limits(BatchLimits(messages=10_000, body_bytes=10**9))
        odoo.posts.clear()
        await buffer.add(2000)
        await buffer.drained()
    assert max(len(post.seqs) for post in odoo.posts) == 500
    assert Counter(odoo.stored_seqs) == Counter(range(1, 2401))


async def test_odoo_saying_that_it_has_work_is_passed_on(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    calls: list[int] = []
    odoo.work = [False, True, False]
    async with running(pump_with(buffer, client, time, on_work=lambda: calls.append(len(odoo.posts)))):
        for _ in range(3):
            await buffer.add()
            await buffer.drained()
    assert calls == [2]


# --- an Odoo that knows less than it confirmed ----------------------------------------------------------------


@pytest.fixture
def strict(odoo: ChaosOdoo) -> ChaosOdoo:
    """Keeps floors, and answers ``behind``."""
    odoo.minds_floors = True
    return odoo


async def test_an_odoo_restored_from_a_backup_gets_what_it_lost_without_anybodys_help(
    strict: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    await buffer.add(40)
    async with running(pump):
        await buffer.drained()
        backup = strict.backup()
        await buffer.add(60)
        await buffer.drained()
        await buffer.add(5)
        await buffer.drained()
        strict.restore(backup)
        await buffer.add(3)
        await buffer.drained()
        assert pump.state().reachable is True
    assert Counter(strict.stored_seqs) == Counter(range(1, 109))


async def test_an_odoo_that_does_not_say_what_it_knows_gets_everything_that_is_kept(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    await buffer.add(10)
    odoo.rejected.add(4)
    async with running(pump):
        await buffer.drained()
        odoo.faults.extend([chaos.status(409, problem="behind")] * 8)
        await buffer.add(3)
        await odoo.until(lambda: len(odoo.posts) >= 8)
        assert "restored from a backup" in (pump.state().last_error or "")
        await buffer.drained()
    assert Counter(odoo.stored_seqs) == Counter({*range(1, 14)} - {4})
    assert [item.seq for item in buffer.rejections] == [4]


async def test_who_sees_to_an_odoo_that_is_behind_is_called_and_nothing_is_sent_until_then(
    strict: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time, database: Database
) -> None:
    calls: list[float] = []
    pump = pump_with(buffer, client, time, on_behind=lambda: calls.append(time.monotonic()))
    await buffer.add(20)
    async with running(pump):
        await buffer.drained()
        strict.restore(strict.nothing())
        time.frozen = True
        await buffer.add(2)
        while not calls:
            time.pass_by(min(await time.next_sleep(), 0.1))
            await asyncio.sleep(0)
        count = len(strict.posts)
        assert "restored from a backup" in (pump.state().alarm or "")
        time.pass_by(59)
        await buffer.add(2)
        assert (len(strict.posts), len(calls)) == (count, 1)
        await buffer.resend(database.epoch, 0)
        pump.release()
        time.frozen = False
        await buffer.drained()
        assert pump.state().alarm is None
    assert Counter(strict.stored_seqs) == Counter(range(1, 25))


@pytest.mark.parametrize("code", ["wrong_database", "fenced"])
async def test_an_odoo_that_is_not_meant_gets_one_small_probe_a_minute_where_nobody_sees_to_it(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time, code: str
) -> None:
    odoo.faults.extend([chaos.status(409, problem=code)] * 3)
    await buffer.add(20)
    begun = time.monotonic()
    async with running(pump):
        await odoo.until(lambda: pump.state().alarm is not None)
        await buffer.drained()
    assert time.monotonic() - begun == pytest.approx(180, abs=1)
    assert [len(post.seqs) for post in odoo.posts[1:3]] == [1, 1]
    assert buffer.rejections == []


async def test_a_batch_says_who_sends_it_and_how_much_odoo_has(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    pump.use_sender(Sender("0c5f7e5e-0000-4000-8000-000000000001", "db-1"))
    await buffer.add(2)
    async with running(pump):
        await buffer.drained()
        await buffer.add()
        await buffer.drained()
    assert [(post.data["start"], post.data["database_uuid"], post.data["stored"]) for post in odoo.posts] == [
        ("0c5f7e5e-0000-4000-8000-000000000001", "db-1", 0),
        ("0c5f7e5e-0000-4000-8000-000000000001", "db-1", 2),
    ]


async def test_nobody_seeing_to_it_is_called_again_every_minute(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    calls: list[float] = []
    pump = pump_with(buffer, client, time, on_behind=lambda: calls.append(time.monotonic()))
    odoo.faults.extend([chaos.status(409, problem="behind")] * 3)
    await buffer.add(2)
    async with running(pump):
        await buffer.drained()
    assert [round(later - earlier) for earlier, later in pairwise(calls)] == [60, 60]


async def test_what_was_taken_before_it_got_another_name_is_not_sent_under_the_old_one(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, database: Database
) -> None:
    old = database.epoch
    odoo.put_off.update({1: 10**9, 2: 10**9})
    odoo.faults.extend([chaos.well, chaos.html_500])
    await buffer.add()
    await buffer.add(kind=Kind.COMMAND_STATE)
    async with running(pump):
        await odoo.until(lambda: len(odoo.posts) >= 4)
        new = await buffer.renew_epoch(1)
        count = len(odoo.posts)
        odoo.put_off.clear()
        await buffer.drained()
    assert {post.data["epoch"] for post in odoo.posts[:count]} == {old}
    assert {post.data["epoch"] for post in odoo.posts[count:]} == {new}
    assert sorted(odoo.stored_seqs) == [1, 2]


async def test_what_is_on_its_way_is_answered_under_the_name_it_was_sent_under(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, database: Database
) -> None:
    old = database.epoch
    renewals: list[asyncio.Task[str]] = []

    async def renews_meanwhile(odoo: ChaosOdoo, post: chaos.Post, writer: asyncio.StreamWriter) -> None:
        renewals.append(asyncio.create_task(buffer.renew_epoch(1)))
        await database.run(lambda _: None)
        await chaos.well(odoo, post, writer)

    odoo.faults.append(renews_meanwhile)
    await buffer.add(3)
    async with running(pump):
        await buffer.drained()
        new = await renewals[0]
    present, earlier = buffer.epochs()
    assert (present.epoch, present.stored) == (new, 0)
    assert (earlier.epoch, earlier.stored) == (old, 3)


async def test_messages_that_wait_again_are_sent_though_nothing_new_comes(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, database: Database
) -> None:
    await buffer.add(5)
    async with running(pump):
        await buffer.drained()
        odoo.receipts.clear()
        odoo.stored.clear()
        await buffer.resend(database.epoch, 2)
        await buffer.drained()
    assert odoo.stored_seqs == [2, 3, 4, 5]


async def test_a_batch_holds_messages_of_one_epoch_only(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, database: Database
) -> None:
    names: list[str] = []
    for _ in range(4):
        await buffer.add(5)
        names += [database.epoch] * 5
        await buffer.renew_epoch(buffer.backlog().last_seq + 1)
    async with running(pump):
        await buffer.drained()
    for post in odoo.posts:
        assert {names[seq - 1] for seq in post.seqs} == {post.data["epoch"]}
    assert Counter(odoo.stored_seqs) == Counter(range(1, 21))
