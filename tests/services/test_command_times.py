"""Expiry, clocks and restarts: what was promised holds in the next process too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.contract.odoo import Kind
from tests.services.command_kit import Bench, running_bench

YEAR_S = 365 * 86_400


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running_bench(tmp_path, ["d1", "d2"]) as bench:
        yield bench


# --- restart --------------------------------------------------------------------------------------------------------


async def test_open_commands_go_on_after_a_restart_in_their_order(bench: Bench) -> None:
    bench.broker.connect("d1")
    ids = [await bench.send() for _ in range(3)]
    bench.broker.sent[0].ack()
    await bench.settle()
    await bench.restart(down_s=5)
    assert [await bench.state(command_id) for command_id in ids] == ["delivered", "sent", "queued"]
    assert bench.service.open_count("d1") == 3
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    await bench.settle()
    assert [(d.id, d.redelivery) for d in bench.broker.sent] == [(ids[1], True), (ids[2], False)]
    await bench.respond("d1", {"status": "ok"})
    assert await bench.state(ids[0]) == "done*"


async def test_deliveries_are_counted_across_restarts(bench: Bench) -> None:
    command_id = await bench.send(expires_in_s=600)
    for _ in range(3):
        bench.broker.connect("d1")
        await bench.settle()
        assert bench.broker.ids() == [command_id]
        await bench.restart()
    assert await bench.state(command_id) == "failed/no_ack*"


async def test_what_expired_while_the_appliance_was_down_is_not_sent(bench: Bench) -> None:
    old = await bench.send()
    young = await bench.send(expires_in_s=100)
    await bench.restart(down_s=61)
    bench.broker.connect("d1")
    await bench.pass_time(0)
    assert await bench.state(old) == "expired*"
    assert bench.broker.ids() == [young]
    await bench.restart(down_s=0)
    assert await bench.states_told(old) == ["queued", "expired"]


async def test_an_answer_that_arrives_before_the_old_commands_are_loaded_is_not_lost(bench: Bench) -> None:
    bench.broker.connect("d1")
    command_id = await bench.send()
    await bench.stop()
    await bench.start(run=False)
    await bench.respond("d1", {"status": "ok"}, "receipt")
    assert bench.receipts == []
    await bench.run()
    assert bench.receipts == ["receipt"]
    assert await bench.state(command_id) == "done*"


# --- expiry and clocks ----------------------------------------------------------------------------------------------


async def test_a_command_expires_after_its_time_and_is_not_sent_later(bench: Bench) -> None:
    bench.devices.add("d2", command_expires_in_s=300)
    short, own, long = await bench.send(), await bench.send(expires_in_s=120), await bench.send("d2")
    await bench.pass_time(59.9)
    assert await bench.state(short) == "queued"
    await bench.pass_time(0.2)
    assert [await bench.state(each) for each in (short, own, long)] == ["expired*", "queued", "queued"]
    await bench.pass_time(60)
    await bench.pass_time(180)
    assert [await bench.state(each) for each in (own, long)] == ["expired*", "expired*"]
    bench.broker.connect("d1", "d2")
    await bench.settle()
    assert bench.broker.sent == []
    assert await bench.states_told(short) == ["queued", "expired"]


async def test_a_device_that_returns_too_late_gets_nothing_even_before_the_timer_has_rung(bench: Bench) -> None:
    command_id = await bench.send()
    bench.clock.pass_time(61)
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.sent == []
    bench.service.tick()
    await bench.settle()
    assert await bench.state(command_id) == "expired*"


async def test_a_command_that_expires_in_flight_holds_the_next_one_back_until_its_acknowledgement(
    bench: Bench,
) -> None:
    bench.broker.connect("d1")
    first = await bench.send()
    second = await bench.send(expires_in_s=600)
    await bench.pass_time(61)
    assert await bench.state(first) == "expired*"
    assert bench.broker.ids() == [first]
    bench.broker.sent[0].ack()
    await bench.settle()
    assert await bench.state(first) == "delivered"  # it did arrive: the truth wins
    assert bench.broker.ids() == [first, second]
    await bench.respond("d1", {"status": "ok"})
    assert await bench.state(first) == "done*"
    assert await bench.states_told(first) == ["queued", "sent", "expired", "delivered", "done"]


async def test_an_expired_command_is_not_repeated_when_the_device_returns(bench: Bench) -> None:
    bench.broker.connect("d1")
    first = await bench.send()
    second = await bench.send(expires_in_s=600)
    await bench.pass_time(61)
    bench.broker.disconnect("d1")
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.ids() == [first, second]


async def test_a_late_answer_is_recorded_and_the_truth_wins(bench: Bench) -> None:
    bench.broker.connect("d1")
    expired = await bench.send()
    bench.broker.disconnect("d1")
    await bench.pass_time(61)
    bench.broker.connect("d1")
    given_up = await bench.send(deliver="at_most_once")
    bench.broker.disconnect("d1")
    await bench.settle()
    assert [await bench.state(each) for each in (expired, given_up)] == ["expired*", "failed/no_ack*"]
    await bench.respond("d1", {"command_id": given_up, "status": "in_progress"})
    assert await bench.state(given_up) == "delivered*"
    await bench.respond("d1", {"command_id": given_up, "status": "ok"})
    await bench.respond("d1", {"command_id": expired, "status": "error", "error": "busy"})
    assert [await bench.state(each) for each in (expired, given_up)] == ["failed/device*", "done*"]
    await bench.respond("d1", {"command_id": expired, "status": "ok"})
    assert await bench.state(expired) == "failed/device*"  # its first final answer counts
    assert len(await bench.messages(Kind.COMMAND_RESPONSE)) == 4


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S, 50 * YEAR_S])
async def test_a_jump_of_the_wall_clock_neither_expires_nor_revives_anything(bench: Bench, jump_s: float) -> None:
    command_id = await bench.send()
    await bench.pass_time(20)
    bench.clock.jump(jump_s)
    await bench.pass_time(20)
    assert await bench.state(command_id) == "queued"
    await bench.restart(down_s=10, jump_s=jump_s)
    await bench.pass_time(0)
    assert await bench.state(command_id) == "queued"
    await bench.pass_time(11)
    assert await bench.state(command_id) == "expired*"


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
async def test_a_jump_seen_before_the_machine_starts_anew_changes_no_deadline(bench: Bench, jump_s: float) -> None:
    command_id = await bench.send()
    bench.clock.jump(jump_s)
    await bench.pass_time(20)
    await bench.restart(down_s=30, reboot=True)
    await bench.pass_time(0)
    assert await bench.state(command_id) == "queued"
    await bench.pass_time(11)
    assert await bench.state(command_id) == "expired*"


async def test_nothing_old_is_sent_when_nobody_knows_how_long_the_machine_was_off(bench: Bench) -> None:
    bench.broker.connect("d1")
    delivered = await bench.send()
    bench.broker.sent[0].ack()
    sent, queued = await bench.send(expires_in_s=86_400), await bench.send(expires_in_s=86_400)
    await bench.restart(down_s=5, jump_s=-3600, reboot=True)
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.sent == []
    assert [await bench.state(each) for each in (delivered, sent, queued)] == [
        "delivered",
        "expired/clock_behind*",
        "expired/clock_behind*",
    ]
    fresh = await bench.send()
    bench.clock.jump(4 * 3600)  # the box has learned the time
    await bench.restart(down_s=5)
    assert await bench.state(fresh) == "sent"
    await bench.restart(down_s=5, reboot=True)
    assert await bench.state(fresh) == "sent"


async def test_a_box_that_wakes_in_1970_and_learns_the_time_forgets_no_command_id(tmp_path: Path) -> None:
    async with running_bench(tmp_path) as bench:
        bench.clock.wall_ms = 60_000
        await bench.restart()
        bench.broker.connect("d1")
        bench.broker.ack_at_once = True
        command_id = await bench.send()
        await bench.respond("d1", {"status": "ok"})
        bench.clock.jump(56 * YEAR_S)
        await bench.pass_time(61)
        await bench.restart(down_s=10)
        assert await bench.send(command_id=command_id) == command_id
        assert await bench.state(command_id) == "done*"
