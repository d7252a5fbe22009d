"""What callers may ask: repeats, contradictions, refusals, cancelling, bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from appliance.contract.command import SendCommand
from appliance.errors import (
    CommandRefusedError,
    DeviceDisabledError,
    UnknownCommandError,
    UnknownDeviceError,
)
from tests.services.command_kit import Bench, running_bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running_bench(tmp_path, ["d1", "d2"]) as bench:
        yield bench


# --- the same again, and what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["command_expires_in_s", "command_response_limit_s"])
@pytest.mark.parametrize("value", [1e300, float("inf")])
async def test_a_profile_that_lets_commands_wait_for_ever_means_a_month_and_ends_nothing(
    bench: Bench, limit: str, value: float
) -> None:
    bench.devices.add("d3", **{limit: value})
    status = await bench.service.send(SendCommand(device_id="d3", action="reset", command_id="c3"))
    assert status.state == "queued"
    assert (await bench.service.send(SendCommand(device_id="d1", action="reset"))).state == "queued"


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
        await _until(bench, lambda: len(bench.on_disk("SELECT 1 FROM outbox")) == 11)
        assert await bench.state(ids[-10]) == "done*"
        with pytest.raises(UnknownCommandError):
            await bench.state(ids[-11])
        bench.broker.disconnect("d1")
        bench.clock.pass_time(1001)
        await _until(bench, lambda: len(bench.on_disk("SELECT 1 FROM outbox")) <= 1)
        assert await bench.state(waiting) in ("delivered", "delivered*")


async def _until(bench: Bench, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            bench.service._wake.set()  # the clock was moved by hand, so no timer rings
            await asyncio.sleep(0.001)


async def test_alarms_of_commands_that_have_ended_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.services.lanes.SPARE_ALARMS", 50)
    async with running_bench(tmp_path) as bench:
        for _ in range(5):
            order = SendCommand(device_id="d1", action="a", expires_in_s=86_400)
            sent = await asyncio.gather(*(bench.service.send(order) for _ in range(50)))
            await asyncio.gather(*(bench.service.cancel(status.command_id) for status in sent))
        assert len(bench.service._open._alarms) <= 150
