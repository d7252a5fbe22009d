"""Work that the appliance fetches, because Odoo cannot reach it: behind NAT, with answers that get lost on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.bench.devices import device_names, pair_devices
from tests.e2e.devices import RecordingDevice
from tests.e2e.harness import Appliance, OdooStandIn
from tests.e2e.test_copies import Box, odoo, sim, until

__all__ = ["odoo"]


@pytest.fixture
async def box(tmp_path: Path, odoo: OdooStandIn) -> Box:
    one = Box(tmp_path / "box", odoo)
    one.paired = await pair_devices(one.data, device_names(1))
    return one


async def order(odoo: OdooStandIn, **more: Any) -> str:
    body = {"device_id": device_names(1)[0], "action": "reset", "push": False, "expires_in_s": 60, **more}
    return str((await sim(odoo, "POST", "commands", body))["command_id"])


async def becomes(odoo: OdooStandIn, command: str, state: str) -> dict[str, Any]:
    async def there() -> bool:
        return bool((await sim(odoo, "GET", f"commands/{command}"))["state"] == state)

    await until(f"{command} is {state}", there)
    one: dict[str, Any] = await sim(odoo, "GET", f"commands/{command}")
    return one


async def test_commands_reach_the_device_in_their_order_though_odoo_cannot_reach_the_appliance(
    box: Box, odoo: OdooStandIn
) -> None:
    device = RecordingDevice(box.paired[0], port=box.appliance.mqtt_port)
    async with box.appliance:
        running = asyncio.create_task(device.run(), name="device")
        try:
            commands = [await order(odoo) for _ in range(5)]
            for command in commands:
                await becomes(odoo, command, "done")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert [command.command_id for command in device.commands] == commands


async def test_answers_that_break_off_and_requests_that_are_refused_repeat_no_command(
    box: Box, odoo: OdooStandIn
) -> None:
    device = RecordingDevice(box.paired[0], port=box.appliance.mqtt_port)
    for kind in ("reset_answer", "unavailable", "html"):
        await sim(odoo, "POST", "faults", {"kind": kind, "count": 2})
    command = await order(odoo)
    async with box.appliance:
        running = asyncio.create_task(device.run(), name="device")
        try:
            await becomes(odoo, command, "done")
            # it is offered again in the next sync only if nothing was heard of it
            again = await order(odoo, command_id=command)
            assert again == command
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert [each.command_id for each in device.commands] == [command]


async def test_a_command_that_cannot_be_carried_out_fails_with_its_reason_and_the_others_are_not_held_up(
    box: Box, odoo: OdooStandIn
) -> None:
    await sim(odoo, "POST", "devices", {"device_id": "stranger"})
    async with box.appliance:
        refused = await order(odoo, device_id="stranger")
        accepted = await order(odoo)
        assert (await becomes(odoo, refused, "failed"))["history"][-1]["reason"] == "unknown_device"
        await becomes(odoo, accepted, "queued")

        async def taken() -> bool:
            return bool((await sim(odoo, "GET", f"commands/{accepted}"))["history"])

        await until("the other one is taken", taken)
    history = (await sim(odoo, "GET", f"commands/{refused}"))["history"]
    assert [entry["state"] for entry in history] == ["failed"], "once"


async def test_a_command_that_waits_for_its_device_is_taken_back(box: Box, odoo: OdooStandIn) -> None:
    async with box.appliance:
        command = await order(odoo)

        async def taken() -> bool:
            return bool((await sim(odoo, "GET", f"commands/{command}"))["history"])

        await until("it is taken", taken)
        await sim(odoo, "DELETE", f"commands/{command}")
        await becomes(odoo, command, "cancelled")


async def test_a_device_that_is_revoked_or_switched_off_in_odoo_loses_its_connection(
    tmp_path: Path, odoo: OdooStandIn
) -> None:
    appliance = Appliance(tmp_path / "box", environment=odoo.settings)
    names = device_names(2)
    paired = await pair_devices(appliance.data_folder, names)
    devices = [RecordingDevice(one, port=appliance.mqtt_port) for one in paired]
    for name in names:
        token = (await sim(odoo, "POST", f"devices/{name}/tokens"))["token"]
        async with odoo.client() as client:
            body = {"serial": f"SN-{name}", "token": token, "request_id": "r"}
            headers = {"Authorization": f"Bearer {odoo.settings['ODOO_API_KEY']}"}
            (await client.post(f"{odoo.url}/iiot/config", json=body, headers=headers)).raise_for_status()
    async with appliance:
        running = [asyncio.create_task(device.run(), name=device.paired.device_id) for device in devices]
        try:
            for device in devices:
                await asyncio.wait_for(device.connected.wait(), 20)
            await sim(odoo, "DELETE", f"devices/{names[0]}/pairing")
            await sim(odoo, "PATCH", f"devices/{names[1]}", {"enabled": False})
            for device in devices:

                async def away(device: RecordingDevice = device) -> bool:
                    return device.disconnected > 0 and not device.connected.is_set()

                await until(f"{device.paired.device_id} is kept out", away)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
