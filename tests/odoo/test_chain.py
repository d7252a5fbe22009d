"""From a device to a machine's record and back: a real Odoo, a real appliance enrolled by code, simulated devices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.image import make
from firmware_sim.office import Office, OfficeError
from tests.odoo.cluster import Cluster
from tests.odoo.plant import EQUIPMENT, TEMPERATURE, EnrolledAppliance, Plant, eventually, new_plant
from tests.odoo.releases import Odoo

pytestmark = pytest.mark.xdist_group("odoo-chain")
OPEN_COMMANDS = {"queued", "sent", "delivered"}
IMAGE_BYTES = 200_000


@pytest.fixture(scope="module")
def served(odoo: Odoo, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with new_plant(odoo, cluster, tmp_path_factory.mktemp("chain")) as plant:
        yield plant


@pytest.fixture(scope="module")
def enrolled(served: Plant) -> EnrolledAppliance:
    return asyncio.run(served.appliance("hall-1"))


@pytest.fixture
async def office(served: Plant) -> AsyncIterator[Office]:
    async with served.office() as office:
        yield office


async def device_of(office: Office, name: str) -> int:
    (device,) = await office.find("iiot.device", [("device_id", "=", name)], "id")
    return int(device["id"])


async def until_over(office: Office, model: str, record: int, still: set[str], *fields: str) -> dict[str, Any]:
    return await eventually(
        lambda: office.read(model, record, "state", "history", *fields), lambda found: found["state"] not in still
    )


async def test_a_reading_is_in_the_machines_record_and_counted_the_same_on_all_sides(
    served: Plant, enrolled: EnrolledAppliance, office: Office
) -> None:
    labels = await served.labels("reader", 3)
    async with served.devices(enrolled, labels) as devices:
        await eventually(
            lambda: office.find(
                EQUIPMENT, [("serial_no", "=like", "SN-reader-%"), (TEMPERATURE, "!=", 0)], TEMPERATURE
            ),
            lambda machines: len(machines) == 3,
        )
        running = await office.find("iiot.device", [("device_id", "=like", "reader-%")], "state", "paired_at")
        assert {device["state"] for device in running} == {"active"}
    await served.drained(enrolled)
    await served.check_counts(enrolled, devices.record())
    for device in await office.find(
        "iiot.device", [("device_id", "=like", "reader-%")], "last_values", "business_ref", "device_id"
    ):
        machine = await office.read(EQUIPMENT, int(device["business_ref"].split(",")[1]), TEMPERATURE)
        newest = served.sql(
            "SELECT payload->>'temperature' FROM iiot_telemetry t JOIN iiot_device d ON d.id = t.device_id "
            f"WHERE d.device_id = '{device['device_id']}' ORDER BY at DESC, t.id DESC LIMIT 1"
        )
        assert machine[TEMPERATURE] == pytest.approx(float(newest[0][0]), abs=0.0501)
        assert device["last_values"]["temperature"] == float(newest[0][0])


async def test_a_token_pairs_one_device_and_no_second_one(
    served: Plant, enrolled: EnrolledAppliance, office: Office
) -> None:
    labels = await served.labels("single", 1)
    async with served.devices(enrolled, labels):
        pass
    async with enrolled.client() as client:
        again = await client.post(
            "/api/v1/config/download", json={"serial": labels[0].serial, "token": labels[0].token}
        )
        wrong = await client.post("/api/v1/config/download", json={"serial": labels[0].serial, "token": "x" * 20})
    assert (again.status_code, again.json()["code"]) == (410, "token_used")
    assert (wrong.status_code, wrong.json()["code"]) == (403, "invalid_token")


@pytest.mark.parametrize("way", ["push", "pull"])
async def test_a_command_is_rendered_in_odoo_and_answered_by_the_device(
    served: Plant, enrolled: EnrolledAppliance, office: Office, way: str
) -> None:
    """Pulled, where Odoo knows no address of the appliance: what it is told is forgotten for that time."""
    name = f"worker-{way}"
    gateway = (await office.find("iiot.gateway", [("name", "=", "hall-1")], "id"))[0]["id"]
    kept = served.sql(f"SELECT api_url FROM iiot_gateway WHERE id = {gateway}")[0][0]
    assert kept == enrolled.url
    async with served.devices(enrolled, await served.labels(name, 1)) as devices:
        if way == "pull":
            served.sql(f"UPDATE iiot_gateway SET api_url = NULL WHERE id = {gateway}")
        try:
            device = await device_of(office, f"{name}-001")
            command = await office.send_command(device, 'say "hello"', {"speed": 3})
            done = await until_over(
                office,
                *("iiot.command", command, OPEN_COMMANDS),
                *("payload", "response", "command_id", "user_id", "problem"),
            )
        finally:
            served.sql(f"UPDATE iiot_gateway SET api_url = '{kept}' WHERE id = {gateway}")
    assert done["state"] == "done", done
    assert not done["problem"], done
    payload = json.loads(done["payload"])
    assert payload.pop("command_id") == done["command_id"]
    assert payload == {"action": 'say "hello"', "speed": 3}
    assert json.loads(done["response"])["status"] == "ok"
    assert devices.record().commands == {(f"{name}-001", done["command_id"]): 1}


async def test_commands_to_many_devices_and_to_none_say_what_became_of_them(
    served: Plant, enrolled: EnrolledAppliance, office: Office
) -> None:
    labels = await served.labels("many", 12)
    async with served.devices(enrolled, labels) as devices:
        ids = [row["id"] for row in await office.find("iiot.device", [("device_id", "=like", "many-%")], "id")]
        commands = await office.call("iiot.device", "send_command", ids, "identify")
        assert len(commands) == 12
        await eventually(
            lambda: office.find("iiot.command", [("id", "in", commands)], "state"),
            lambda rows: {row["state"] for row in rows} == {"done"},
        )
        failing = await office.send_command(ids[0], "fail", {})
        refused = await until_over(office, "iiot.command", failing, OPEN_COMMANDS, "reason")
    assert set(devices.record().commands.values()) == {1}
    assert refused["state"] == "failed"
    (unpaired,) = await served.labels("nobody", 1)
    nobody = await office.send_command(await device_of(office, unpaired.serial.removeprefix("SN-")), "identify", {})
    assert (await office.read("iiot.command", nobody, "state", "reason"))["reason"] == "not_paired"


async def test_firmware_from_odoo_is_installed_and_a_bad_one_rolls_back(
    served: Plant, enrolled: EnrolledAppliance, office: Office, tmp_path: Path
) -> None:
    good = await office.new_firmware("2.0.0", make("2.0.0", IMAGE_BYTES), profile_id=served.profile)
    bad = await office.new_firmware("2.1.0", make("2.1.0", IMAGE_BYTES, bad="boot"), profile_id=served.profile)
    running = {
        "waiting", "fetching", "queued", "offered", "delivered", "accepted", "downloading", "downloaded", "verified",
        "installing", "rebooting", "cancelling",
    }  # fmt: skip
    async with served.devices(enrolled, await served.labels("updated", 1), store=tmp_path) as devices:
        device = await device_of(office, "updated-001")
        first = await until_over(
            office, "iiot.update", await office.start_update(device, good), running, "new_version", "progress"
        )
        assert (first["state"], first["new_version"]) == ("installed", "2.0.0"), first
        second = await until_over(
            office, "iiot.update", await office.start_update(device, bad), running, "new_version", "error"
        )
        assert (second["state"], second["new_version"]) == ("rolled_back", "2.0.0"), second
        assert devices.fleet.devices[0].firmware_version == "2.0.0"
        known = await eventually(
            lambda: office.read("iiot.device", device, "firmware_version"),
            lambda row: row["firmware_version"] == "2.0.0",
        )
        assert known
        said = [entry["state"] for entry in first["history"]]
        assert [state for state in said if state in ("downloading", "verified", "installing")][:1] == ["downloading"]
        order = await office.start_update(device, bad)
        with pytest.raises(OfficeError, match="running"):
            await office.start_update(device, good)
        await until_over(office, "iiot.update", order, running)


async def status(enrolled: EnrolledAppliance, name: str) -> dict[str, Any]:
    return dict(await enrolled.get(f"/api/v1/device/{name}/status"))


async def test_odoo_shows_who_is_online_and_why_one_is_not(
    served: Plant, enrolled: EnrolledAppliance, office: Office
) -> None:
    labels = await served.labels("present", 1)
    device = await device_of(office, "present-001")
    assert (await office.read("iiot.device", device, "connection_status"))["connection_status"] == "unknown"

    async def shown() -> dict[str, Any]:
        return await office.read("iiot.device", device, "connection_status", "offline_reason", "offline_code")

    async with served.devices(enrolled, labels) as devices:
        online = await eventually(shown, lambda row: row["connection_status"] == "online")
        assert not online["offline_reason"]
        assert devices.fleet.devices[0].is_connected
    offline = await eventually(shown, lambda row: row["connection_status"] == "offline")
    assert offline["offline_code"] == "closed_by_device"
    assert offline["offline_reason"]


async def test_what_people_change_of_a_device_reaches_it(
    served: Plant, enrolled: EnrolledAppliance, office: Office
) -> None:
    """Switched off and on again, a new secret, another profile with other topics."""
    async with served.devices(enrolled, await served.labels("changed", 1)) as devices:
        (simulated,) = devices.fleet.devices
        device = await device_of(office, "changed-001")

        await office.call("iiot.device", "action_disable", [device])
        await eventually(lambda: connected(simulated), lambda is_connected: not is_connected)
        shown = await eventually(
            lambda: office.read("iiot.device", device, "state", "connection_status", "offline_code"),
            lambda row: row["connection_status"] == "offline",
        )
        assert shown["state"] == "disabled"
        await office.call("iiot.device", "action_enable", [device])
        await eventually(lambda: connected(simulated), bool)

        before = secret(simulated)
        await office.call("iiot.device", "action_rotate_secret", [device])
        await eventually(lambda: at_once(secret(simulated)), lambda now: now != before)
        await eventually(lambda: connected(simulated), bool)

        moved = await office.create(
            "iiot.device.profile",
            name=f"Moved {device}",
            telemetry_topic_template="hall/{device}/measured",
            command_topic_template="hall/{device}/do",
            command_response_topic_template="hall/{device}/done",
            settings='{"telemetry_interval_s": 0.1}',
        )
        await office.write("iiot.device", device, profile_id=moved)
        await eventually(
            lambda: at_once(simulated._current().topics["telemetry"]),
            lambda topic: topic == "hall/changed-001/measured",
        )
        await eventually(lambda: connected(simulated), bool)
        since = len(devices.record().acknowledged)
        await eventually(lambda: at_once(len(devices.record().acknowledged)), lambda count: count > since + 3)
        command = await office.send_command(device, "identify", {})
        assert (await until_over(office, "iiot.command", command, OPEN_COMMANDS))["state"] == "done"
    await served.drained(enrolled)
    await served.check_counts(enrolled, devices.record())


async def at_once(value: Any) -> Any:
    return value


async def connected(device: Any) -> bool:
    return bool(device.is_connected)


def secret(device: Any) -> str:
    return str(device._current().password)
