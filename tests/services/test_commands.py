"""The life of a command: in order, one at a time, counted before it is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from appliance.contract.command import SendCommand
from appliance.contract.odoo import Kind
from appliance.errors import (
    StoreUnavailableError,
)
from appliance.store.outbox import Change, Outcome
from tests.services.command_kit import Bench, Delivered, running_bench


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


async def test_an_answer_right_behind_the_acknowledgement_is_stored_behind_it(bench: Bench) -> None:
    bench.broker.connect("d1")
    command_id = await bench.send()
    bench.broker.sent[0].ack()
    await bench.respond("d1", {"status": "ok"})
    assert await bench.history(command_id) == ["queued", "sent", "delivered", "done"]


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


async def test_the_acknowledgement_goes_to_the_disk_before_the_next_claim(bench: Bench) -> None:
    bench.broker.connect("d1")
    await bench.send()
    await bench.send()
    submitted: list[str] = []
    submit = bench.service._outbox.submit

    def note(changes: Sequence[Change], *, receipt: object = None) -> asyncio.Future[list[Outcome]]:
        submitted.extend(change.func.__name__ for change in changes)  # type: ignore[attr-defined]
        return submit(changes, receipt=receipt)

    bench.service._outbox.submit = note  # type: ignore[method-assign]
    bench.broker.sent[0].ack()
    await bench.settle()
    assert submitted == ["acknowledge", "claim"]


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


async def test_a_command_whose_time_ends_while_its_delivery_is_being_counted_is_not_written(bench: Bench) -> None:
    bench.broker.connect("d1")
    sending = asyncio.create_task(bench.send(command_id="c"))
    await asyncio.sleep(0)
    bench.clock.pass_time(61)
    await sending
    bench.service.tick()
    await bench.settle()
    assert bench.broker.sent == []
    assert await bench.state("c") == "expired*"


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


# --- the end of a pairing -------------------------------------------------------------------------------------------


async def test_open_commands_of_a_device_that_loses_its_pairing_end_and_those_of_others_do_not(bench: Bench) -> None:
    bench.broker.connect("d1")
    sent = await bench.send(action="a")
    waiting = await bench.send(action="b")
    other = await bench.send(device_id="d2", action="c")
    bench.service.device_gone("d1")
    bench.service.device_removed("d1")
    bench.service.device_removed("nobody")
    await bench.settle()
    assert await bench.state(sent) == "failed/revoked*"
    assert await bench.state(waiting) == "cancelled/revoked*"
    assert await bench.state(other) == "queued"
    assert (bench.service.open_count("d1"), bench.service.open_total) == (0, 1)
    told = [(each["command_id"], each["state"], each.get("reason")) for each in await bench.messages()]
    assert (sent, "failed", "revoked") in told
    assert (waiting, "cancelled", "revoked") in told
    # what had an end before keeps it
    bench.service.device_removed("d1")
    await bench.settle()
    assert len(await bench.messages()) == len(told)
