"""The pump against an Odoo that misbehaves: nothing is lost, nothing is there twice, nothing stands still for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from pydantic import SecretStr

from appliance.contract.odoo import Kind
from appliance.errors import StoreUnavailableError
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.uplink.client import OdooClient, Timeouts
from appliance.uplink.pump import Pump, PumpLimits
from tests.uplink import chaos
from tests.uplink.chaos import ChaosOdoo
from tests.uplink.conftest import API_KEY, GATEWAY, Time, WatchedBuffer, make_pump, running


async def test_what_waits_reaches_odoo_with_its_key_its_times_and_its_payload_as_sent(
    odoo: ChaosOdoo, buffer: WatchedBuffer, database: Database, pump: Pump, time: Time
) -> None:
    received_at_ms = time.now_ms() - 31_000
    buffer.append("press-07", Kind.TELEMETRY, b'{ "t": 1.50 }', received_at_ms=received_at_ms, at_ms=received_at_ms - 5)
    buffer.append("press-08", Kind.OTA_STATUS, b'{"state":"failed"}', received_at_ms=time.now_ms())
    await buffer.wait_for_messages(1)
    async with running(pump):
        await buffer.drained()
    other, post = odoo.posts
    assert {name: post.data[name] for name in ("contract", "gateway", "epoch", "floor", "settled", "stored")} == {
        "contract": 1,
        "gateway": GATEWAY,
        "epoch": database.epoch,
        "floor": 1,
        "settled": 2,
        "stored": 1,
    }
    (first,), (second,) = post.data["messages"], other.data["messages"]
    assert (first["seq"], first["device"], first["kind"], first["lane"]) == (1, "press-07", "telemetry", "backlog")
    assert (second["seq"], second["device"], second["kind"], second["lane"]) == (2, "press-08", "ota_status", "live")
    assert first["at"] < first["received_at"]
    assert b'"payload":{ "t": 1.50 }' in post.body
    state = pump.state()
    assert (state.configured, state.reachable, state.settled, state.batches) == (True, True, 2, 2)
    assert state.last_success_at_ms is not None
    assert state.next_attempt_in_s is None


async def test_the_floor_and_the_highest_settled_number_follow_what_odoo_has_confirmed(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.put_off[2] = 1
    await buffer.add(3)
    async with running(pump):
        await buffer.drained()
        await buffer.add()
        await buffer.drained()
    floors = [(post.data["floor"], post.data["settled"], post.seqs) for post in odoo.posts]
    assert floors == [(1, 0, [1, 2, 3]), (2, 3, [2]), (4, 3, [4])]


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_every_fault_leaves_each_message_in_odoo_exactly_once(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time, seed: int
) -> None:
    random = Random(seed)
    pump = make_pump(buffer, client, time, PumpLimits(batch_messages=40))
    kinds = [Kind.TELEMETRY, Kind.COMMAND_STATE]
    await buffer.add_all([(f"d{number % 7}", random.choice(kinds)) for number in range(400)])
    faults = [*chaos.EVERY_FAULT * 3, *[chaos.well] * 30]
    random.shuffle(faults)
    odoo.faults.extend(faults)
    odoo.put_off.update({seq: random.randint(1, 3) for seq in random.sample(range(1, 400), 20)})
    odoo.rejected.update(random.sample(range(1, 400), 10))
    async with running(pump):
        await buffer.drained()
    parked = {rejection.seq for rejection in buffer.rejections}
    assert Counter(odoo.stored_seqs) == Counter(set(range(1, 401)) - parked)
    assert parked == odoo.rejected
    assert odoo.most_in_flight == 1


async def test_a_message_stays_in_the_buffer_until_odoo_has_answered_for_it(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.faults.append(chaos.hangs)
    await buffer.add(5)
    async with running(pump):
        await odoo.until(lambda: len(odoo.posts) == 1)
        assert buffer.backlog().waiting == 5
    assert buffer.backlog().waiting == 5
    assert [message.seq for message in (await buffer.take()).messages] == [1, 2, 3, 4, 5]
    assert buffer.settled_seqs == []


async def test_a_repeated_batch_carries_the_same_keys(odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump) -> None:
    odoo.faults.extend([chaos.stored_then_500] * 3)
    await buffer.add()
    async with running(pump):
        await buffer.drained()
    assert [(post.data["gateway"], post.data["epoch"], post.seqs) for post in odoo.posts] == [
        (GATEWAY, odoo.posts[0].data["epoch"], [1])
    ] * 4
    assert odoo.stored_seqs == [1]


async def test_a_pump_stopped_after_odoo_stored_and_before_it_answered_sends_the_same_again(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    odoo.faults.append(chaos.stored_then_hangs)
    await buffer.add(3)
    async with running(make_pump(buffer, client, time)):
        await odoo.until(lambda: len(odoo.stored) == 3)
    async with running(make_pump(buffer, client, time)):
        await buffer.drained()
    assert odoo.stored_seqs == [1, 2, 3]
    assert odoo.posts[1].seqs == [1, 2, 3]


async def test_an_answer_that_comes_too_late_makes_a_repeat_and_no_duplicate(
    odoo: ChaosOdoo, buffer: WatchedBuffer, time: Time
) -> None:
    odoo.faults.append(chaos.stored_then_hangs)
    await buffer.add(4)
    timeouts = Timeouts(read_s=0.1)
    async with OdooClient(base_url=odoo.url, api_key=SecretStr(API_KEY), timeouts=timeouts, clock=time) as client:
        async with running(make_pump(buffer, client, time)) as pump:
            await buffer.drained()
            assert "in time" in (pump.state().last_error or "")
        odoo.released.set()
    assert odoo.stored_seqs == [1, 2, 3, 4]


async def test_an_odoo_that_was_away_gets_everything_when_it_is_back(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time
) -> None:
    await odoo.stop()
    await buffer.add(600)
    time.frozen = True
    async with running(pump):
        pause_s = await time.next_sleep()
        while pump.state().breaker == "closed":
            time.pass_by(pause_s)
            pause_s = await time.next_sleep()
        state = pump.state()
        assert (state.reachable, state.settled) == (False, 0)
        assert state.next_attempt_in_s is not None
        assert 0 < state.next_attempt_in_s <= 60
        await odoo.start()
        time.frozen = False
        time.pass_by(60)
        await buffer.drained()
        state = pump.state()
        assert (state.reachable, state.breaker, state.consecutive_failures) == (True, "closed", 0)
    assert sorted(odoo.stored_seqs) == list(range(1, 601))
    assert len(odoo.stored) == 600


async def test_results_for_unknown_messages_are_ignored_and_a_missing_result_means_once_more(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.faults.append(chaos.results({"seq": 1, "status": "stored"}, {"seq": 777, "status": "stored"}))
    await buffer.add(2)
    async with running(pump):
        await buffer.drained()
    assert [post.seqs for post in odoo.posts] == [[1, 2], [2]]
    assert sorted(buffer.settled_seqs) == [1, 2]
    assert odoo.stored_seqs == [1, 2]


async def test_a_message_that_odoo_calls_both_stored_and_rejected_is_not_parked(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.faults.append(chaos.results({"seq": 1, "status": "rejected", "code": "x"}, {"seq": 1, "status": "stored"}))
    await buffer.add()
    async with running(pump):
        await buffer.drained()
    assert (buffer.settled_seqs, buffer.rejections) == ([1], [])


async def test_a_rejected_reading_is_parked_with_its_reason_and_the_rest_of_its_batch_is_stored(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.rejected.add(2)
    await buffer.add(3)
    async with running(pump):
        await buffer.drained()
        assert pump.state().parked == 1
    assert odoo.stored_seqs == [1, 3]
    assert [(item.seq, item.code, item.message) for item in buffer.rejections] == [
        (2, "unknown_device", "no such device")
    ]
    assert buffer.backlog().parked == 1


async def test_a_reading_that_odoo_puts_off_again_and_again_holds_up_nobody(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.put_off[1] = 10**9
    await buffer.add(2)
    async with running(pump):
        for count in range(3, 20):
            await buffer.until(lambda: buffer.backlog().waiting == 1)
            await buffer.add()
            await odoo.until(lambda expected=count: expected in odoo.stored_seqs)
        assert pump.state().left_behind
        odoo.put_off[1] = 0
        await buffer.drained()
    assert len(odoo.stored) == len(set(odoo.stored_seqs)) == 19


async def test_what_is_put_off_is_tried_again_after_growing_pauses_of_a_minute_at_most(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    class Latest(Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    pump = Pump(buffer=buffer, client=client, gateway_uid=GATEWAY, clock=time, random=Latest(), sleep=time.sleep)
    odoo.put_off[1] = 10
    await buffer.add()
    begun: list[float] = []

    async def put_off(odoo: ChaosOdoo, post: chaos.Post, writer: asyncio.StreamWriter) -> None:
        begun.append(time.monotonic())
        await chaos.well(odoo, post, writer)

    odoo.faults.extend([put_off] * 11)
    async with running(pump):
        await buffer.drained()
    pauses = [round(later - earlier) for earlier, later in pairwise(begun)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


async def test_other_kinds_keep_their_order_per_device_and_nobody_else_waits(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time
) -> None:
    odoo.put_off[1] = 3
    await buffer.add(device="a", kind=Kind.COMMAND_STATE)  # 1
    async with running(pump):
        await odoo.until(lambda: odoo.put_off[1] < 3)
        time.frozen = True
        await buffer.add(device="a", kind=Kind.COMMAND_RESPONSE)  # 2
        await buffer.add(device="a")  # 3
        await buffer.add(device="b", kind=Kind.COMMAND_STATE)  # 4
        while not {3, 4} <= set(odoo.stored_seqs):
            time.pass_by(min(await time.next_sleep(), 0.1))
            await asyncio.sleep(0)
        assert 2 not in odoo.stored_seqs
        time.frozen = False
        time.pass_by(60)
        await buffer.drained()
    order = [message["seq"] for message in odoo.stored if message["device"] == "a" and message["kind"] != "telemetry"]
    assert order == [1, 2]


@pytest.mark.parametrize("seed", range(3))
async def test_the_order_per_device_survives_a_storm(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time, seed: int
) -> None:
    random = Random(seed)
    pump = make_pump(buffer, client, time, PumpLimits(batch_messages=7))
    kinds = [Kind.COMMAND_STATE, Kind.PRESENCE]
    await buffer.add_all([(f"d{number % 5}", random.choice(kinds)) for number in range(150)])
    odoo.put_off.update({seq: random.randint(1, 4) for seq in random.sample(range(1, 150), 30)})
    odoo.faults.extend(random.choices([chaos.well, chaos.well, chaos.html_500, chaos.reset_mid_answer], k=60))
    async with running(pump):
        await buffer.drained()
    for device in {message["device"] for message in odoo.stored}:
        order = [message["seq"] for message in odoo.stored if message["device"] == device]
        assert order == sorted(order)
    assert len(odoo.stored) == 150


async def test_odoo_putting_off_everything_is_not_run_through_the_whole_backlog(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    pump = make_pump(buffer, client, time, PumpLimits(batch_messages=10))
    await buffer.add(500)
    odoo.put_off.update(dict.fromkeys(range(1, 501), 1000))
    begun = time.monotonic()
    async with running(pump):
        await odoo.until(lambda: len(odoo.posts) >= 40)
        assert time.monotonic() - begun > 60
        odoo.put_off.clear()
        await buffer.drained()
    assert len(odoo.stored) == len(set(odoo.stored_seqs)) == 500


async def test_a_batch_that_is_too_large_is_halved_and_grows_back_below_the_limit(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.most_bytes = 30_000
    await buffer.add(500, size=100)
    async with running(pump):
        await buffer.drained()
        refused = sum(post.body == b"" for post in odoo.posts)
        await buffer.add(500, size=100)
        await buffer.drained()
    sizes = [len(post.body) for post in odoo.posts if post.body]
    assert sum(post.body == b"" for post in odoo.posts) - refused <= 2
    assert max(sizes) > 20_000
    assert Counter(odoo.stored_seqs) == Counter(range(1, 1001))


async def test_a_connection_cut_while_sending_a_large_batch_counts_as_too_large(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.most_bytes, odoo.cuts_instead = 90_000, True
    await buffer.add(400, size=1000)
    async with running(pump):
        await buffer.drained()
        assert pump.state().consecutive_failures == 0
    assert Counter(odoo.stored_seqs) == Counter(range(1, 401))


async def test_a_single_culprit_is_found_tried_three_times_and_parked_and_all_others_are_stored(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.culprit = lambda message: message["seq"] == 77
    await buffer.add(200)
    async with running(pump):
        await buffer.drained()
    assert [(item.seq, item.code, item.message) for item in buffer.rejections] == [
        (77, "invalid_message", "a message cannot be read")
    ]
    assert sum(post.seqs == [77] for post in odoo.posts) == 3
    assert Counter(odoo.stored_seqs) == Counter(set(range(1, 201)) - {77})
    assert len(odoo.posts) < 30


async def test_many_culprits_are_parked_and_delay_no_good_message_for_long(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time
) -> None:
    odoo.culprit = lambda message: 100 < message["seq"] <= 140 or message["seq"] % 100 == 0
    await buffer.add(1000)
    begun = time.monotonic()
    async with running(pump):
        await buffer.drained()
    parked = {rejection.seq for rejection in buffer.rejections}
    assert parked == {*range(101, 141), *range(100, 1001, 100)}
    assert Counter(odoo.stored_seqs) == Counter(set(range(1, 1001)) - parked)
    assert time.monotonic() - begun < 60


async def test_when_odoo_refuses_every_message_the_backlog_is_kept_and_people_are_told(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    pump = make_pump(buffer, client, time, PumpLimits(refusals_in_a_row=12))
    odoo.culprit = lambda message: True
    await buffer.add(300)
    async with running(pump):
        begun = time.monotonic()
        await odoo.until(lambda: pump.state().alarm is not None)
        count = len(odoo.posts)
        await odoo.until(lambda: len(odoo.posts) >= count + 10)
        assert time.monotonic() - begun > 9 * 60
        assert buffer.backlog().parked < 12
        assert "every message" in (pump.state().alarm or "")
        odoo.culprit = lambda message: False
        await buffer.drained()
        assert pump.state().alarm is None
    assert len(odoo.stored) == len(set(odoo.stored_seqs)) == 300 - buffer.backlog().parked


async def test_a_message_too_large_for_odoo_is_parked_only_when_others_pass(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.most_bytes = 2_000
    await buffer.add(size=5_000)
    async with running(pump):
        await odoo.until(lambda: len(odoo.posts) >= 8)
        assert buffer.backlog().waiting == 1
        await buffer.add()
        await buffer.drained()
    assert odoo.stored_seqs == [2]
    assert [(item.seq, item.code) for item in buffer.rejections] == [(1, "too_large")]


async def test_a_message_at_which_odoo_fails_each_time_is_kept_and_lets_the_others_pass(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump
) -> None:
    odoo.poison = lambda message: message["seq"] == 1
    await buffer.add(50)
    async with running(pump):
        await buffer.until(lambda: buffer.backlog().waiting == 1)
        assert buffer.rejections == []
        odoo.poison = lambda message: False
        await buffer.drained()
    assert Counter(odoo.stored_seqs) == Counter(range(1, 51))


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (chaos.status(401), "ODOO_API_KEY"),
        (chaos.status(403, problem="gateway_disabled"), "gateway_disabled"),
        (chaos.status(404), "ODOO_BASE_URL"),
        (chaos.status(307, location="https://other.example/iiot/webhook?token=geheim"), "https://other.example"),
    ],
)
async def test_an_odoo_that_refuses_the_appliance_raises_an_alarm_and_gets_one_small_probe_a_minute(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time, fault: chaos.Fault, word: str
) -> None:
    odoo.faults.extend([fault] * 3)
    time.frozen = True
    await buffer.add(100)
    async with running(pump):
        for probes in (1, 2, 3):
            assert await time.next_sleep() == pytest.approx(60)
            assert len(odoo.posts) == probes
            state = pump.state()
            assert word in (state.alarm or "")
            assert "geheim" not in repr(state)
            assert state.next_attempt_in_s == pytest.approx(60)
            assert (buffer.backlog().waiting, buffer.backlog().parked) == (100, 0)
            time.pass_by(59)
            time.pass_by(1)
        time.frozen = False
        await buffer.drained()
        assert pump.state().alarm is None
    assert [len(post.seqs) for post in odoo.posts[1:3]] == [1, 1]
    assert Counter(odoo.stored_seqs) == Counter(range(1, 101))


async def test_while_odoo_does_not_answer_the_breaker_lets_one_small_probe_through_at_a_time(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, client: OdooClient, time: Time
) -> None:
    odoo.faults.extend([chaos.html_500] * 12)
    await buffer.add(500)
    async with running(pump):
        await buffer.drained()
    assert [len(post.seqs) for post in odoo.posts[:10]] == [500, 250, 125, 62, 31, 15, 7, 3, 1, 1]
    assert len(time.slept) >= 12
    assert max(time.slept) <= 60
    assert Counter(odoo.stored_seqs) == Counter(range(1, 501))


async def test_retry_after_is_the_least_that_is_waited(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time
) -> None:
    odoo.faults.append(chaos.status(429, problem="gateway_busy", retry_after="45"))
    time.frozen = True
    await buffer.add()
    async with running(pump):
        assert await time.next_sleep() == pytest.approx(45)
        assert "gateway_busy" in (pump.state().last_error or "")
        time.pass_by(44)
        assert len(odoo.posts) == 1
        time.pass_by(1)
        await buffer.drained()


async def test_answers_are_settled_even_if_the_store_cannot_commit_at_first(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = 3
    original = Buffer.settle

    async def settle(self: Buffer, *args: object) -> None:
        nonlocal broken
        if broken:
            broken -= 1
            raise StoreUnavailableError("disk full")
        await original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Buffer, "settle", settle)
    await buffer.add(2)
    async with running(pump):
        await buffer.drained()
        assert "disk full" in (pump.state().last_error or "")
    assert len(odoo.posts) == 1
    assert odoo.stored_seqs == [1, 2]


async def test_a_store_that_cannot_be_read_for_a_while_ends_nothing(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take(self: Buffer, **_: object) -> None:
        monkeypatch.undo()
        raise StoreUnavailableError("disk gone")

    monkeypatch.setattr(Buffer, "take", take)
    await buffer.add(2)
    async with running(pump):
        await buffer.drained()
    assert odoo.stored_seqs == [1, 2]


async def test_readings_that_trickle_in_share_requests(
    odoo: ChaosOdoo, buffer: WatchedBuffer, pump: Pump, time: Time
) -> None:
    time.frozen = True
    async with running(pump):
        await buffer.add()
        await odoo.until(lambda: odoo.stored_seqs == [1])  # the first one does not wait
        for _ in range(9):
            await buffer.add()
            assert await time.next_sleep() > 0
            time.pass_by(0.01)
        time.pass_by(0.01)
        await buffer.drained()
    assert [post.seqs for post in odoo.posts] == [[1], list(range(2, 11))]


async def test_a_full_batch_does_not_wait_for_more(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    time.frozen = True
    await buffer.add(60)
    async with running(make_pump(buffer, client, time, PumpLimits(batch_messages=20))):
        await buffer.drained()
    assert time.slept == []
    assert [len(post.seqs) for post in odoo.posts] == [20, 20, 20]


async def test_what_was_left_behind_gets_its_turn_while_new_messages_keep_coming(
    odoo: ChaosOdoo, buffer: WatchedBuffer, client: OdooClient, time: Time
) -> None:
    class Earliest(Random):
        def uniform(self, a: float, b: float) -> float:
            return a

    limits = PumpLimits(batch_messages=10)
    pump = Pump(
        buffer=buffer,
        client=client,
        gateway_uid=GATEWAY,
        clock=time,
        random=Earliest(),
        limits=limits,
        sleep=time.sleep,
    )
    odoo.put_off[1] = 3
    await buffer.add(200)
    async with running(pump):
        await buffer.drained()
    assert odoo.stored_seqs.index(1) < 100
