"""The end of the process: SIGTERM at any moment, under load and with half-open connections."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from appliance.contract.odoo import Kind
from appliance.store.buffer import Buffer, Rejection
from appliance.store.database import Database
from tests.bench.devices import device_names, pair_devices
from tests.e2e.devices import RecordingDevice
from tests.e2e.harness import Appliance, Server

DEVICES = 10
MANY = 10_000
"""Dead letters: what the appliance can change within some seconds."""
AT_LEAST = 200
"""Acknowledgements before the signal."""


async def ended(server: Server) -> int:
    """The exit status, within the ten seconds that are promised."""
    assert server._process is not None
    return await asyncio.to_thread(server._process.wait, 10)


async def test_a_stop_under_load_is_orderly_and_what_was_acknowledged_is_on_disk(tmp_path: Path) -> None:
    appliance = Appliance(tmp_path)
    appliance.data_folder.mkdir(mode=0o700)
    paired = await pair_devices(appliance.data_folder, device_names(DEVICES))
    devices = [RecordingDevice(each, port=appliance.mqtt_port) for each in paired]
    async with appliance, asyncio.timeout(60), AsyncExitStack() as stack:
        for port in (appliance.mqtt_port, appliance.mqtt_tls_port, appliance.http_port):
            for _ in range(20):
                stack.enter_context(socket.create_connection((appliance.host, port)))
        running = [asyncio.create_task(device.run()) for device in devices]
        for device in devices:
            device.set_full_speed(True)
        while sum(len(device.acknowledged) for device in devices) < AT_LEAST:
            await asyncio.sleep(0.01)
        for _ in range(3):  # who is impatient sends it again
            appliance._process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        assert await ended(appliance) == 0
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert "Traceback" not in appliance.log
    assert " ERROR " not in appliance.log
    with sqlite3.connect(appliance.data_folder / "appliance.db") as database:
        rows = database.execute("SELECT payload ->> 'msg_id' FROM messages")
        stored = {msg_id for (msg_id,) in rows.fetchall()}
    database.close()
    acknowledged = {msg_id for device in devices for msg_id in device.readings_acknowledged()}
    assert len(acknowledged) >= AT_LEAST
    assert acknowledged <= stored


@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.5, 0.6])
async def test_a_stop_while_it_starts_leaves_a_folder_that_starts_again(tmp_path: Path, after_s: float) -> None:
    appliance = Appliance(tmp_path)
    appliance.spawn()
    await asyncio.sleep(after_s)  # the moment is what is tested, and there is nothing to wait for
    appliance._process.terminate()  # type: ignore[union-attr]
    assert await ended(appliance) in (0, -signal.SIGTERM)
    assert "Traceback" not in appliance.log
    async with appliance:
        assert await appliance.stop(timeout_s=10) == 0


async def test_a_request_for_many_is_answered_when_the_appliance_stops_meanwhile(tmp_path: Path) -> None:
    appliance = Appliance(tmp_path)
    database = await Database.open(appliance.data_folder)
    buffer = Buffer(database)
    await buffer.load()
    for number in range(MANY):
        buffer.append("press-07", Kind.TELEMETRY, b"%d" % number, received_at_ms=1_700_000_000_000)
    await buffer.settle([], [Rejection(seq, "no_rule", "no rule takes it") for seq in range(1, MANY + 1)])
    await database.close()
    letters = "/api/v1/dead-letters"
    async with appliance, appliance.client(timeout=20) as client, asyncio.timeout(60):
        retrying = asyncio.create_task(client.post(f"{letters}/retry", json={"all": True, "limit": MANY}))
        while (await client.get(letters, params={"limit": 1})).json()["rows"] == MANY:
            pass
        appliance._process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        answer = await retrying
        assert answer.status_code == 200
        assert answer.json()["next"] is not None, "it was to be interrupted"
        assert await ended(appliance) == 0
        retried = answer.json()["retried"]
        await appliance.start()
        assert (await client.get(letters, params={"limit": 1})).json()["rows"] == MANY - retried
        ledger = (await client.get("/api/v1/ledger")).json()
        assert (ledger["adds_up"], ledger["total"]["waiting"]) == (True, retried)
    assert " ERROR " not in appliance.log
