"""``kill -9`` at random moments under load: what was acknowledged is in Odoo, once, and commands are not forgotten.

``KILLS`` (10) and ``LOAD_S`` (0.4: the longest time under load before a kill) in the environment make it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

import httpx

from tests.bench.devices import device_names, pair_devices
from tests.e2e.devices import RecordingDevice
from tests.e2e.harness import Appliance, OdooStandIn

KILLS = int(os.environ.get("KILLS", "10"))
LOAD_S = float(os.environ.get("LOAD_S", "0.4"))
DEVICES = 50
AWAY = 5
"""Further devices that are switched off until the last kill is over."""
FINAL = {"done", "failed", "expired", "cancelled"}


class Orders:
    """Commands sent through the API, each with an id of its own, repeated until the appliance has taken it."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self.expires_at: dict[str, float] = {}
        self.once: set[str] = set()

    async def send(self, device_id: str, *, expires_in_s: float = 60, once: bool = False) -> str:
        """Returns when the appliance has promised to care for it; that may take a restart."""
        command_id = str(uuid4())
        body = {
            "device_id": device_id,
            "action": "reset",
            "command_id": command_id,
            "expires_in_s": expires_in_s,
            "deliver": "at_most_once" if once else "at_least_once",
        }
        if once:
            self.once.add(command_id)
        async with self._appliance.client() as client:
            while True:
                try:
                    answer = await client.post("/api/v1/command/send", json=body)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                assert answer.status_code == 202, answer.text
                self.expires_at[command_id] = time.time() + expires_in_s
                return command_id

    async def state(self, client: httpx.AsyncClient, command_id: str) -> str:
        """How far it is."""
        answer = await client.get(f"/api/v1/command/{command_id}")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["state"])


async def test_kill_9_loses_no_acknowledged_reading_doubles_none_and_forgets_no_command(tmp_path: Path) -> None:
    odoo = OdooStandIn(tmp_path / "odoo")
    async with odoo:
        await odoo.know(DEVICES + AWAY)
        appliance = Appliance(tmp_path, environment=odoo.settings)
        paired = await pair_devices(appliance.data_folder, device_names(DEVICES + AWAY))
        devices = [RecordingDevice(device, port=appliance.mqtt_port) for device in paired]
        here, away = devices[:DEVICES], devices[DEVICES:]
        orders = Orders(appliance)
        async with appliance, asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(device.run(), name=device.paired.device_id) for device in here]
            for device in here:
                device.set_full_speed(True)
            long, short = await _kill_often(appliance, here, away, orders, tasks)
            for device in here:
                device.set_full_speed(False)
            running += [tasks.create_task(device.run(), name=device.paired.device_id) for device in away]
            await asyncio.wait_for(asyncio.gather(*(device.idle.wait() for device in devices)), 20)
            states = await _final_states(appliance, orders)
            await _check_readings(odoo, devices)
            await _check_odoo_follows(odoo, states)
            for task in running:
                task.cancel()
    _check_commands(devices, orders, states, long, short)


async def _kill_often(
    appliance: Appliance,
    here: list[RecordingDevice],
    away: list[RecordingDevice],
    orders: Orders,
    tasks: asyncio.TaskGroup,
) -> tuple[list[str], list[str]]:
    """Load, commands, kill, restart; returns the ids of commands for devices that are away: long- and short-lived."""
    long, short = [], []
    for number in range(KILLS):
        await asyncio.wait_for(asyncio.gather(*(device.connected.wait() for device in here)), 20)
        target = random.choice(here).paired.device_id
        sending = [
            tasks.create_task(orders.send(target), name="command"),
            tasks.create_task(orders.send(random.choice(here).paired.device_id, once=True), name="command once"),
            tasks.create_task(orders.send(random.choice(away).paired.device_id, expires_in_s=600), name="long command"),
            tasks.create_task(orders.send(random.choice(away).paired.device_id, expires_in_s=1), name="short command"),
        ]
        await asyncio.sleep(random.uniform(0, LOAD_S))
        cut_off = sum(device.unacknowledged for device in here)
        appliance.kill()
        assert cut_off > DEVICES, "hardly anything was in flight"
        if number % 4 == 3:  # now and then it does not even get as far as being ready
            appliance.spawn()
            await asyncio.sleep(random.uniform(0, 0.6))
            appliance.kill()
        await appliance.start()
        _, _, kept, brief = await asyncio.gather(*sending)
        long.append(kept)
        short.append(brief)
    return long, short


async def _final_states(appliance: Appliance, orders: Orders) -> dict[str, str]:
    """Each command's state once none can change any more."""
    end = time.monotonic() + 30
    async with appliance.client() as client:
        while True:
            states = {command_id: await orders.state(client, command_id) for command_id in orders.expires_at}
            if FINAL.issuperset(states.values()):
                return states
            assert time.monotonic() < end, f"commands still open: {Counter(states.values())}"
            await asyncio.sleep(0.1)


async def _check_readings(odoo: OdooStandIn, devices: list[RecordingDevice]) -> None:
    """Everything published is acknowledged by now, so all of it must arrive, and nothing twice."""
    expected = set[str]().union(*(device.readings_acknowledged() for device in devices))
    assert len(expected) == sum(device.published for device in devices)
    assert len(expected) > 1000, "that was no load"
    counts: Counter[str] = Counter()
    position, end = 0, time.monotonic() + 60
    while counts.keys() < expected and time.monotonic() < end:
        async for effect in odoo.arrived("telemetry", after=position):
            counts[effect["msg_id"]] += 1
            position = effect["id"]
        await asyncio.sleep(0.1)
    missing = expected - counts.keys()
    assert not missing, f"{len(missing)} of {len(expected)} acknowledged readings are missing: {sorted(missing)[:5]}"
    assert counts.keys() == expected
    twice = [msg_id for msg_id, count in counts.items() if count > 1]
    assert not twice, f"{len(twice)} readings took effect more than once: {twice[:5]}"


async def _check_odoo_follows(odoo: OdooStandIn, states: dict[str, str]) -> None:
    """Odoo has heard how each command ended."""
    end = time.monotonic() + 10
    async with odoo.client() as client:
        while True:
            commands = (await client.get("/sim/commands")).json()["commands"]
            told = {command["command_id"]: command["state"] for command in commands}
            if told == states:
                return
            assert time.monotonic() < end, f"Odoo believes {Counter(told.values())}, it is {Counter(states.values())}"
            await asyncio.sleep(0.1)


def _check_commands(
    devices: list[RecordingDevice], orders: Orders, states: dict[str, str], long: list[str], short: list[str]
) -> None:
    received: dict[str, list[float]] = {}
    for device in devices:
        for command in device.commands:
            received.setdefault(command.command_id, []).append(command.at)
    for command_id, state in states.items():
        times = received.get(command_id, [])
        late = [at - orders.expires_at[command_id] for at in times if at > orders.expires_at[command_id] + 1]
        assert not late, f"a command reached its device {late} s after it had expired"
        if state == "done":
            assert times, "a command is done that never reached its device"
        if command_id in orders.once:
            assert len(times) <= 1, "a command that was to go out once went out again"
    assert {states[command_id] for command_id in long} == {"done"}
    assert {states[command_id] for command_id in short} <= {"expired", "done"}
    assert "expired" in {states[command_id] for command_id in short}
    ordinary = states.keys() - orders.once - {*long, *short}
    assert ordinary
    assert {states[command_id] for command_id in ordinary} <= {"done", "failed"}
