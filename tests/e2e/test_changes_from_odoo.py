"""What is changed in Odoo reaches a connected device by itself, through ``sync`` and the appliance."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from appliance.broker import frames
from tests.broker.rig import Client, connect, puback, subscribe
from tests.e2e.harness import Appliance, OdooStandIn

WITHIN_S = 30.0


async def next_answer(client: Client) -> dict[str, Any]:
    """The configuration that comes next, acknowledged."""
    first = (await asyncio.wait_for(client.reader.readexactly(1), WITHIN_S))[0]
    assert first & 0xF0 == frames.PUBLISH
    length, shift = 0, 0
    while True:
        digit = (await client.reader.readexactly(1))[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            break
    body = await client.reader.readexactly(length)
    size = int.from_bytes(body[:2], "big")
    client.send(puback(int.from_bytes(body[2 + size : 4 + size], "big")))
    found: dict[str, Any] = json.loads(body[4 + size :])
    return found


@asynccontextmanager
async def login(box: Appliance, password: str, answer: int = frames.ACCEPTED) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection(box.host, box.mqtt_port))
    try:
        client.send(connect("press-07", "press-07", password.encode()))
        assert await client.packet() == (frames.CONNACK, bytes([0, answer]))
        yield client
    finally:
        client.close()
        with suppress(OSError):
            await client.writer.wait_closed()


async def test_a_change_and_a_new_secret_reach_the_device_and_the_end_of_its_pairing_shuts_it_out(
    tmp_path: Path,
) -> None:
    odoo = OdooStandIn(tmp_path / "odoo")
    box = Appliance(tmp_path / "box", environment=odoo.settings)
    async with odoo, box, odoo.client() as office, httpx.AsyncClient(base_url=box.url) as http:
        made = await office.post("/sim/devices", json={"device_id": "press-07", "serial": "SN-1001"})
        token = made.raise_for_status().json()["devices"][0]["token"]
        asked = {"serial": "SN-1001", "token": token}
        paired = (await http.post("/api/v1/config/download", json=asked)).raise_for_status().json()
        async with login(box, paired["mqtt"]["password"]) as client:
            client.send(subscribe(1, paired["topics"]["config_response"]))
            assert await client.packet() == (frames.SUBACK, b"\x00\x01\x01")
            order = {"settings": {"telemetry_interval_s": 2}, "rotate": True}
            (await office.patch("/sim/devices/press-07", json=order)).raise_for_status()
            told = await next_answer(client)
            assert told["settings"] == {"telemetry_interval_s": 2}
            assert told["config_version"] > paired["config_version"]
            assert told["mqtt"]["password"] != paired["mqtt"]["password"]
        async with login(box, told["mqtt"]["password"]) as client:
            client.send(subscribe(1, told["topics"]["config_response"]))
            assert await client.packet() == (frames.SUBACK, b"\x00\x01\x01")
            assert await client.silent()
            (await office.delete("/sim/devices/press-07/pairing")).raise_for_status()
            assert await asyncio.wait_for(client.reader.read(), WITHIN_S) == b""
        async with login(box, told["mqtt"]["password"], frames.BAD_CREDENTIALS):
            pass
