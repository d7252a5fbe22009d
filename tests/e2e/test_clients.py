"""Clients that the project's own documents name, against the appliance as a process, over TLS.

The README's examples (curl, mosquitto-clients, paho) are run in ``test_readme.py``; here are the simulated device and
fleet, which are paho too, and an installer who tries the connection.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from firmware_sim import trust
from firmware_sim.demo.verdict import Comparison, compare
from firmware_sim.record import FleetRecord, read_record
from tests.e2e.harness import Appliance, OdooStandIn, clean_environment

WITHIN_S = 40
VIEWER = {"MQTT_BROKER_USERNAME": "scada", "MQTT_BROKER_PASSWORD": "a-viewers-password"}
needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_sub") is None or shutil.which("mosquitto_pub") is None, reason="needs mosquitto-clients"
)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[tuple[OdooStandIn, Appliance]]:
    async with OdooStandIn(tmp_path / "odoo") as odoo:
        environment = {**odoo.settings, **VIEWER, "IIOT_ADVERTISED_HOST": "127.0.0.1"}
        async with Appliance(tmp_path / "box", environment=environment) as box:
            yield odoo, box


@asynccontextmanager
async def started(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command, env=clean_environment({}), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def simulator(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "firmware_sim", *arguments)


async def says(process: asyncio.subprocess.Process, text: str) -> list[str]:
    """Read its lines up to the one that holds the text."""
    assert process.stdout is not None
    lines = []
    while line := (await process.stdout.readline()).decode():
        lines.append(line)
        if text in line:
            return lines
    assert process.stderr is not None
    raise AssertionError("".join(lines) + (await process.stderr.read()).decode())


async def label(odoo: OdooStandIn) -> tuple[str, str]:
    async with odoo.client() as client:
        answer = await client.post("/sim/devices", json={"device_id": "press-07", "serial": "SN-1001"})
        one = answer.raise_for_status().json()["devices"][0]
    return one["serial"], one["token"]


async def test_a_device_that_knows_a_fingerprint_pairs_publishes_and_stays_paired(
    stack: tuple[OdooStandIn, Appliance], tmp_path: Path
) -> None:
    odoo, box = stack
    serial, token = await label(odoo)
    async with box.client() as client:
        fingerprint = trust.fingerprint((await client.get("/ca.pem")).text)  # as the label would show it
    common = simulator(
        *("device", "--serial", serial, "--port", str(box.mqtt_tls_port), "--interval", "0.1"),
        *("--api", box.url, "--store", str(tmp_path / "flash.json"), "--fingerprint"),
    )
    async with started(*common, fingerprint, "--token", token) as device:
        assert any("paired as press-07" in line for line in await says(device, "connected"))
        while (await odoo.state())["messages"].get("telemetry", 0) < 3:
            await asyncio.sleep(0.05)
        device.send_signal(signal.SIGINT)
        assert await device.wait() == 0
    async with started(*common, fingerprint) as again:
        assert not any("paired" in line for line in await says(again, "connected"))
        before = (await odoo.state())["messages"]["telemetry"]
        while (await odoo.state())["messages"]["telemetry"] <= before:
            await asyncio.sleep(0.05)
    wrong = fingerprint[:-1] + ("0" if fingerprint[-1] != "0" else "1")
    async with started(*common, wrong, "--token", token) as refused:
        _, error = await refused.communicate()
        assert refused.returncode == 2
        assert b"not the one on the label" in error


async def test_a_used_token_is_told_to_whoever_holds_the_device(stack: tuple[OdooStandIn, Appliance]) -> None:
    odoo, box = stack
    serial, token = await label(odoo)
    common = simulator("device", "--serial", serial, "--token", token, "--port", str(box.mqtt_port), "--plain")
    async with started(*common) as first:
        await says(first, "connected")
    async with started(*common) as second:
        assert "token_used" in (await says(second, "refused"))[-1]
        assert await second.wait() == 1


async def test_a_fleet_whose_appliance_is_killed_finds_everything_in_odoo(
    stack: tuple[OdooStandIn, Appliance], tmp_path: Path
) -> None:
    odoo, box = stack
    async with odoo.client() as client:
        answer = await client.post("/sim/devices", json={"count": 10, "prefix": "press"})
        (tmp_path / "devices.json").write_text(answer.text)
    ca = box.data_folder / "ca.pem"
    async with box.client() as client:
        ca.write_text((await client.get("/ca.pem")).text)
    options = ("--rate", "200", "--window", "20", "--duration", "4", "--longest-backoff", "0.5")
    files = ("--devices", str(tmp_path / "devices.json"), "--record", str(tmp_path / "record"), "--ca", str(ca))
    async with started(*simulator("fleet", *files, "--port", str(box.mqtt_tls_port), *options)) as fleet:
        while json.loads((await says(fleet, "acknowledged"))[-1])["acknowledged"] < 200:
            pass
        box.kill()
        await box.start()
        assert fleet.stdout is not None
        reports = [json.loads(line) async for line in fleet.stdout]
        assert await fleet.wait() == 0
    assert reports[-1]["connections_lost"] >= 20  # ten by the kill, ten at the end
    record = read_record(tmp_path / "record")
    assert len(record.published) == len(record.acknowledged) > 600
    async with asyncio.timeout(WITHIN_S):
        while (found := await in_odoo(odoo, record)).in_odoo < len(record.acknowledged):
            await asyncio.sleep(0.1)
    assert found == Comparison(in_odoo=len(record.published), lost=0, duplicates=0)


async def in_odoo(odoo: OdooStandIn, record: FleetRecord) -> Comparison:
    return compare(record, [(effect["device"], effect["msg_id"]) async for effect in odoo.arrived("telemetry")])


@needs_mosquitto
async def test_an_installer_tries_the_connection_with_the_viewer_account(
    stack: tuple[OdooStandIn, Appliance], tmp_path: Path
) -> None:
    _, box = stack
    async with box.client() as client:
        (tmp_path / "ca.pem").write_text((await client.get("/ca.pem")).text)
    access = ("-V", "mqttv311", "-h", "127.0.0.1", "-p", str(box.mqtt_tls_port), "--cafile", str(tmp_path / "ca.pem"))
    viewer = ("-u", "scada", "-P", VIEWER["MQTT_BROKER_PASSWORD"], "-t", "test/topic")
    async with started("mosquitto_sub", *access, *viewer, "-C", "1") as subscriber:
        while subscriber.returncode is None:  # it sees what is published after it has subscribed
            async with started("mosquitto_pub", *access, *viewer, "-q", "1", "-m", "hello") as publisher:
                assert await publisher.wait() == 0
        assert subscriber.stdout is not None
        assert await subscriber.stdout.read() == b"hello\n"
    async with started("mosquitto_pub", *access, *viewer, "-P", "wrong", "-m", "hello") as refused:
        assert await refused.wait() != 0
