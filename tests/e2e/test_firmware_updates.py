"""Firmware from Odoo's hands into a device: Odoo (the stand-in), appliance and device are processes of their own, and
each of them may be killed on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import API_KEY, Appliance, OdooStandIn, Server

SIZE = 1_000_000
FINAL = {"installed", "failed", "rolled_back", "already_installed", "cancelled"}
STEPS = ["accepted", "downloading", "downloaded", "verified", "installing", "rebooting", "installed"]


class SimulatedDevice(Server):
    """``python -m firmware_sim device``: with its flash in a folder, so that it may be killed and started again."""

    def __init__(self, folder: Path, appliance: Appliance, serial: str, token: str, *options: str) -> None:
        self.flash = folder / "flash.json"
        arguments = ["--serial", serial, "--token", token, "--plain", "--port", str(appliance.mqtt_port)]
        timing = ["--boot", "0.1", "--confirm", "60", "--interval", "1"]
        super().__init__(
            "device",
            ["-m", "firmware_sim", "device", *arguments, *timing, "--store", str(self.flash), *options],
            folder=folder,
            environment={},
        )
        self._connections = 0

    def spawn(self) -> None:
        self._connections = self.log.count(" connected")
        super().spawn()

    async def is_ready(self) -> bool:
        """Whether it has connected since its start."""
        return self.log.count(" connected") > self._connections


class Plant:
    """One Odoo and one appliance; each test gets a device of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.odoo = OdooStandIn(folder / "odoo")
        self.appliance = Appliance(folder / "appliance", environment=self.odoo.settings)
        self._made = 0

    async def sim(self, method: str, path: str, body: Any = None) -> Any:
        async with self.odoo.client(timeout=30) as http:
            answer = await http.request(method, f"/sim/{path}", json=body)
            answer.raise_for_status()
            return answer.json() if answer.content else None

    async def device(self, *options: str) -> SimulatedDevice:
        """Known to Odoo, not started yet; ``name`` is its device id."""
        self._made += 1
        name = f"press-{self._made:03d}"
        (made,) = (await self.sim("POST", "devices", {"device_id": name}))["devices"]
        device = SimulatedDevice(self.folder / name, self.appliance, made["serial"], made["token"], *options)
        device.name = name
        return device

    async def order(self, device: SimulatedDevice, **order: Any) -> str:
        """An update of this device; its id."""
        sent = await self.sim("POST", "updates", {"device_id": device.name, **order})
        assert sent["problem"] is None, sent
        return str(sent["update_id"])

    async def firmware(self, version: str, *, size: int = SIZE, **more: Any) -> int:
        return int((await self.sim("POST", "firmware", {"version": version, "size": size, **more}))["id"])

    async def until(self, update_id: str, *states: str, within_s: float = 60) -> dict[str, Any]:
        """The update as Odoo sees it, once it is in one of these states."""
        async with asyncio.timeout(within_s):
            while True:
                update: dict[str, Any] = await self.sim("GET", f"updates/{update_id}")
                if update["state"] in states:
                    return update
                assert update["state"] not in FINAL, update
                await asyncio.sleep(0.05)


def said_by_the_device(update: dict[str, Any]) -> list[str]:
    """States in their order, without repeats; what the appliance adds has a ``source``."""
    states = [entry["state"] for entry in update["history"] if entry.get("source") is None]
    return [state for index, state in enumerate(states) if state not in states[:index]]


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    one = Plant(tmp_path)
    async with one.odoo, one.appliance:
        await one.sim("PUT", "appliance", {"url": one.appliance.url, "api_key": API_KEY})
        await one.sim("PUT", "gateways", {"interval_s": 1})
        yield one


async def test_firmware_goes_from_odoo_into_a_device_and_back_again(plant: Plant) -> None:
    first = await plant.firmware("2.0.0")
    async with await plant.device() as device:
        update = await plant.until(await plant.order(device, firmware=first), "installed")
        assert said_by_the_device(update) == STEPS
        assert update["history"][-1]["version"] == "2.0.0"
        again = await plant.until(await plant.order(device, firmware=first), "already_installed")
        assert said_by_the_device(again) == ["already_installed"]
        back = await plant.until(await plant.order(device, action="rollback"), "rolled_back")
        assert back["history"][-1]["version"] == "1.0.0"
        await device.stop()
        await device.start()
        assert "firmware 1.0.0 runs" in device.log.splitlines()[-2]
        # several devices, one download
        async with await plant.device() as other:
            await plant.until(await plant.order(other, firmware=first), "installed")
    assert (await plant.odoo.state())["requests"]["firmware"] == 1


