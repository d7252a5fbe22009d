"""The life of a command: in order, one at a time, counted before it is sent, and true after any crash."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.contract.command import SendCommand
from appliance.contract.odoo import Kind
from appliance.errors import (
    CommandRefusedError,
    DeviceDisabledError,
    StoreUnavailableError,
    UnknownCommandError,
    UnknownDeviceError,
)
from tests.services.command_kit import Bench, Delivered, running_bench

YEAR_S = 365 * 86_400


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running_bench(tmp_path, ["d1", "d2"]) as bench:
        yield bench


# --- the ordinary life ----------------------------------------------------------------------------------------------


async def test_a_command_goes_from_queued_to_done_and_every_step_is_told(bench: Bench) -> None:
    bench.broker.connect("d1")
    command_id = await bench.send(action="reset", params={"delay": 5})
    [delivered] = bench.broker.sent
    assert delivered.topic == "command/d1/action"
    assert json.loads(delivered.payload) == {"action": "reset", "params": {"delay": 5}, "command_id": command_id}
    assert not delivered.redelivery
    assert await bench.state(command_id) == "sent"
    delivered.ack()
    await bench.settle()
    assert await bench.state(command_id) == "delivered"
    await bench.respond("d1", {"command_id": command_id, "status": "ok", "result": {"n": 1}})
    assert await bench.state(command_id) == "done*"
    assert await bench.history(command_id) == ["queued", "sent", "delivered", "done"]
    told = await bench.messages()
    assert [message.get("state", message.get("status")) for message in told] == [
        "queued",
        "sent",
        "delivered",
        "ok",
        "done",
    ]
    assert {message["command_id"] for message in told} == {command_id}
    assert told[1] == {"command_id": command_id, "state": "sent", "at": "2026-11-22T10:00:00.000Z", "delivery": 1}
    status = await bench.service.status(command_id)
    assert status.response == {"command_id": command_id, "status": "ok", "result": {"n": 1}}
    assert (status.expires_at, status.deliveries) == ("2026-11-22T10:01:00.000Z", 1)
    assert bench.service.open_count("d1") == bench.service.open_total == 0


async def test_an_answer_with_an_error_fails_the_command_and_in_progress_keeps_it_open(bench: Bench) -> None:
    bench.devices.add("d1", command_response_limit_s=10)
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    command_id = await bench.send()
    for _ in range(3):
        await bench.pass_time(9)
        await bench.respond("d1", {"command_id": command_id, "status": "in_progress"})
    assert await bench.state(command_id) == "delivered"
    await bench.respond("d1", {"command_id": command_id, "status": "error", "error": "valve stuck"})
    assert await bench.state(command_id) == "failed/device*"
    assert await bench.history(command_id) == ["queued", "sent", "delivered", "failed"]
    assert bench.service.open_count("d1") == 0


async def test_a_delivered_command_without_an_answer_stays_delivered_and_is_settled(bench: Bench) -> None:
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    command_id = await bench.send()
    await bench.pass_time(59)
    assert await bench.state(command_id) == "delivered"
    assert bench.service.open_count("d1") == 1
    await bench.pass_time(2)
    assert await bench.state(command_id) == "delivered*"
    assert bench.service.open_count("d1") == 0
    await bench.respond("d1", {"command_id": command_id, "status": "ok"})
    assert await bench.state(command_id) == "done*"
    assert (await bench.messages(Kind.COMMAND_STATE))[-1]["late"] is True


async def test_an_answer_that_overtakes_the_acknowledgement_counts_and_is_not_taken_back(bench: Bench) -> None:
    bench.broker.connect("d1")
    first, second = await bench.send(), await bench.send()
    await bench.respond("d1", {"command_id": first, "status": "in_progress"})
    assert await bench.state(first) == "delivered"
    await bench.respond("d1", {"command_id": first, "status": "ok"})
    assert await bench.state(first) == "done*"
    assert bench.broker.ids() == [first]  # in flight until PUBACK
    bench.broker.sent[0].ack()
    await bench.settle()
    assert bench.broker.ids() == [first, second]
    assert await bench.history(first) == ["queued", "sent", "delivered", "done"]


# --- order and one in flight ----------------------------------------------------------------------------------------


async def test_a_device_gets_its_commands_in_order_and_one_at_a_time(bench: Bench) -> None:
    waiting = [await bench.send() for _ in range(3)]
    bench.broker.connect("d1", "d2")
    await bench.settle()
    later = [await bench.send(), await bench.send("d2"), await bench.send()]
    for _ in range(5):
        for delivered in list(bench.broker.sent):
            delivered.ack()
        await bench.settle()
    assert [d.id for d in bench.broker.sent if d.device == "d1"] == [*waiting, later[0], later[2]]
    assert bench.broker.most_unacked == 1


async def test_commands_sent_at_once_by_many_callers_keep_their_order_too(bench: Bench) -> None:
    bench.broker.connect("d1")
    orders = [SendCommand(device_id="d1", action="a", command_id=f"x{number}") for number in range(50)]
    await asyncio.gather(*(bench.service.send(order) for order in orders))
    while len(bench.broker.sent) < 50:
        bench.broker.sent[-1].ack()
        await bench.settle()
    assert bench.broker.ids() == [order.command_id for order in orders]
    assert bench.broker.most_unacked == 1


async def test_a_lost_connection_repeats_the_same_command_first_and_the_next_one_waits(bench: Bench) -> None:
    bench.broker.connect("d1")
    first, second = await bench.send(), await bench.send()
    bench.broker.disconnect("d1")
    await bench.settle()
    bench.broker.connect("d1")
    await bench.settle()
    assert [(d.id, d.redelivery) for d in bench.broker.sent] == [(first, False), (first, True)]
    bench.broker.sent[0].ack()  # of the connection that has gone: too late to mean anything
    await bench.settle()
    assert await bench.state(first) == "sent"
    bench.broker.sent[1].ack()
    bench.broker.sent[1].ack()
    await bench.settle()
    assert bench.broker.ids() == [first, first, second]
    assert await bench.history(first) == ["queued", "sent", "sent", "delivered"]


async def test_subscribing_again_on_the_same_connection_repeats_nothing(bench: Bench) -> None:
    bench.broker.connect("d1")
    first = await bench.send()
    bench.service.device_ready("d1")
    await bench.settle()
    assert bench.broker.ids() == [first]


async def test_the_next_command_is_written_after_the_acknowledgement_of_the_last_is_on_disk(bench: Bench) -> None:
    bench.broker.connect("d1")
    first, second = await bench.send(), await bench.send()
    seen: list[list[tuple[str]]] = []
    query = "SELECT state FROM outbox ORDER BY position"
    bench.broker.look = lambda delivered: seen.append(bench.on_disk(query))
    bench.broker.sent[0].ack()
    await bench.settle()
    assert bench.broker.ids() == [first, second]
    assert seen == [[("delivered",), ("sent",)]]


# --- counted before the bytes go out --------------------------------------------------------------------------------


async def test_a_delivery_is_counted_on_disk_before_its_bytes_are_written(bench: Bench) -> None:
    seen: list[tuple[int, str]] = []

    def look(delivered: Delivered) -> None:
        [row] = bench.on_disk("SELECT deliveries, state FROM outbox WHERE command_id = ?", delivered.id)
        seen.append(row)

    bench.broker.look = look
    bench.broker.connect("d1")
    await bench.send()
    for _ in range(2):
        bench.broker.disconnect("d1")
        bench.broker.connect("d1")
        await bench.settle()
    assert seen == [(1, "sent"), (2, "sent"), (3, "sent")]


async def test_three_deliveries_without_acknowledgement_fail_the_command_and_the_next_one_has_its_turn(
    bench: Bench,
) -> None:
    first, second = await bench.send(), await bench.send()
    for _ in range(3):
        bench.broker.connect("d1")
        await bench.settle()
        bench.broker.disconnect("d1")
        await bench.settle()
    assert bench.broker.ids() == [first] * 3
    assert await bench.state(first) == "failed/no_ack*"
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.ids() == [first] * 3 + [second]


async def test_at_most_once_is_sent_a_single_time(bench: Bench) -> None:
    bench.broker.connect("d1")
    command_id = await bench.send(deliver="at_most_once")
    bench.broker.disconnect("d1")
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.ids() == [command_id]
    assert await bench.state(command_id) == "failed/no_ack*"


@pytest.mark.parametrize("deliver", ["at_least_once", "at_most_once"])
async def test_what_was_counted_but_not_written_is_counted_back(bench: Bench, deliver: str) -> None:
    bench.broker.connect("d1")
    bench.broker.writes = False
    command_id = await bench.send(deliver=deliver)
    assert await bench.state(command_id) == "queued/not_connected"
    assert (await bench.service.status(command_id)).deliveries == 0
    bench.broker.writes = True
    bench.broker.connect("d1")
    await bench.settle()
    assert [(d.id, d.redelivery) for d in bench.broker.sent] == [(command_id, False)]


async def test_a_connection_that_ends_while_the_delivery_is_being_counted_costs_no_delivery(bench: Bench) -> None:
    bench.broker.connect("d1")
    order = SendCommand(device_id="d1", action="a", command_id="c", deliver="at_most_once")
    sending = asyncio.create_task(bench.service.send(order))
    await asyncio.sleep(0)
    bench.broker.disconnect("d1")
    await sending
    await bench.settle()
    assert bench.broker.sent == []
    assert await bench.state("c") == "queued/not_connected"
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.ids() == ["c"]


async def test_a_connection_that_breaks_while_it_is_written_to_counts_as_one_delivery(bench: Bench) -> None:
    bench.broker.connect("d1")
    bench.broker.look = lambda delivered: bench.service.device_gone("d1")
    command_id = await bench.send()
    assert await bench.state(command_id) == "sent"
    bench.broker.look = lambda delivered: None
    bench.broker.connect("d1")
    await bench.settle()
    assert [(d.id, d.redelivery) for d in bench.broker.sent] == [(command_id, False), (command_id, True)]


@pytest.mark.parametrize(("deliver", "sent_after"), [("at_least_once", 1), ("at_most_once", 0)])
async def test_a_crash_between_counting_and_writing_keeps_the_promise(
    bench: Bench, deliver: str, sent_after: int
) -> None:
    bench.broker.connect("d1")
    # the service believes that it was written, but the process ends before a byte is
    bench.service.transmit = lambda *args, **kwargs: True
    await bench.send(command_id="c", deliver=deliver)
    await bench.restart()
    bench.broker.connect("d1")
    await bench.settle()
    assert [d.redelivery for d in bench.broker.sent] == [True] * sent_after
    assert await bench.state("c") == ("sent" if sent_after else "failed/no_ack*")
    assert (await bench.service.status("c")).deliveries == 1 + sent_after


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


# --- the same again, and what is refused ----------------------------------------------------------------------------


async def test_the_same_command_id_gives_the_first_result_and_sends_nothing(bench: Bench) -> None:
    order = SendCommand(device_id="d1", action="reset", params={"a": 1, "b": [2]}, command_id="same")
    first = await bench.service.send(order)
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    await bench.settle()
    again = SendCommand(device_id="d1", action="reset", params={"b": [2], "a": 1}, command_id="same", expires_in_s=5)
    assert await bench.service.send(again) == first
    await bench.respond("d1", {"status": "ok"})
    bench.devices.devices["d1"].enabled = False
    assert await bench.service.send(order) == first
    del bench.devices.devices["d1"]
    await bench.restart()
    assert await bench.service.send(order) == first
    assert first.state == "queued"
    assert len(bench.on_disk("SELECT 1 FROM outbox")) == 1


async def test_the_same_command_id_from_two_callers_at_once_is_one_command(bench: Bench) -> None:
    bench.broker.connect("d1")
    order = SendCommand(device_id="d1", action="reset", command_id="same")
    one, two, three = await asyncio.gather(*(bench.service.send(order) for _ in range(3)))
    assert one == two == three
    await bench.settle()
    assert bench.broker.ids() == ["same"]


@pytest.mark.parametrize(
    "change",
    [{"action": "stop"}, {"params": {"a": 2}}, {"device_id": "d2"}, {"payload": "x"}, {"deliver": "at_most_once"}],
)
async def test_the_same_command_id_for_something_else_is_refused(bench: Bench, change: dict[str, object]) -> None:
    body: dict[str, object] = {"device_id": "d1", "action": "reset", "params": {"a": 1}, "command_id": "same"}
    await bench.service.send(SendCommand.model_validate(body))
    for _ in range(2):
        with pytest.raises(CommandRefusedError) as refusal:
            await bench.service.send(SendCommand.model_validate({**body, **change}))
        assert (refusal.value.status, refusal.value.code) == (409, "command_id_conflict")
        await bench.pass_time(61)  # also when the first one has ended
    assert await bench.history("same") == ["queued", "expired"]
    bench.broker.connect("d1", "d2")
    other = [await bench.send("d1"), await bench.send("d2")]  # and nobody's lane is blocked
    assert bench.broker.ids() == other


async def test_what_cannot_be_sent_is_refused_and_leaves_nothing_behind(bench: Bench) -> None:
    bench.devices.add("off").enabled = False
    bench.devices.add("bad", command_template="{{ nothing")
    bench.devices.add("text", command_template="{{ action }}")
    bench.devices.add("small", max_packet_bytes=128)
    with pytest.raises(UnknownDeviceError):
        await bench.send("nobody")
    with pytest.raises(DeviceDisabledError):
        await bench.send("off")
    for device_id, code in {"bad": "command_template", "text": "command_not_json"}.items():
        with pytest.raises(CommandRefusedError) as refusal:
            await bench.send(device_id)
        assert refusal.value.code == code
    with pytest.raises(CommandRefusedError) as refusal:
        await bench.send("small", params={"text": "x" * 100})
    assert refusal.value.code == "command_too_large"
    assert bench.on_disk("SELECT 1 FROM outbox UNION ALL SELECT 1 FROM messages") == []
    assert bench.service.open_total == 0
    assert bench.service._open.lanes == {}


async def test_an_id_is_made_where_the_caller_gives_none_and_ids_grow_with_time(bench: Bench) -> None:
    order = SendCommand(device_id="d1", action="a")
    first = (await bench.service.send(order)).command_id
    bench.clock.pass_time(1)
    second = (await bench.service.send(order)).command_id
    assert first < second
    assert first[14] == "7"
    assert len(bench.on_disk("SELECT 1 FROM outbox")) == 2


async def test_a_device_that_is_switched_off_gets_nothing_until_it_is_on_again(bench: Bench) -> None:
    command_id = await bench.send()
    bench.devices.devices["d1"].enabled = False
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.sent == []
    bench.devices.devices["d1"].enabled = True
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.ids() == [command_id]


# --- cancelling -----------------------------------------------------------------------------------------------------


async def test_what_was_not_sent_can_be_cancelled(bench: Bench) -> None:
    first, second = await bench.send(), await bench.send()
    assert (await bench.service.cancel(first)).state == "cancelled"
    assert (await bench.service.cancel(first)).state == "cancelled"
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.ids() == [second]
    assert await bench.states_told(first) == ["queued", "cancelled"]
    with pytest.raises(UnknownCommandError):
        await bench.service.cancel("unheard-of")


async def test_what_was_sent_cannot_be_cancelled_and_is_still_repeated(bench: Bench) -> None:
    bench.broker.connect("d1")
    command_id = await bench.send()
    assert (await bench.service.cancel(command_id)).state == "sent"
    bench.broker.disconnect("d1")
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.ids() == [command_id] * 2
    bench.broker.sent[1].ack()
    await bench.settle()
    with pytest.raises(CommandRefusedError) as refusal:
        await bench.service.cancel(command_id)
    assert (refusal.value.status, refusal.value.code) == (409, "command_final")


async def test_cancelling_and_sending_at_the_same_time_ends_in_one_of_both(bench: Bench) -> None:
    command_id = await bench.send()
    bench.broker.connect("d1")  # asks for the claim
    status = await bench.service.cancel(command_id)
    await bench.settle()
    assert (status.state, bench.broker.ids()) == ("sent", [command_id])
    other = await bench.send()
    cancelling = asyncio.create_task(bench.service.cancel(other))
    await asyncio.sleep(0)
    bench.broker.sent[0].ack()  # asks for the claim of the other one, too late
    assert (await cancelling).state == "cancelled"
    await bench.settle()
    assert bench.broker.ids() == [command_id]


# --- answers --------------------------------------------------------------------------------------------------------


async def test_an_answer_without_id_belongs_to_the_oldest_unanswered_command(bench: Bench) -> None:
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    ids = [await bench.send() for _ in range(3)]
    await bench.respond("d1", {"command_id": ids[0], "status": "ok"})
    await bench.respond("d1", b' {"status": "ok", "result": 1.50} ')
    await bench.respond("d1", {"command_id": None, "status": "error"})
    assert [await bench.state(each) for each in ids] == ["done*", "done*", "failed/device*"]
    recorded = [m.payload for m in (await bench.buffer.take()).messages if m.kind is Kind.COMMAND_RESPONSE]
    assert recorded[1] == b' {"status": "ok", "result": 1.50,"command_id":"' + ids[1].encode() + b'"}'
    assert json.loads(recorded[2]) == {"command_id": ids[2], "status": "error"}


async def test_an_answer_to_another_devices_command_changes_nothing_and_is_recorded(bench: Bench) -> None:
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    command_id = await bench.send("d1")
    await bench.respond("d2", {"command_id": command_id, "status": "ok"}, "receipt")
    await bench.respond("d2", {"status": "ok"})
    await bench.respond("d1", {"command_id": "unheard-of", "status": "ok", "matched": True})
    assert await bench.state(command_id) == "delivered"
    assert await bench.messages(Kind.COMMAND_RESPONSE) == [
        {"command_id": command_id, "status": "ok", "matched": False},
        {"status": "ok", "matched": False},
        {"command_id": "unheard-of", "status": "ok", "matched": False},
    ]
    assert "receipt" in bench.receipts


async def test_an_answer_to_a_command_that_was_never_written_is_no_answer(bench: Bench) -> None:
    command_id = await bench.send()
    await bench.respond("d1", {"command_id": command_id, "status": "ok"})
    await bench.respond("d1", {"status": "ok"})
    assert await bench.state(command_id) == "queued"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"done!", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"", "not_json"),
        (b'{"status": NaN}', "not_json"),
        (b"[]", "invalid"),
        (b'{"status": "finished"}', "invalid"),
        (b'{"command_id": 7, "status": "ok"}', "invalid"),
        (b'{"command_id": "", "status": "ok"}', "invalid"),
        (b'{"command_id": "' + b"x" * 65 + b'", "status": "ok"}', "invalid"),
    ],
)
async def test_an_answer_that_is_none_is_parked_and_acknowledged(bench: Bench, payload: bytes, code: str) -> None:
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    command_id = await bench.send()
    await bench.respond("d1", payload, "receipt")
    assert bench.receipts == ["receipt"]
    assert bench.on_disk("SELECT device, kind, code FROM parked") == [("d1", int(Kind.COMMAND_RESPONSE), code)]
    assert await bench.state(command_id) == "delivered"


@pytest.mark.parametrize(
    "text",
    [
        '{"status": "ok", "command_id": "\\ud800"}',
        '{"status": "ok", "result": ' + "9" * 5000 + "}",
        '{"status": "ok", "command_id": null, "result": 1' + "0" * 400 + "}",
        '{"status": "ok", "command_id": null, "result": ' + "[" * 180 + "]" * 180 + "}",
        '{"status": "ok", "result": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"status": "ok", "result": "\\u0000\\ud83d\\ude00"}',
        '{"status": "error", "error": "\\ud800"}',
    ],
)
async def test_a_strange_answer_is_stored_or_parked_and_harms_nobody(bench: Bench, text: str) -> None:
    bench.broker.connect("d1")
    bench.broker.ack_at_once = True
    await bench.send()
    await bench.respond("d1", text.encode(), "receipt")
    assert bench.receipts == ["receipt"]
    for message in (await bench.buffer.take()).messages:
        json.loads(message.payload)
    await bench.send()
    assert len(bench.broker.sent) == 2


async def test_the_receipt_of_an_answer_comes_after_its_commit(bench: Bench) -> None:
    bench.broker.connect("d1")
    command_id = await bench.send()
    seen: list[tuple[str, list[tuple[str]]]] = []
    bench.database.committed = lambda receipts: seen.append(
        (receipts[0], bench.on_disk("SELECT state FROM outbox WHERE command_id = ?", command_id))
    )
    await bench.respond("d1", {"status": "ok"}, "receipt")
    assert seen == [("receipt", [("done",)])]


async def test_a_long_answer_goes_to_odoo_whole_and_leaves_its_size_with_the_command(bench: Bench) -> None:
    bench.broker.connect("d1")
    command_id = await bench.send()
    await bench.respond("d1", {"command_id": command_id, "status": "ok", "result": "x" * 5000})
    status = await bench.service.status(command_id)
    assert status.response is None
    assert status.response_bytes is not None
    assert status.response_bytes > 5000
    assert len((await bench.messages(Kind.COMMAND_RESPONSE))[0]["result"]) == 5000


# --- bounds ---------------------------------------------------------------------------------------------------------


async def test_the_queue_of_a_device_the_whole_and_its_bytes_are_bounded(tmp_path: Path) -> None:
    devices = ["d1", "d2", "d3"]
    async with running_bench(tmp_path, devices, max_open_per_device=3, max_open=5, max_open_bytes=2000) as bench:
        ids = [await bench.send("d1") for _ in range(3)]
        await _assert_full(bench, "d1")
        assert await bench.send("d1", command_id=ids[0]) == ids[0]  # known already: no new command
        await bench.send("d2", params={"x": "x" * 1700})
        await _assert_full(bench, "d2", params={"x": "x" * 300})
        await bench.send("d2")
        await _assert_full(bench, "d3")
        await bench.service.cancel(ids[1])
        await bench.send("d3")
        await bench.pass_time(61)
        assert bench.service.open_total == 0
        assert bench.service._open.lanes == {}
        assert bench.service._open.payload_bytes == 0


async def _assert_full(bench: Bench, device_id: str, **order: object) -> None:
    with pytest.raises(CommandRefusedError) as refusal:
        await bench.send(device_id, **order)
    assert (refusal.value.status, refusal.value.code, refusal.value.retry_after_s) == (429, "queue_full", 60)


async def test_settled_commands_are_kept_for_a_day_and_a_number(tmp_path: Path) -> None:
    async with running_bench(tmp_path, keep_settled_s=1000, keep_settled=10) as bench:
        bench.broker.connect("d1")
        bench.broker.ack_at_once = True
        ids = [await bench.send() for _ in range(30)]
        for _ in ids:
            await bench.respond("d1", {"status": "ok"})
        bench.clock.pass_time(61)
        waiting = await bench.send(expires_in_s=5000)
        await _until(lambda: len(bench.on_disk("SELECT 1 FROM outbox")) == 11)
        assert await bench.state(ids[-10]) == "done*"
        with pytest.raises(UnknownCommandError):
            await bench.state(ids[-11])
        bench.broker.disconnect("d1")
        bench.clock.pass_time(1001)
        await _until(lambda: len(bench.on_disk("SELECT 1 FROM outbox")) <= 1)
        assert await bench.state(waiting) in ("delivered", "delivered*")


async def _until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_alarms_of_commands_that_have_ended_do_not_pile_up(tmp_path: Path) -> None:
    async with running_bench(tmp_path) as bench:
        for _ in range(60):
            ids = [await bench.send(expires_in_s=86_400) for _ in range(50)]
            await asyncio.gather(*(bench.service.cancel(command_id) for command_id in ids))
        assert len(bench.service._open._alarms) < 1200


# --- when nothing can be stored -------------------------------------------------------------------------------------


async def test_without_a_store_nothing_is_sent_and_everything_goes_on_when_it_is_back(bench: Bench) -> None:
    bench.broker.connect("d1")
    first = await bench.send()
    second = await bench.send()
    outbox = bench.service._outbox
    submit = outbox.submit

    def fail(changes: object) -> asyncio.Future[list[object]]:
        future: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreUnavailableError("disk full"))
        return future

    outbox.submit = fail  # type: ignore[method-assign, assignment]
    bench.broker.sent[0].ack()
    await bench.settle()
    sending = asyncio.gather(bench.send(), return_exceptions=True)
    await bench.settle()
    bench.service.tick()
    [error] = await sending
    assert isinstance(error, StoreUnavailableError)
    assert bench.broker.ids() == [first]
    assert bench.service.open_count("d1") == 2
    outbox.submit = submit  # type: ignore[method-assign]
    bench.service.tick()
    await bench.settle()
    assert await bench.state(first) == "delivered"
    assert bench.broker.ids() == [first, second]


async def test_a_mistake_of_ours_ends_run_with_its_error(bench: Bench) -> None:
    def broken(*args: object, **kwargs: object) -> bool:
        raise ValueError("a bug")

    bench.broker.connect("d1")
    bench.service.transmit = broken
    await bench.send()
    with pytest.raises(ValueError, match="a bug"):
        await bench.running


# --- many at once ---------------------------------------------------------------------------------------------------


async def test_a_thousand_devices_get_a_command_at_once_with_few_commits(tmp_path: Path) -> None:
    devices = [f"d{number}" for number in range(1000)]
    async with running_bench(tmp_path, devices) as bench:
        bench.broker.connect(*devices)
        bench.broker.ack_at_once = True
        tasks_before = len(asyncio.all_tasks())
        orders = [SendCommand(device_id=device_id, action="stop") for device_id in devices]
        await asyncio.gather(*(bench.service.send(order) for order in orders))
        await bench.settle()
        assert len(bench.broker.sent) == 1000
        assert len(asyncio.all_tasks()) == tasks_before
        for device_id in devices:
            bench.service.accept_response(device_id, b'{"status": "ok"}', 0, None)
        await bench.settle()
        assert bench.on_disk("SELECT state, count(*) FROM outbox GROUP BY state") == [("done", 1000)]
