"""A whole appliance whose devices are changed while they are connected, away, or sending: over its real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.app import Appliance
from appliance.broker import frames
from appliance.contract.command import SendCommand
from appliance.contract.odoo import DeviceConfig
from appliance.contract.sync import DeviceChange
from appliance.contract.topics import DeviceTopics
from appliance.identity import read_identity
from appliance.services.credentials import Credentials
from appliance.settings import Settings
from appliance.store.device_rows import Claim
from tests.broker.rig import Client, connect, puback, subscribe

WITHIN_S = 10.0
NEW = {"telemetry": "new/{device}/t", "command": "new/{device}/c", "config_response": "new/{device}/cfg"}


class Box:
    """An appliance in this process, and raw MQTT clients."""

    def __init__(self, appliance: Appliance, credentials: Credentials) -> None:
        self.appliance = appliance
        self.credentials = credentials
        self.clients: list[Client] = []

    async def pair(self, device_id: str = "press-07", **config: Any) -> None:
        made = DeviceConfig.model_validate({"device_id": device_id, **config})
        claim = Claim(serial=f"SN-{device_id}", token_digest=device_id.encode(), request_id="r", config=made)
        await self.appliance.registry.pair(claim)

    def topics(self, device_id: str = "press-07") -> DeviceTopics:
        device = self.appliance.registry.get(device_id)
        assert device is not None
        return device.topics

    async def login(self, generation: int = 1, device_id: str = "press-07", *, answer: int = frames.ACCEPTED) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.appliance.ports.mqtt))
        self.clients.append(client)
        password = self.credentials.password(device_id, generation).encode()
        client.send(connect(device_id, device_id, password))
        assert await client.packet() == (frames.CONNACK, bytes([0, answer]))
        return client

    async def change(self, *, revoked: tuple[str, ...] = (), **values: Any) -> None:
        if "config" in values:
            values["config"] = {"device_id": "press-07", **values["config"]}
        changes = [DeviceChange.model_validate({"device_id": "press-07", **values})] if values else []
        await self.appliance.devices.changes.apply(changes, revoked)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                await asyncio.sleep(0.01)

    async def knows(self, version: int) -> None:
        """Until it is on disk that the device has this configuration."""

        def taken() -> bool:
            device = self.appliance.registry.get("press-07")
            return device is not None and device.taken is not None and device.taken.version == version

        await self.until(taken)

    async def messages(self, kind: int) -> list[Any]:
        rows = await self.appliance.database.run(
            lambda c: c.execute("SELECT payload FROM messages WHERE kind = ? ORDER BY seq", (kind,)).fetchall()
        )
        return [json.loads(payload) for (payload,) in rows]


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Box]:
    settings = Settings(
        _env_file=None,
        mqtt_bind="127.0.0.1",
        mqtt_broker_port=0,
        mqtt_use_tls=False,
        host="127.0.0.1",
        port=0,
        http_use_tls=False,
        iiot_api_key="k" * 43,
        iiot_advertised_host="127.0.0.1",
        iiot_data_dir=folder,
    )
    appliance = Appliance(settings)
    async with appliance.started():
        task = asyncio.create_task(appliance.run(), name="appliance")
        identity = await asyncio.to_thread(read_identity, settings)
        box = Box(appliance, identity.credentials)
        try:
            yield box
        finally:
            for client in box.clients:
                client.close()
            appliance.stop()
            async with asyncio.timeout(WITHIN_S):
                await task


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with running(tmp_path / "data") as box:
        yield box


async def answer(client: Client, *, acknowledge: bool = True) -> tuple[str, dict[str, Any]]:
    """Topic and content of what comes next."""
    first, body = await client.packet()
    assert first & 0xF0 == frames.PUBLISH
    assert first >> 1 & 3 == 1, "QoS 1"
    size = int.from_bytes(body[:2], "big")
    packet_id = int.from_bytes(body[2 + size : 4 + size], "big")
    if acknowledge:
        client.send(puback(packet_id))
    return body[2 : 2 + size].decode(), json.loads(body[4 + size :])


async def subscribed(client: Client, *topics: str) -> None:
    client.send(subscribe(1, *topics))
    assert await client.packet() == (frames.SUBACK, b"\x00\x01" + b"\x01" * len(topics))


async def published(client: Client, topic: str, payload: bytes, packet_id: int = 7) -> None:
    client.send(frames.publish(topic, payload, qos=1, packet_id=packet_id))
    assert await client.packet() == (frames.PUBACK, packet_id.to_bytes(2, "big"))


async def test_topics_change_while_a_device_sends_and_nothing_it_sends_is_lost(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as box:
        await box.pair()
        old = box.topics()
        client = await box.login()
        await subscribed(client, old.config_response, old.command)
        # it has been paired here without an answer: that is what it is told first
        topic, told = await answer(client)
        assert (topic, told["config_version"]) == ("iiot/config/SN-press-07", 1)
        await box.knows(1)
        await box.change(config={"config_version": 2, "topics": NEW})
        topic, told = await answer(client, acknowledge=False)
        assert (topic, told["topics"]["telemetry"]) == ("iiot/config/SN-press-07", "new/press-07/t")
        await published(client, old.telemetry, b'{"n": 1}')
        await box.appliance.commands.send(SendCommand(device_id="press-07", action="reset"))
        topic, told = await answer(client)
        assert (topic, told["action"]) == (old.command, "reset")
        assert await client.silent()
    # the appliance restarts; the device has not kept what it was told, and comes back as it was
    async with running(tmp_path / "data") as box:
        client = await box.login()
        await subscribed(client, old.config_response)
        topic, told = await answer(client)
        assert (topic, told["config_version"]) == ("iiot/config/SN-press-07", 2)
        await box.knows(2)
        await published(client, old.telemetry, b'{"n": 2}')
        # with the new ones, and what it could not send before
        client = await box.login()
        await subscribed(client, "new/SN-press-07/cfg", "new/press-07/c")
        await published(client, old.telemetry, b'{"n": 3}')
        await published(client, "new/press-07/t", b'{"n": 4}', 8)
        assert await client.silent(), "it knows its configuration"
        assert await box.messages(1) == [{"n": number} for number in range(1, 5)]


async def test_a_rotated_secret_reaches_the_device_and_shuts_the_old_one_out(box: Box) -> None:
    await box.pair()
    client = await box.login()
    await subscribed(client, box.topics().config_response)
    assert "password" not in (await answer(client))[1]["mqtt"]
    await box.knows(1)
    await box.change(secret_version=1)
    password = (await answer(client))[1]["mqtt"]["password"]
    assert password == box.credentials.password("press-07", 2)
    # the device did not keep it: the old secret still opens, and it is told again
    client = await box.login(1)
    await subscribed(client, box.topics().config_response)
    assert (await answer(client))[1]["mqtt"]["password"] == password
    clone = client
    device = await box.login(2)
    assert await clone.end() == b"", "one connection for one client id"
    await box.until(lambda: not box.appliance.registry.get("press-07").accepts(1))  # type: ignore[union-attr]
    await box.login(1, answer=frames.BAD_CREDENTIALS)
    assert await device.silent(), "who tries the old secret does not disturb the device"


async def test_a_revoked_device_is_disconnected_its_commands_end_and_what_it_sent_stays(box: Box) -> None:
    await box.pair()
    client = await box.login()
    topics = box.topics()
    await subscribed(client, topics.command)
    await published(client, topics.telemetry, b'{"n": 1}')
    sent = await box.appliance.commands.send(SendCommand(device_id="press-07", action="a", command_id="c-1"))
    assert sent.state in ("queued", "sent")
    first, _ = await client.packet()
    assert first & 0xF0 == frames.PUBLISH
    # the first is not acknowledged, so this one waits
    await box.appliance.commands.send(SendCommand(device_id="press-07", action="b", command_id="c-2"))
    await box.change(revoked=("press-07",))
    assert await client.end() == b""
    await box.login(1, answer=frames.BAD_CREDENTIALS)
    await box.until(lambda: box.appliance.commands.open_total == 0)
    assert [(await box.appliance.commands.status(name)).state for name in ("c-1", "c-2")] == ["failed", "cancelled"]
    states = [(each["command_id"], each["state"], each.get("reason")) for each in await box.messages(3)]
    assert ("c-1", "failed", "revoked") in states
    assert ("c-2", "cancelled", "revoked") in states
    assert await box.messages(1) == [{"n": 1}]
    batch = await box.appliance.buffer.take()
    assert {"telemetry", "command_state"} <= {message.kind.wire for message in batch.messages}


async def test_commands_of_a_device_that_was_revoked_just_before_a_crash_end_at_the_next_start(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as box:
        await box.pair()
        await box.appliance.commands.send(
            SendCommand(device_id="press-07", action="a", command_id="c-1", expires_in_s=3600)
        )
        # the pairing ended, and the power went before the command did
        await box.appliance.database.run(lambda c: c.execute("DELETE FROM devices"))
    async with running(tmp_path / "data") as box:
        async with asyncio.timeout(WITHIN_S):
            while (await box.appliance.commands.status("c-1")).state != "cancelled":
                await asyncio.sleep(0.01)


async def test_a_machine_that_takes_the_place_of_another_loses_no_reading_to_the_others_message_ids(box: Box) -> None:
    await box.pair()
    first = await box.login()
    first.send(frames.publish(box.topics().telemetry, b'{"msg_id": 1, "of": "SN-press-07"}', qos=1, packet_id=1))
    assert (await first.packet())[0] == frames.PUBACK
    claim = Claim(
        serial="SN-2", token_digest=b"2", request_id="r", config=DeviceConfig.model_validate({"device_id": "press-07"})
    )
    await box.appliance.registry.pair(claim)
    second = await box.login(2)
    for _ in range(2):
        second.send(frames.publish(box.topics().telemetry, b'{"msg_id": 1, "of": "SN-2"}', qos=1, packet_id=1))
        assert (await second.packet())[0] == frames.PUBACK
    assert [each["of"] for each in await box.messages(1)] == ["SN-press-07", "SN-2"]


async def test_a_device_that_is_switched_off_is_disconnected_and_comes_back_with_what_has_changed(box: Box) -> None:
    await box.pair()
    client = await box.login()
    await box.change(enabled=False, config={"config_version": 2})
    assert await client.end() == b""
    await box.login(answer=frames.NOT_AUTHORIZED)
    await box.change(enabled=True)
    client = await box.login()
    await subscribed(client, box.topics().config_response)
    assert (await answer(client))[1]["config_version"] == 2


async def test_a_device_that_asks_gets_one_answer(box: Box) -> None:
    await box.pair(config_version=5)
    client = await box.login()
    topics = box.topics()
    client.send(subscribe(1, topics.config_response), frames.publish(topics.config_request, b"{}", qos=1, packet_id=2))
    assert await client.packet() == (frames.SUBACK, b"\x00\x01\x01")
    packets = [await client.packet() for _ in range(2)]
    assert sorted(first & 0xF0 for first, _ in packets) == [frames.PUBLISH, frames.PUBACK]
    assert await client.silent()


async def test_an_order_is_for_the_machine_and_ends_when_another_one_gets_its_name(tmp_path: Path) -> None:
    async with running(tmp_path) as box:
        await box.pair()
        order = SendCommand(device_id="press-07", action="move", command_id="c-1", expires_in_s=3600)
        await box.appliance.commands.send(order)
        made = DeviceConfig.model_validate({"device_id": "press-07"})
        await box.appliance.registry.pair(
            Claim(serial="SN-another", token_digest=b"another", request_id="r", config=made)
        )
        await box.until(lambda: not box.appliance.commands.open_count("press-07"))
        status = await box.appliance.commands.status("c-1")
    assert (status.state, status.history[-1].reason) == ("cancelled", "revoked")
