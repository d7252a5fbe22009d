"""Two appliances post into an Odoo with two workers: no request of theirs fails, though they write the same record."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.odoo.cluster import Cluster, programs
from tests.odoo.plant import EQUIPMENT, TEMPERATURE, EnrolledAppliance, Plant, eventually, new_plant
from tests.odoo.releases import Odoo

pytestmark = pytest.mark.xdist_group("odoo-two-gateways")
DEVICES = 5
READINGS_PER_S = 150.0
LOAD_S = 8.0
REQUEST = re.compile(r'"(?:POST|GET|PUT) (/iiot/[^ "]*) HTTP/1.1" (\d{3})')
WAITING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND query LIKE '%{}%'"
)


@pytest.fixture(scope="module")
def plant(odoo: Odoo, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with new_plant(odoo, cluster, tmp_path_factory.mktemp("two"), workers=2) as plant:
        yield plant


@pytest.fixture(scope="module")
def boxes(plant: Plant) -> list[EnrolledAppliance]:
    return [asyncio.run(plant.appliance(name)) for name in ("hall-1", "hall-2")]


async def check_no_request_failed(plant: Plant, boxes: list[EnrolledAppliance]) -> None:
    """By what the appliances count, and by Odoo's log."""
    for box in boxes:
        async with box.client() as client:
            text = (await client.get("/metrics")).raise_for_status().text
        found = re.search(r"^iiot_uplink_failures_total (\S+)$", text, re.MULTILINE)
        assert found
        assert float(found[1]) == 0, box.log[-2000:]
    answers = Counter(REQUEST.findall(plant.server.log.read_text(errors="replace")))
    assert answers["/iiot/webhook", "200"] > 0
    assert [answer for answer in answers if answer[1] != "200"] == []


async def test_two_gateways_and_two_workers_get_into_nobodys_way(plant: Plant, boxes: list[EnrolledAppliance]) -> None:
    async with plant.office() as office:
        shared = await office.create(EQUIPMENT, name="The oven of both halls", serial_no="OVEN")
        await office.new_field(EQUIPMENT, "x_pressure", "Pressure")
        await office.new_rule(
            profile=plant.profile,
            path="$.pressure",
            model=EQUIPMENT,
            field="x_pressure",
            record_by="domain",
            domain="[('serial_no', '=', 'OVEN')]",
        )
    labels = [await plant.labels(name, DEVICES) for name in ("one", "two")]
    async with (
        plant.devices(boxes[0], labels[0], rate=READINGS_PER_S) as first,
        plant.devices(boxes[1], labels[1], rate=READINGS_PER_S) as second,
    ):
        await asyncio.sleep(LOAD_S)
    for box, devices in zip(boxes, (first, second), strict=True):
        await plant.drained(box)
        await plant.check_counts(box, devices.record(), at_least=int(READINGS_PER_S * LOAD_S / 2))
    async with plant.office() as office:
        assert (await office.read(EQUIPMENT, shared, "x_pressure"))["x_pressure"] > 0
        halls = ["|", ("name", "like", "Machine one-"), ("name", "like", "Machine two-")]
        machines = await office.find(EQUIPMENT, halls, TEMPERATURE)
        assert len(machines) == 2 * DEVICES
        assert all(machine[TEMPERATURE] > 0 for machine in machines)
    await check_no_request_failed(plant, boxes)


@contextmanager
def somebody_holds_the_report(plant: Plant, name: str) -> Iterator[None]:
    """The row of a gateway that its syncs and batches write is locked for as long as the context lasts."""
    statement = "SELECT r.id FROM iiot_gateway_report r JOIN iiot_gateway g ON g.report_id = r.id WHERE g.name = "
    command = [str(programs() / "psql"), "-Xq", "-h", "127.0.0.1", "-p", str(plant.cluster.port), "-U", "odoo"]
    with subprocess.Popen(
        [*command, plant.database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        assert session.stdin
        assert session.stdout
        session.stdin.write(f"BEGIN;\n{statement}'{name}' FOR UPDATE OF r;\n\\echo held\n")
        session.stdin.flush()
        while "held" not in session.stdout.readline():
            assert session.poll() is None
        try:
            yield
        finally:
            session.stdin.close()


async def test_a_batch_waits_for_a_sync_that_takes_long_and_is_not_refused(
    plant: Plant, boxes: list[EnrolledAppliance]
) -> None:
    async def waiting(query: str) -> list[list[str]]:
        return await asyncio.to_thread(plant.sql, WAITING.format(query))

    (label,) = await plant.labels("press", 1)
    with somebody_holds_the_report(plant, "hall-1"):
        await eventually(lambda: waiting("FOR UPDATE"), bool)  # its sync, which has one of the two workers
        async with plant.devices(boxes[0], [label], rate=20) as devices:
            await eventually(lambda: waiting("pg_advisory_xact_lock"), bool)
    await plant.drained(boxes[0])
    await plant.check_counts(boxes[0], devices.record())
    await check_no_request_failed(plant, boxes)