async def test_an_update_that_odoo_could_not_push_comes_with_the_next_sync(plant: Plant) -> None:
    async with await plant.device() as device:
        update_id = await plant.order(device, firmware=await plant.firmware("2.0.0"), push=False)
        await plant.until(update_id, "installed")


async def test_a_device_that_is_away_gets_its_update_when_it_comes_back(plant: Plant) -> None:
    device = await plant.device()
    async with device:
        await device.stop()
        update_id = await plant.order(device, firmware=await plant.firmware("2.0.0"))
        await plant.until(update_id, "queued")
        await device.start()
        await plant.until(update_id, "installed")


async def test_bad_firmware_rolls_back_by_itself_and_odoo_is_told(plant: Plant) -> None:
    async with await plant.device() as device:
        bad = await plant.until(
            await plant.order(device, firmware=await plant.firmware("2.0.0", bad="boot")), "rolled_back"
        )
        assert bad["history"][-1]["version"] == "1.0.0"
        await plant.until(await plant.order(device, firmware=await plant.firmware("2.0.1")), "installed")


async def test_a_file_with_another_hash_never_reaches_a_device(plant: Plant) -> None:
    file = await plant.firmware("2.0.0")
    async with await plant.device() as device:
        wrong = await plant.order(device, firmware=file, params={"sha256": "0" * 64})
        update = await plant.until(wrong, "failed")
        assert update["history"][-1]["reason"] == "fetch"
        assert said_by_the_device(update) == []
        assert "update" not in device.log


async def test_an_update_is_taken_back_while_it_is_downloaded(plant: Plant) -> None:
    file = await plant.firmware("2.0.0")
    async with await plant.device("--bandwidth", "100") as device:
        update_id = await plant.order(device, firmware=file)
        await plant.until(update_id, "downloading")
        await plant.sim(
            "POST", "updates", {"device_id": device.name, "action": "cancel_update", "update_id": update_id}
        )
        update = await plant.until(update_id, "cancelled")
        assert "verified" not in said_by_the_device(update)
        assert not list(device.flash.parent.glob("**/download.part"))


@pytest.mark.parametrize("victim", ["device", "appliance", "odoo"])
async def test_a_kill_in_the_middle_of_a_download_only_delays_the_update(plant: Plant, victim: str) -> None:
    file = await plant.firmware("2.0.0")
    async with await plant.device("--bandwidth", "200") as device:
        update_id = await plant.order(device, firmware=file)
        await plant.until(update_id, "downloading")
        server = {"device": device, "appliance": plant.appliance, "odoo": plant.odoo}[victim]
        (part,) = device.flash.parent.glob("**/download.part")
        while not (had := part.stat().st_size):
            await asyncio.sleep(0.01)
        server.kill()
        assert had < SIZE
        await asyncio.sleep(0.2)
        await server.start()
        update = await plant.until(update_id, "installed")
        assert said_by_the_device(update) == STEPS
        progress = [entry.get("progress") or 0 for entry in update["history"] if entry["state"] == "downloading"]
        assert progress == sorted(progress), "the download began anew"
    assert (await plant.odoo.state())["requests"]["firmware"] == (0 if victim == "odoo" else 1)


async def test_kills_at_any_moment_leave_a_device_with_the_new_firmware_and_odoo_informed(plant: Plant) -> None:
    """The device is killed again and again, wherever it happens to be."""
    file = await plant.firmware("2.0.0", size=300_000)
    device = await plant.device("--bandwidth", "300")
    try:
        await device.start()
        update_id = await plant.order(device, firmware=file)
        for pause_s in (0.05, 0.3, 0.9, 0.15, 0.5):
            await asyncio.sleep(pause_s)
            device.kill()
            await device.start()
        update = await plant.until(update_id, "installed")
        assert update["history"][-1]["version"] == "2.0.0"
    finally:
        device.kill()
