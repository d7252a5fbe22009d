"""A firmware update from the order to the report, with a real MQTT client, over real connections."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
import pytest

from tests.e2e.harness import Appliance, OdooStandIn
from tests.e2e.test_clients import says, simulator, started
from tests.services.file_server import FileServer

WITHIN_S = 30
CONTENT = random.Random(3).randbytes(1_500_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class PahoDevice:
    """A paired device: what reaches it on its ``ota_notify`` topic is put into ``offers``."""

    def __init__(self, box: Appliance, config: dict[str, Any], *, ack: bool = True) -> None:
        self.offers: asyncio.Queue[tuple[dict[str, Any], bool]] = asyncio.Queue()
        self.subscribed = asyncio.Event()
        self._topics = config["topics"]
        self._box = box
        loop = asyncio.get_running_loop()
        login = config["mqtt"]
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=login["client_id"], clean_session=False, manual_ack=not ack
        )
        self._client.username_pw_set(login["username"], login["password"])
        self._client.on_connect = lambda client, *_: client.subscribe(self._topics["ota_notify"], qos=1)
        self._client.on_subscribe = lambda *_: loop.call_soon_threadsafe(self.subscribed.set)

        def received(_: object, __: object, message: paho.MQTTMessage) -> None:
            loop.call_soon_threadsafe(self.offers.put_nowait, (json.loads(message.payload), message.dup))

        self._client.on_message = received

    async def __aenter__(self) -> PahoDevice:
        self._client.connect_async(self._box.host, self._box.mqtt_port)
        self._client.loop_start()
        async with asyncio.timeout(WITHIN_S):
            await self.subscribed.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._client.disconnect)
        await asyncio.to_thread(self._client.loop_stop)

    async def offer(self) -> tuple[dict[str, Any], bool]:
        async with asyncio.timeout(WITHIN_S):
            return await self.offers.get()

    async def report(self, update_id: str, state: str, **more: Any) -> None:
        """Returns after the PUBACK: it is on the appliance's disk."""
        body = json.dumps({"update_id": update_id, "state": state, **more})
        info = self._client.publish(self._topics["ota_status"], body, qos=1)
        await asyncio.to_thread(info.wait_for_publish, WITHIN_S)
        assert info.is_published()


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    async with FileServer({"/fw.bin": CONTENT}) as server:
        yield server


@pytest.fixture
async def odoo(tmp_path: Path) -> AsyncIterator[OdooStandIn]:
    async with OdooStandIn(tmp_path / "odoo") as odoo:
        yield odoo


@pytest.fixture
async def box(tmp_path: Path, odoo: OdooStandIn) -> AsyncIterator[Appliance]:
    environment = {**odoo.settings, "IIOT_ADVERTISED_HOST": "127.0.0.1", "IIOT_FIRMWARE_HOSTS": "127.0.0.1"}
    async with Appliance(tmp_path / "box", environment=environment) as box:
        yield box


async def paired(odoo: OdooStandIn, box: Appliance) -> dict[str, Any]:
    async with odoo.client() as control, box.client() as api:
        made = await control.post("/sim/devices", json={"device_id": "press-07", "serial": "SN-1001"})
        label = made.raise_for_status().json()["devices"][0]
        body = {"serial": label["serial"], "token": label["token"]}
        answer = await api.post("/api/v1/config/download", json=body)
        config: dict[str, Any] = answer.raise_for_status().json()
        return config


def order(server: FileServer, update_id: str = "u-1", **params: Any) -> dict[str, Any]:
    known = {"url": f"{server.url}/fw.bin", "version": "2.1.0", "sha256": SHA256, "size": len(CONTENT)}
    return {"device_id": "press-07", "action": "start_update", "update_id": update_id, "params": known | params}


async def state(box: Appliance, update_id: str = "u-1") -> dict[str, Any]:
    async with box.client() as api:
        answer = await api.get(f"/api/v1/ota/{update_id}")
        status: dict[str, Any] = answer.raise_for_status().json()
        return status


async def until(condition: Callable[[dict[str, Any]], bool], box: Appliance, update_id: str = "u-1") -> dict[str, Any]:
    async with asyncio.timeout(WITHIN_S):
        while not condition(status := await state(box, update_id)):
            await asyncio.sleep(0.02)
    return status


