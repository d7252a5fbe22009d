"""Whatever devices and callers get wrong: the answer they get, and what is on record afterwards. The whole process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from appliance.broker import frames
from tests.broker.rig import Client, connect, subscribe
from tests.e2e.harness import Appliance, OdooStandIn

TELEMETRY = "telemetry/press-07/data"
DOWNLOAD = "/api/v1/config/download"
SEND = "/api/v1/command/send"


class Scene:
    """An appliance with its Odoo, one paired device on a raw connection, and the API."""

    def __init__(self, appliance: Appliance, odoo: OdooStandIn, api: httpx.AsyncClient) -> None:
        self.appliance, self.odoo, self.api = appliance, odoo, api
        self.clients: list[Client] = []

    async def token(self, device_id: str, **order: Any) -> dict[str, str]:
        """A new device at Odoo, with a token."""
        async with self.odoo.client() as sim:
            order = {"device_id": device_id, "serial": f"SN-{device_id}", **order}
            created = (await sim.post("/sim/devices", json=order)).raise_for_status().json()["devices"][0]
            return {"serial": created["serial"], "token": created["token"]}

    async def device(self, device_id: str) -> Client:
        """Paired over HTTP, logged in over MQTT."""
        answer = (await self.api.post(DOWNLOAD, json=await self.token(device_id))).raise_for_status().json()
        client = Client(*await asyncio.open_connection("127.0.0.1", self.appliance.mqtt_port))
        self.clients.append(client)
        client.send(connect(device_id, device_id, answer["mqtt"]["password"].encode()))
        assert await client.packet() == (frames.CONNACK, b"\x00\x00")
        return client

    async def publish(self, client: Client, topic: str, payload: bytes) -> None:
        """With QoS 1; returns after the PUBACK."""
        client.send(frames.publish(topic, payload, qos=1, packet_id=9))
        assert await client.packet() == (frames.PUBACK, b"\x00\x09")

    async def counters(self, device_id: str) -> dict[str, Any]:
        """What the appliance has on record of the device."""
        answer = await self.api.get(f"/api/v1/device/{device_id}/status")
        counters: dict[str, Any] = answer.raise_for_status().json()["counters"]
        return counters


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    async with (
        OdooStandIn(folder / "odoo") as odoo,
        Appliance(folder / "box", environment=odoo.settings) as appliance,
        appliance.client() as api,
    ):
        place = Scene(appliance, odoo, api)
        try:
            yield place
            assert await appliance.stop() == 0
            assert "Traceback" not in appliance.log
        finally:
            for client in place.clients:
                client.close()


async def test_broker_api_and_buffer_are_one_process(tmp_path: Path) -> None:
    async with scene(tmp_path) as place:
        process = psutil.Process(place.appliance.pid)
        listening = {each.laddr.port for each in process.net_connections() if each.status == psutil.CONN_LISTEN}
        assert {place.appliance.mqtt_port, place.appliance.mqtt_tls_port, place.appliance.http_port} == listening
        assert str(place.appliance.data_folder / "appliance.db") in [file.path for file in process.open_files()]
        assert process.children() == []


async def test_bad_telemetry_is_acknowledged_and_on_record_and_the_good_arrives(tmp_path: Path) -> None:
    async with scene(tmp_path) as place:
        client = await place.device("press-07")
        await place.publish(client, TELEMETRY, b'{"temperature": 71.3')
        await place.publish(client, TELEMETRY, b"\x80\x81")
        await place.publish(client, "telemetry/press-08/data", b'{"temperature": 1}')
        await place.publish(client, "no/such/topic", b"{}")
        await place.publish(client, TELEMETRY, b'{"ts": "yesterday", "msg_id": {}, "temperature": 71.3}')
        await place.publish(client, TELEMETRY, b'[{"msg_id": 1}, {"msg_id": 1}, {"msg_id": 2}]')
        arrived: list[dict[str, Any]] = []
        while len(arrived) < 3:
            arrived = [each async for each in place.odoo.arrived("telemetry", payload=True)]
            await asyncio.sleep(0.05)
        assert [each["payload"] for each in arrived] == [
            {"ts": "yesterday", "msg_id": {}, "temperature": 71.3},
            {"msg_id": 1},
            {"msg_id": 2},
        ]
        counters: dict[str, Any] = {}
        while counters.get("refused") != 2 or counters.get("waiting"):
            counters = await place.counters("press-07")
            await asyncio.sleep(0.05)
        refusals = counters.pop("refusals")
        ends = {"stored": 3, "waiting": 0, "parked": 2, "removed": 0}
        assert counters == {"received": 5, **ends, "refused": 2, "repeated": 1}
        assert [(each["reason"], each["count"]) for each in refusals] == [("not a topic of this device", 2)]
        assert (await place.api.get("/api/v1/buffer")).json()["parked"] == 2
        ledger = (await place.api.get("/api/v1/ledger")).json()
        assert (ledger["adds_up"], ledger["checked_against_rows"]) == (True, True)
        assert ledger["devices"][0]["parked"] == 2
        letters = (await place.api.get("/api/v1/dead-letters")).json()["dead_letters"]
        assert [(letter["device"], letter["retryable"]) for letter in letters] == [("press-07", False)] * 2
        metrics = (await place.api.get("/metrics")).text.splitlines()
        for line in ("iiot_readings_received_total 5.0", "iiot_readings_parked 2.0", "iiot_uplink_up 1.0"):
            assert line in metrics
        for line in ("iiot_devices_online 1.0", "iiot_mqtt_connections 1.0", "iiot_store_available 1.0"):
            assert line in metrics
        assert any(line.startswith("iiot_disk_free_bytes ") for line in metrics)


async def test_too_large_a_payload_ends_the_connection_and_the_status_says_why(tmp_path: Path) -> None:
    async with scene(tmp_path) as place:
        client = await place.device("press-07")
        client.send(frames.publish(TELEMETRY, b'"' + b"x" * 262_143 + b'"', qos=1, packet_id=1))
        assert await client.end() == b""
        status = (await place.api.get("/api/v1/device/press-07/status")).json()
        assert "too large" in str(status)
        assert (await place.counters("press-07"))["received"] == 0


async def test_expired_used_and_wrong_tokens_get_their_answers_and_pair_nobody(tmp_path: Path) -> None:
    async with scene(tmp_path) as place:
        expired = await place.token("press-01", token_valid_s=0)
        used = await place.token("press-02")
        (await place.api.post(DOWNLOAD, json={**used, "request_id": "first"})).raise_for_status()
        tries = {
            "token_expired": (410, expired),
            "token_used": (410, {**used, "request_id": "second"}),
            "invalid_token": (403, {**used, "token": "guessed"}),
            "bad_request": (422, {"serial": ["SN"], "token": 7}),
        }
        for code, (status, body) in tries.items():
            answer = await place.api.post(DOWNLOAD, json=body)
            assert (answer.json().get("code"), answer.headers["content-type"]) == (code, "application/problem+json")
            assert answer.status_code in (status, 400)
        stranger = await place.api.post(DOWNLOAD, json={"serial": "nobody", "token": "guessed"})
        assert (stranger.status_code, stranger.json()["code"]) == (403, "invalid_token")
        devices = (await place.api.get("/api/v1/devices/status")).json()["devices"]
        assert [device["device_id"] for device in devices] == ["press-02"]


async def test_bad_commands_are_refused_before_anything_is_sent_and_a_repeat_is_one_command(tmp_path: Path) -> None:
    async with scene(tmp_path) as place:
        client = await place.device("press-07")
        client.send(subscribe(1, "command/press-07/action"))
        await client.packet()
        for body, status, code in (
            ({"device_id": "nobody", "action": "reset"}, 404, "unknown_device"),
            ({"device_id": "press-07"}, 422, "bad_request"),
            ({"device_id": "press-07", "action": "reset", "params": [1]}, 422, "bad_request"),
            ({"device_id": "press-07", "action": "reset", "expires_in_s": -1}, 422, "bad_request"),
        ):
            answer = await place.api.post(SEND, json=body)
            assert answer.json()["code"] == code, answer.text
            assert answer.status_code in (status, 400)
        assert await client.silent(), "a refused command must not reach the device"
        order = {"device_id": "press-07", "action": "reset", "params": {"delay": 5}, "command_id": "c-1"}
        first = await place.api.post(SEND, json=order)
        again = await place.api.post(SEND, json=order)
        other = await place.api.post(SEND, json={**order, "action": "stop"})
        assert (first.status_code, again.status_code, other.status_code) == (202, 202, 409)
        assert other.json()["code"] == "command_id_conflict"
        _, body = await client.packet()
        assert body.endswith(b'{"action": "reset", "params": {"delay": 5},"command_id":"c-1"}') or b'"c-1"' in body
        client.send(b"\x40\x02\x00\x01")
        await place.publish(client, "command/press-07/response", b'{"command_id": "c-1", "status": "fine"}')
        await place.publish(client, "command/press-07/response", b'{"command_id": "c-1", "status": "ok"}')
        state = ""
        while state != "done":
            state = (await place.api.get("/api/v1/command/c-1")).json()["state"]
            await asyncio.sleep(0.02)
        assert (await place.api.get("/api/v1/buffer")).json()["parked"] == 1
        assert await client.silent(), "the repeat of a command id must not be a second command"
