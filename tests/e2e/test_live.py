"""A reading taken after Odoo's return is in Odoo within 2 s, while 100,000 that had piled up drain behind it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from tests.bench.devices import device_names, pair_devices
from tests.bench.start import DEVICES, fill
from tests.e2e.devices import RecordingDevice
from tests.e2e.harness import Appliance, OdooStandIn

WAITING = 100_000
WITHIN_S = 2.0
POLL_S = 0.05


async def test_a_reading_is_in_odoo_within_two_seconds_while_a_hundred_thousand_drain(tmp_path: Path) -> None:
    odoo = OdooStandIn(tmp_path / "odoo")
    appliance = Appliance(tmp_path, environment=odoo.settings)
    await fill(appliance.data_folder, WAITING)
    (paired,) = (await pair_devices(appliance.data_folder, device_names(DEVICES + 1)))[-1:]
    device = RecordingDevice(paired, port=appliance.mqtt_port)
    async with odoo:
        await odoo.know(DEVICES + 1)
        await odoo.stop()
        async with appliance, asyncio.TaskGroup() as tasks:
            running = tasks.create_task(device.run())
            await asyncio.wait_for(device.connected.wait(), 20)
            await odoo.start()
            while not await telemetry(odoo):
                await asyncio.sleep(POLL_S)
            waits, lanes, left = await publish_while_it_drains(odoo, device)
            running.cancel()
    assert len(waits) >= 10, "the backlog had drained before anything could be measured"
    assert left > WAITING // 20, "the last reading was measured when hardly anything waited any more"
    assert max(waits) < WITHIN_S
    assert set(lanes) == {"live"}


async def publish_while_it_drains(odoo: OdooStandIn, device: RecordingDevice) -> tuple[list[float], list[str], int]:
    """A reading, and when it is in Odoo the next, until most is drained; how long each took, its lane, what is left."""
    waits: list[float] = []
    lanes: list[str] = []
    position, left = 0, WAITING
    async with odoo.client(timeout=60) as client:
        while (now_left := WAITING - await telemetry(odoo)) > WAITING // 10:
            left = now_left
            sent_at = time.monotonic()
            device.publish()
            while True:
                query = {"kind": "telemetry", "device": device.paired.device_id, "after": str(position)}
                lines = (await client.get("/sim/effects", params=query)).text.splitlines()
                if lines:
                    break
                assert time.monotonic() - sent_at < 10 * WITHIN_S, "it never comes"
                await asyncio.sleep(POLL_S)
            waits.append(time.monotonic() - sent_at)
            effect = json.loads(lines[-1])
            position = effect["id"]
            lanes.append(effect["lane"])
    return waits, lanes, left


async def telemetry(odoo: OdooStandIn) -> int:
    return int((await odoo.state())["messages"].get("telemetry", 0))