async def told(odoo: OdooStandIn, update_id: str, last: str) -> list[tuple[str, bool]]:
    """What Odoo has heard of an update: the state, and whether it came from the device."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            bodies = [message["payload"] async for message in odoo.arrived("ota_status", payload=True)]
            heard = [(body["state"], "source" not in body) for body in bodies if body["update_id"] == update_id]
            if heard and heard[-1][0] == last:
                return heard
            await asyncio.sleep(0.05)


async def test_an_update_is_ordered_fetched_offered_downloaded_and_reported(
    odoo: OdooStandIn, box: Appliance, server: FileServer
) -> None:
    config = await paired(odoo, box)
    async with PahoDevice(box, config) as device, box.client() as api:
        answer = await api.post("/api/v1/ota/send", json=order(server))
        assert (answer.status_code, answer.json()) == (202, {"update_id": "u-1", "state": "fetching"})
        offer, repeated = await device.offer()
        assert not repeated
        assert offer["action"] == "start_update"
        assert offer["update_id"] == "u-1"
        params = offer["params"]
        assert (params["version"], params["size"], params["sha256"]) == ("2.1.0", len(CONTENT), SHA256)
        async with httpx.AsyncClient() as plain:  # a device has no key
            await device.report("u-1", "accepted")
            await device.report("u-1", "downloading", progress=0)
            half = await plain.get(params["url"], headers={"Range": "bytes=0-749999"})
            assert half.status_code == 206
            await device.report("u-1", "downloading", progress=50)
            rest = await plain.get(params["url"], headers={"Range": "bytes=750000-", "If-Range": half.headers["etag"]})
            assert half.content + rest.content == CONTENT
        summary = (await api.get("/api/v1/device/press-07/status")).json()["open_update"]
        assert (summary["update_id"], summary["state"], summary["progress"]) == ("u-1", "downloading", 50)
        assert summary["download"]["requests"] == 2
        assert summary["download"]["bytes_sent"] == len(CONTENT)
        for name in ("downloaded", "verified", "installing", "rebooting"):
            await device.report("u-1", name)
        await device.report("u-1", "installed", version="2.1.0")
        repeat = await api.post("/api/v1/ota/send", json=order(server))
        assert (repeat.status_code, repeat.json()) == (202, {"update_id": "u-1", "state": "fetching"})
        status = await state(box)
        assert (status["state"], status["settled"]) == ("installed", True)
        async with asyncio.timeout(WITHIN_S):
            while (await api.get("/api/v1/device/press-07/status")).json()["firmware_version"] != "2.1.0":
                await asyncio.sleep(0.02)
    ours = ["fetching", "queued", "offered", "delivered"]
    steps = ["accepted", "downloading", "downloading", "downloaded", "verified", "installing", "rebooting"]
    heard = await told(odoo, "u-1", "installed")
    assert [name for name, of_device in heard if not of_device] == ours
    assert [name for name, of_device in heard if of_device] == [*steps, "installed"]
    assert server.requests == [("GET", "/fw.bin", None)]


async def test_an_offer_that_is_not_acknowledged_comes_again_with_dup_and_after_a_kill(
    odoo: OdooStandIn, box: Appliance, server: FileServer
) -> None:
    config = await paired(odoo, box)
    async with box.client() as api:
        (await api.post("/api/v1/ota/send", json=order(server))).raise_for_status()
    await until(lambda status: status["state"] == "queued", box)
    async with PahoDevice(box, config, ack=False) as device:
        first, dup = await device.offer()
        assert not dup
    async with PahoDevice(box, config, ack=False) as device:
        second, dup = await device.offer()
        assert dup
        assert second == first
    box.kill()
    await box.start()
    assert (await state(box))["deliveries"] == 2
    async with PahoDevice(box, config) as device:
        third, _ = await device.offer()
        assert third == first
        await until(lambda status: status["state"] == "delivered", box)
        async with httpx.AsyncClient() as plain:
            assert (await plain.get(third["params"]["url"])).content == CONTENT
    assert server.requests == [("GET", "/fw.bin", None)]


async def test_cancelled_before_it_is_offered_and_after(odoo: OdooStandIn, box: Appliance, server: FileServer) -> None:
    config = await paired(odoo, box)
    async with box.client() as api:
        (await api.post("/api/v1/ota/send", json=order(server))).raise_for_status()
        assert (await api.delete("/api/v1/ota/u-1")).json()["state"] == "cancelled"
        async with PahoDevice(box, config) as device:
            (await api.post("/api/v1/ota/send", json=order(server, "u-2"))).raise_for_status()
            offer, _ = await device.offer()
            assert offer["update_id"] == "u-2"
            other = await api.post("/api/v1/ota/send", json=order(server, "u-3"))
            assert (other.status_code, other.json()["code"]) == (409, "update_open")
            cancel = {"device_id": "press-07", "action": "cancel_update"}
            answer = await api.post("/api/v1/ota/send", json=cancel)
            assert (answer.status_code, answer.json()) == (202, {"update_id": "u-2", "state": "cancelling"})
            message, _ = await device.offer()
            assert message == {"action": "cancel_update", "update_id": "u-2", "params": {}}
            async with httpx.AsyncClient() as plain:
                gone = await plain.get(offer["params"]["url"])
                assert (gone.status_code, gone.json()["code"]) == (410, "link_expired")
            await device.report("u-2", "cancelled")
            assert (await state(box, "u-2"))["state"] == "cancelled"
            rollback = {"device_id": "press-07", "action": "rollback", "update_id": "r-1"}
            (await api.post("/api/v1/ota/send", json=rollback)).raise_for_status()
            message, _ = await device.offer()
            assert message == {"action": "rollback", "update_id": "r-1", "params": {}}
            await device.report("r-1", "rolled_back", version="1.0.0")
            assert (await state(box, "r-1"))["state"] == "rolled_back"
    assert (await told(odoo, "u-2", "cancelled"))[-1] == ("cancelled", True)


async def test_killed_in_the_middle_of_a_fetch_it_goes_on_where_it_was(
    odoo: OdooStandIn, box: Appliance, server: FileServer
) -> None:
    config = await paired(odoo, box)
    server.stop_after = 700_000
    async with box.client() as api:
        (await api.post("/api/v1/ota/send", json=order(server))).raise_for_status()
        part = box.data_folder / "firmware" / f"{SHA256}.part"
        async with asyncio.timeout(WITHIN_S):
            while not part.exists() or part.stat().st_size < 500_000:
                await asyncio.sleep(0.02)
    box.kill()
    kept = part.stat().st_size
    server.stop_after = None
    await box.start()
    async with PahoDevice(box, config) as device:
        offer, _ = await device.offer()
        async with httpx.AsyncClient() as plain:
            assert (await plain.get(offer["params"]["url"])).content == CONTENT
    assert not part.exists()
    assert server.requests == [("GET", "/fw.bin", None), ("GET", "/fw.bin", f"bytes={kept}-")]


async def test_a_file_that_cannot_be_had_fails_the_update_and_odoo_hears_why(
    odoo: OdooStandIn, box: Appliance, server: FileServer
) -> None:
    await paired(odoo, box)
    async with box.client() as api:
        (await api.post("/api/v1/ota/send", json=order(server, url=f"{server.url}/none"))).raise_for_status()
    status = await until(lambda status: status["settled"], box)
    assert (status["state"], status["reason"]) == ("failed", "fetch")
    assert status["error"] == "the server answers 404 Not Found"
    assert await told(odoo, "u-1", "failed") == [("fetching", False), ("failed", False)]


async def test_an_update_comes_with_a_sync_its_file_from_odoo_and_is_cancelled_the_same_way(
    odoo: OdooStandIn, box: Appliance
) -> None:
    config = await paired(odoo, box)
    async with odoo.client() as control, PahoDevice(box, config) as device:
        made = await control.post("/sim/firmware", params={"version": "3.0.0"}, content=CONTENT)
        number = made.raise_for_status().json()["id"]
        params = {"version": "3.0.0", "url": f"/iiot/firmware/{number}/file", "sha256": SHA256}
        update = {"device_id": "press-07", "update_id": "s-1", "push": False, "params": params}
        (await control.post("/sim/updates", json=update)).raise_for_status()
        offer, _ = await device.offer()
        assert (offer["update_id"], offer["params"]["size"]) == ("s-1", len(CONTENT))
        async with httpx.AsyncClient() as plain:
            assert (await plain.get(offer["params"]["url"])).content == CONTENT
        await device.report("s-1", "downloading", progress=100)
        cancel = {"device_id": "press-07", "update_id": "s-1", "push": False, "action": "cancel_update"}
        (await control.post("/sim/updates", json=cancel)).raise_for_status()
        message, _ = await device.offer()
        assert message == {"action": "cancel_update", "update_id": "s-1", "params": {}}
        await device.report("s-1", "cancelled")
        refused = {"device_id": "press-07", "update_id": "s-2", "push": False, "params": {"version": "4"}}
        (await control.post("/sim/updates", json=refused)).raise_for_status()
        assert await told(odoo, "s-2", "failed") == [("failed", False)]
    assert (await told(odoo, "s-1", "cancelled"))[-1] == ("cancelled", True)


async def test_a_simulated_device_brings_itself_up_to_date(odoo: OdooStandIn, box: Appliance, tmp_path: Path) -> None:
    async with odoo.client() as control, box.client() as api:
        made = await control.post("/sim/devices", json={"device_id": "press-07", "serial": "SN-1001"})
        label = made.raise_for_status().json()["devices"][0]
        firmware = (await control.post("/sim/firmware", json={"version": "2.0.0"})).raise_for_status().json()
        command = simulator(
            *("device", "--serial", label["serial"], "--token", label["token"], "--port", str(box.mqtt_port)),
            *("--plain", "--store", str(tmp_path / "flash")),
        )
        async with started(*command) as device:
            await says(device, "connected")
            update = {"device_id": "press-07", "firmware": firmware["id"], "update_id": "u-1"}
            (await control.post("/sim/updates", json=update)).raise_for_status()
            async with asyncio.timeout(WITHIN_S):
                while (await api.get("/api/v1/ota/u-1")).json().get("state") != "installed":
                    await asyncio.sleep(0.05)
        assert (await api.get("/api/v1/device/press-07/status")).json()["firmware_version"] == "2.0.0"
    assert (await told(odoo, "u-1", "installed"))[-1] == ("installed", True)
