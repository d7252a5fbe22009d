"""Commands that were fetched from Odoo: kept once, or ended once with the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.sync import PendingCommand
from appliance.services.pending_commands import PendingCommands
from tests.services.command_kit import Bench, running_bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running_bench(tmp_path, max_open_per_device=3) as one:
        yield one


def command(command_id: str = "c-1", **more: Any) -> PendingCommand:
    return PendingCommand.model_validate({"command_id": command_id, "device_id": "d1", "action": "reset", **more})


def pending(bench: Bench) -> PendingCommands:
    return PendingCommands(commands=bench.service)


async def test_a_command_that_comes_again_and_again_is_one_command(bench: Bench) -> None:
    for expires_in_s in (60, 58.5, 1):
        assert await pending(bench).take(command(expires_in_s=expires_in_s))
    await bench.settle()
    assert await bench.states_told("c-1") == ["queued"]
    bench.broker.connect("d1")
    await bench.settle()
    assert bench.broker.ids() == ["c-1"]
    assert await pending(bench).take(command(expires_in_s=0.5))
    await bench.settle()
    assert bench.broker.ids() == ["c-1"]


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({"device_id": "stranger"}, "unknown_device"),
        ({"action": "x" * 200}, "bad_request"),
        ({"payload": 5}, "bad_request"),
        ({"expires_in_s": 1e12}, "bad_request"),
    ],
    ids=["device", "action", "payload", "expiry"],
)
async def test_one_that_cannot_be_carried_out_ends_with_its_reason_once_also_after_a_restart(
    bench: Bench, order: dict[str, Any], reason: str
) -> None:
    for _ in range(2):
        assert await pending(bench).take(command(**order))
    await bench.restart()
    assert await pending(bench).take(command(**order))
    told = await bench.messages()
    assert [(message["state"], message["reason"]) for message in told] == [("failed", reason)]
    assert told[0]["detail"]
    assert await bench.state("c-1") == f"failed/{reason}*"


async def test_a_refused_command_stays_refused_when_its_device_is_paired_later(bench: Bench) -> None:
    await pending(bench).take(command(device_id="late"))
    bench.devices.add("late")
    bench.broker.connect("late")
    assert await pending(bench).take(command(device_id="late"))
    await bench.settle()
    assert bench.broker.ids() == []
    assert await bench.states_told("c-1") == ["failed"]


async def test_where_there_is_no_room_a_command_is_not_refused_but_asked_for_again(bench: Bench) -> None:
    for number in range(3):
        assert await pending(bench).take(command(f"c-{number}"))
    assert not await pending(bench).take(command("c-3"))
    await bench.settle()
    assert await bench.states_told("c-3") == []
    assert await pending(bench).take(command("c-0")), "one that is known needs no room"


async def test_another_command_under_a_known_id_changes_nothing(bench: Bench) -> None:
    await pending(bench).take(command(params={"a": 1}))
    assert await pending(bench).take(command(params={"a": 2}))
    await bench.settle()
    assert await bench.states_told("c-1") == ["queued"]


async def test_a_command_that_is_taken_back_before_it_was_fetched_is_never_delivered(bench: Bench) -> None:
    bench.broker.connect("d1")
    assert await pending(bench).take(command(), withdrawn=True)
    await pending(bench).withdraw("c-1")
    await bench.settle()
    assert bench.broker.ids() == []
    assert await bench.states_told("c-1") == ["cancelled"]


async def test_one_that_waits_is_taken_back_and_one_that_nobody_knows_is_passed_over(bench: Bench) -> None:
    await pending(bench).take(command())
    assert await pending(bench).take(command(), withdrawn=True)
    await pending(bench).withdraw("c-1")
    await pending(bench).withdraw("nobody-knows-me")
    await bench.settle()
    assert await bench.states_told("c-1") == ["queued", "cancelled"]


async def test_an_item_that_could_not_be_read_is_refused_by_its_names_if_these_are_allowed(bench: Bench) -> None:
    for command_id, device_id in (("c-1", "d1"), ("no spaces", "d1"), ("c-2", "../d1")):
        await pending(bench).refuse(command_id=command_id, device_id=device_id, reason="bad_request", detail='a "b"')
    told = await bench.messages()
    assert [(message["command_id"], message["detail"]) for message in told] == [("c-1", 'a "b"')]
