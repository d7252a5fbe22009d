"""What Prometheus reads: right figures under well-formed names, at the same cost for any number of devices."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.contract.odoo import Kind
from appliance.store.buffer import Rejection
from appliance.store.ledger import count_readings, note_refusal
from appliance.web.metrics import Figures
from tests.conftest import ROOT
from tests.web.conftest import AUTHORIZED, World


async def scrape(client: httpx.AsyncClient) -> dict[str, float]:
    response = await client.get("/metrics", headers=AUTHORIZED)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.text)
    return {sample.name: sample.value for family in families for sample in family.samples}


async def fill(world: World) -> None:
    """Five readings: two stored, one parked, two waiting; and one refused publish."""
    received_ms = world.clock.now_ms() - 60_000
    for number in range(5):
        world.buffer.append("press-07", Kind.TELEMETRY, b"%d" % number, received_at_ms=received_ms)
    await world.buffer.settle([1, 2], [Rejection(3, "no_rule", "no rule takes it")])
    await world.database.run(
        lambda connection: note_refusal(
            connection, device="press-07", reason="foreign", topic="x", count=7, at_ms=received_ms
        )
    )


async def test_the_figures_are_those_of_the_ledger_and_of_the_parts(world: World, client: httpx.AsyncClient) -> None:
    await fill(world)
    await world.pair("press-07", "SN-1")
    world.presence.connected("press-07", "10.0.0.7")
    found = await scrape(client)
    expected = {
        "iiot_build_info": 1,
        "iiot_readings_received_total": 5,
        "iiot_readings_stored_total": 2,
        "iiot_readings_waiting": 2,
        "iiot_readings_parked": 1,
        "iiot_publishes_refused_total": 7,
        "iiot_dead_letters": 1,
        "iiot_dead_letter_bytes": 1,
        "iiot_messages_waiting": 2,
        "iiot_mqtt_connections": 3,
        "iiot_mqtt_connections_accepted_total": 8,
        "iiot_viewer_sessions": 2,
        "iiot_local_sessions": 3,
        "iiot_passed_on_dropped_total": 5,
        "iiot_passed_on_stalled": 0,
        "iiot_local_subscriptions_refused_total": 1,
        "iiot_devices_online": 1,
        "iiot_devices_paired": 1,
        "iiot_commands_open": 1,
        "iiot_updates_open": 2,
        "iiot_firmware_bytes": 3 << 20,
        "iiot_firmware_downloads": 4,
        "iiot_firmware_sent_bytes_total": 5 << 20,
        "iiot_uplink_up": 0,
        "iiot_uplink_alarm": 1,
        "iiot_uplink_failures_total": 9,
        "iiot_uplink_consecutive_failures": 6,
        "iiot_readings_received_per_second": 12.5,
        "iiot_ledger_adds_up": 1,
        "iiot_dead_letters_limit": 100_000,
        "iiot_store_quota_bytes": 4 << 30,
        "iiot_uplink_batches_total": 4,
        "iiot_disk_free_bytes": 3 << 30,
        "iiot_store_available": 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert 60 <= found["iiot_oldest_message_age_seconds"] < 120
    assert found["process_resident_memory_bytes"] > 10 << 20


async def test_a_scraper_needs_the_key(client: httpx.AsyncClient) -> None:
    assert (await client.get("/metrics")).status_code == 401


async def test_what_cannot_be_known_is_left_out_and_the_rest_is_served(world: World) -> None:
    async def figures() -> Figures:
        return replace(
            await world.services.metrics(),
            store=None,
            uplink_up=None,
            disk={},
            readings_per_s=None,
            ledger_adds_up=None,
        )

    async with world.client(world.app(metrics=figures)) as client:
        found = await scrape(client)
    assert found["iiot_store_available"] == 0
    assert found["iiot_mqtt_connections"] == 3
    missing = {"iiot_readings_received_total", "iiot_dead_letters", "iiot_uplink_up", "iiot_disk_free_bytes"}
    missing |= {"iiot_readings_received_per_second", "iiot_ledger_adds_up"}
    assert not missing & found.keys()


async def test_two_applications_do_not_share_a_registry(world: World) -> None:
    first, second = world.app(), world.app()
    async with world.client(first) as one, world.client(second) as other:
        assert (await scrape(one)).keys() == (await scrape(other)).keys()


async def cheapest_scrape_s(client: httpx.AsyncClient) -> float:
    """CPU seconds of the cheapest of twenty: other work on the machine must not decide."""
    costs_s = []
    for _ in range(20):
        start_s = time.process_time()
        await client.get("/metrics", headers=AUTHORIZED)
        costs_s.append(time.process_time() - start_s)
    return min(costs_s)


async def test_a_scrape_costs_the_same_at_five_thousand_devices(world: World, client: httpx.AsyncClient) -> None:
    few = await scrape(client)
    few_s = await cheapest_scrape_s(client)

    def many(connection: Any) -> None:
        for number in range(5000):
            count_readings(connection, f"press-{number:04}", received=2, stored=1)

    await world.database.run(many)
    found = await scrape(client)
    assert found["iiot_readings_received_total"] == 10_000
    assert found.keys() == few.keys()
    assert await cheapest_scrape_s(client) < 3 * few_s


async def test_the_readme_lists_every_metric_with_its_type(client: httpx.AsyncClient) -> None:
    text = (await client.get("/metrics", headers=AUTHORIZED)).text
    served = dict(re.findall(r"^# TYPE (iiot_\w+) (\w+)$", text, re.MULTILINE))
    readme = (ROOT / "README.md").read_text()
    assert dict(re.findall(r"^\| `(iiot_\w+)` \| (\w+) \| \S", readme, re.MULTILINE)) == served
    for name in re.findall(r"^# TYPE (process_\w+)", text, re.MULTILINE):
        assert f"`{name}`" in readme


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
async def test_promtool_finds_nothing_to_complain_of(world: World, client: httpx.AsyncClient) -> None:
    await fill(world)
    text = (await client.get("/metrics", headers=AUTHORIZED)).content
    pipe = asyncio.subprocess.PIPE
    promtool = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    complaints, _ = await asyncio.wait_for(promtool.communicate(text), 30)
    assert (promtool.returncode, complaints) == (0, b"")
