"""Odoo, PostgreSQL's connections and the appliance end at any moment under load: nothing is lost, nothing is twice.

Five kills of Odoo, twenty with ``IIOT_TEST_LONG=1``.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest

from tests.odoo.cluster import Cluster
from tests.odoo.plant import EQUIPMENT, TEMPERATURE, Devices, EnrolledAppliance, Plant, eventually, new_plant
from tests.odoo.releases import Odoo

pytestmark = pytest.mark.xdist_group("odoo-killed")
KILLS = 20 if os.environ.get("IIOT_TEST_LONG") else 5
DEVICES = 10
READINGS_PER_S = 300.0
IN_FLIGHT = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND state <> 'idle' AND backend_type = 'client backend' AND query ~ 'iiot_|x_temperature|SAVEPOINT'"
)


@pytest.fixture(scope="module")
def plant(odoo: Odoo, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with new_plant(odoo, cluster, tmp_path_factory.mktemp("killed")) as plant:
        yield plant


@pytest.fixture(scope="module")
def box(plant: Plant) -> EnrolledAppliance:
    return asyncio.run(plant.appliance("hall-1"))


async def until_a_batch_is_in_flight(plant: Plant) -> None:
    """A transaction that writes readings is open in the database just now."""

    async def transactions() -> list[list[str]]:
        return await asyncio.to_thread(plant.sql, IN_FLIGHT)

    await eventually(transactions, bool)


async def check_machines(plant: Plant, devices: Devices) -> None:
    """Each machine shows the newest reading of its device: what came late has overwritten nothing."""
    rows = plant.sql(
        f"SELECT e.{TEMPERATURE}, (SELECT (t.payload->>'temperature')::float FROM iiot_telemetry t "
        "WHERE t.device_id = d.id ORDER BY t.at DESC, t.id DESC LIMIT 1) "
        f"FROM iiot_device d JOIN maintenance_equipment e ON d.business_ref = '{EQUIPMENT},' || e.id "
        "WHERE EXISTS (SELECT FROM iiot_telemetry t WHERE t.device_id = d.id)"
    )
    assert len(rows) >= len(devices.fleet.devices)
    for shown, newest in rows:
        assert float(shown) == pytest.approx(float(newest), abs=0.0501)


async def test_odoo_killed_during_batches_loses_no_reading_and_has_none_twice(
    plant: Plant, box: EnrolledAppliance
) -> None:
    async with plant.devices(box, await plant.labels("press", DEVICES), rate=READINGS_PER_S) as devices:
        for _ in range(KILLS):
            await until_a_batch_is_in_flight(plant)
            await asyncio.sleep(random.uniform(0, 0.1))  # in it, at its end, between two
            await plant.kill()
            await plant.start()
    await plant.drained(box)
    await plant.check_counts(box, devices.record(), at_least=KILLS * 100)
    await check_machines(plant, devices)
    async with plant.office() as office:
        (gateway,) = await office.find("iiot.gateway", [], "readings_stored")
        in_history = int(plant.sql("SELECT count(*) FROM iiot_telemetry")[0][0])
        assert gateway["readings_stored"] == in_history
        told = await eventually(
            lambda: office.find("iiot.gateway", [], "ledger_stored", "ledger_received"),
            lambda rows: rows[0]["ledger_stored"] == in_history,
        )
        assert told[0]["ledger_received"] == in_history


async def test_all_that_can_end_ends_at_once_and_commands_are_carried_out_once(
    plant: Plant, box: EnrolledAppliance
) -> None:
    async with plant.devices(box, await plant.labels("oven", DEVICES), rate=READINGS_PER_S) as devices:
        commands = []
        for what in ("connections", "appliance", "connections", "both", "appliance"):
            async with plant.office() as office:
                ids = [row["id"] for row in await office.find("iiot.device", [("device_id", "like", "oven-")], "id")]
                commands += await office.call(
                    "iiot.device", "send_command", ids[:3], "identify", context={"iiot_expires_in_s": 600}
                )
            await until_a_batch_is_in_flight(plant)
            if what == "connections":
                plant.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                continue
            box.kill()
            if what == "both":
                await plant.kill()
                await plant.start()
            await box.start()
        async with plant.office() as office:
            await eventually(
                lambda: office.find("iiot.command", [("id", "in", commands)], "state", "reason"),
                lambda rows: len(rows) == len(commands) and {row["state"] for row in rows} == {"done"},
            )
    await plant.drained(box)
    record = devices.record()
    await plant.check_counts(box, record, at_least=500)
    await check_machines(plant, devices)
    assert len(record.commands) == len(commands)
    assert set(record.commands.values()) == {1}
