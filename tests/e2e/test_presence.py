"""Presence and clocks of a whole appliance: what Odoo hears, what a restart leaves, and who checks the clock."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.broker import frames
from appliance.services.gateway_clock import kernel_is_synchronised
from tests.bench.devices import PairedDevice, pair_devices
from tests.broker.rig import Client, connect, subscribe
from tests.e2e.harness import Appliance, OdooStandIn

FAR_AHEAD_MS = 4_000_000_000_000  # in 2096


async def login(appliance: Appliance, paired: PairedDevice) -> Client:
    client = Client(*await asyncio.open_connection(appliance.host, appliance.mqtt_port))
    name = paired.device_id
    client.send(connect(name, name, paired.password.encode()))
    assert (await client.packet())[0] == frames.CONNACK
    return client


async def close(*clients: Client) -> None:
    for client in clients:
        client.close()
        with suppress(OSError):
            await client.writer.wait_closed()


async def connection(appliance: Appliance, device_id: str) -> dict[str, Any]:
    async with appliance.client() as client:
        answer = await client.get(f"/api/v1/device/{device_id}/status")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["connection"]
        return found


async def heard(odoo: OdooStandIn, device_id: str, status: str) -> dict[str, Any]:
    """The first presence message of this device with this status, as soon as Odoo has it."""
    async with asyncio.timeout(30):
        while True:
            async for effect in odoo.arrived("presence", payload=True):
                payload: dict[str, Any] = effect["payload"]
                if effect["device"] == device_id and payload["status"] == status:
                    return payload
            await asyncio.sleep(0.1)


async def test_odoo_hears_who_comes_and_a_killed_appliance_says_since_when_everybody_is_away(tmp_path: Path) -> None:
    odoo = OdooStandIn(tmp_path / "odoo")
    async with odoo:
        await odoo.know(2)
        appliance = Appliance(tmp_path, environment=odoo.settings)
        back, away = await pair_devices(appliance.data_folder, ["press-001", "press-002"])
        async with appliance, asyncio.timeout(90):
            clients = [await login(appliance, each) for each in (back, away)]
            told = await heard(odoo, "press-001", "online")
            assert (told["reconnects"], told["address"]) == (0, "127.0.0.1")
            assert (await connection(appliance, "press-002"))["status"] == "online"
            appliance.kill()
            await appliance.start()
            clients.append(await login(appliance, back))
            gone = await connection(appliance, "press-002")
            assert (gone["status"], gone["reason_code"]) == ("offline", "appliance_restarted")
            assert gone["since"] > told["since"]
            assert gone["for_s"] < 60
            assert gone["last_seen"] < gone["since"]
            assert (await connection(appliance, "press-001"))["status"] == "online"
            await appliance.stop()
            await appliance.start()
            assert (await connection(appliance, "press-001"))["reason_code"] == "appliance_restarted"
            assert (await connection(appliance, "press-002"))["since"] == gone["since"]
            await close(*clients)


@pytest.mark.skipif(kernel_is_synchronised(), reason="a time service keeps this machine's clock, so it is believed")
async def test_a_clock_that_seems_to_run_behind_is_doubted_until_odoo_agrees_with_it(tmp_path: Path) -> None:
    odoo = OdooStandIn(tmp_path / "odoo")
    appliance = Appliance(tmp_path, environment=odoo.settings)
    [paired] = await pair_devices(appliance.data_folder, ["press-001"])
    with sqlite3.connect(appliance.data_folder / "appliance.db") as database:
        database.execute("INSERT INTO meta (key, value) VALUES ('newest_time_ms', ?)", [FAR_AHEAD_MS])
    database.close()

    async def health() -> dict[str, Any]:
        async with appliance.client() as client:
            answer: dict[str, Any] = (await client.get("/health")).json()
            return answer

    async with appliance, asyncio.timeout(90):
        doubted = await health()
        assert doubted["clock"]["plausible"] is False
        assert any("the clock of the appliance is wrong" in reason for reason in doubted["reasons"])
        client = await login(appliance, paired)
        publish = frames.publish(paired.topics.telemetry, b'{"t": 1}', qos=1, packet_id=1)
        client.send(publish)
        assert (await client.packet())[0] == frames.PUBACK
        async with odoo:
            await odoo.know(1)
            while not (await health())["clock"]["plausible"]:
                await asyncio.sleep(0.2)
            client.send(publish, subscribe(2, "#"))
            assert (await client.packet())[0] in (frames.PUBACK, frames.SUBACK)
        await close(client)
    with sqlite3.connect(appliance.data_folder / "appliance.db") as database:
        flags = [flag for (flag,) in database.execute("SELECT flags FROM messages WHERE kind = 1 ORDER BY seq")]
    database.close()
    assert flags == [16, 0]
