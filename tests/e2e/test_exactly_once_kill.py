"""``kill -9`` and QoS 2: whatever the moment, each message is stored once, whole, and the id is free after PUBCOMP."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections import Counter
from contextlib import suppress
from pathlib import Path

from appliance.broker import frames
from tests.bench.devices import PairedDevice, pair_devices
from tests.broker.rig import Client, connect
from tests.e2e.harness import Appliance

KILLS = 5
IN_FLIGHT = 20
PARTS = 3


class Device:
    """Does what §4.3.3 and §4.4 ask of a sender; keeps its session over connections."""

    def __init__(self, paired: PairedDevice, port: int) -> None:
        self._paired = paired
        self._port = port
        self._open: dict[int, bytes | None] = {}
        """By packet id, in order: the message until PUBREC, ``None`` until PUBCOMP."""
        self._next_id = 0
        self._clients: list[Client] = []
        self.sent = 0
        self.completed = 0

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self._port))
        self._clients.append(client)
        name = self._paired.device_id
        client.send(connect(name, name, self._paired.password.encode(), clean=False))
        assert (await client.packet())[0] == frames.CONNACK
        for packet_id, message in self._open.items():
            self._send(client, packet_id, message, dup=True)
        return client

    def _send(self, client: Client, packet_id: int, message: bytes | None, *, dup: bool = False) -> None:
        if message is None:
            client.send(frames.PUBREL_HEAD + packet_id.to_bytes(2, "big"))
        else:
            client.send(frames.publish(self._paired.topics.telemetry, message, qos=2, packet_id=packet_id, dup=dup))

    def _send_new(self, client: Client) -> None:
        # few ids, so that each is used again and again
        while self._next_id in self._open or not self._next_id:
            self._next_id = (self._next_id + 1) % (2 * IN_FLIGHT)
        parts = [{"n": self.sent, "part": part} for part in range(PARTS)]
        self.sent += 1
        message = self._open[self._next_id] = json.dumps(parts).encode()
        self._send(client, self._next_id, message)

    async def run(self, *, new: bool = True) -> None:
        """Until the connection breaks, or nothing is left to do."""
        try:
            client = await self.connect()
            while new or self._open:
                while new and len(self._open) < IN_FLIGHT:
                    self._send_new(client)
                header, body = await client.packet()
                packet_id = int.from_bytes(body, "big")
                if header == frames.PUBREC and packet_id in self._open:
                    self._open[packet_id] = None
                    self._send(client, packet_id, None)
                elif header == frames.PUBCOMP and packet_id in self._open:
                    del self._open[packet_id]
                    self.completed += 1
        except (OSError, asyncio.IncompleteReadError):
            pass

    async def close(self) -> None:
        for client in self._clients:
            client.close()
            with suppress(OSError):
                await client.writer.wait_closed()


def stored(appliance: Appliance) -> Counter[tuple[int, int]]:
    with sqlite3.connect(appliance.data_folder / "appliance.db") as database:
        rows = database.execute("SELECT payload ->> 'n', payload ->> 'part' FROM messages WHERE kind = 1").fetchall()
        left = database.execute("SELECT count(*) FROM qos2_open").fetchone()[0]
    database.close()
    assert left == 0, "everything was released"
    return Counter(rows)


async def test_killed_at_any_moment_each_message_is_stored_once_and_whole(tmp_path: Path) -> None:
    appliance = Appliance(tmp_path)
    appliance.data_folder.mkdir(mode=0o700)
    [paired] = await pair_devices(appliance.data_folder, ["press-001"])
    device = Device(paired, appliance.mqtt_port)
    async with appliance, asyncio.timeout(120):
        for _ in range(KILLS):
            before = device.completed
            running = asyncio.create_task(device.run())
            while device.completed < before + 20:
                await asyncio.sleep(0.001)
            await asyncio.sleep(random.uniform(0, 0.05))
            appliance.kill()
            await running
            await appliance.start()
        await device.run(new=False)
        await device.close()
        assert await appliance.stop() == 0
    assert device.completed == device.sent
    expected = {(number, part): 1 for number in range(device.sent) for part in range(PARTS)}
    assert stored(appliance) == Counter(expected)


async def test_killed_between_pubrec_and_pubrel_the_message_is_there_once_and_its_id_is_free_after_pubcomp(
    tmp_path: Path,
) -> None:
    appliance = Appliance(tmp_path)
    appliance.data_folder.mkdir(mode=0o700)
    [paired] = await pair_devices(appliance.data_folder, ["press-001"])
    device = Device(paired, appliance.mqtt_port)
    message = b'{"n": 1, "part": 1}'
    publish = [frames.publish(paired.topics.telemetry, message, qos=2, packet_id=1, dup=dup) for dup in (False, True)]
    async with appliance, asyncio.timeout(60):
        client = await device.connect()
        client.send(publish[0])
        assert await client.packet() == (frames.PUBREC, b"\0\1")
        appliance.kill()
        await appliance.start()
        client = await device.connect()
        client.send(publish[1])
        assert await client.packet() == (frames.PUBREC, b"\0\1")
        client.send(frames.PUBREL_HEAD + b"\0\1")
        assert await client.packet() == (frames.PUBCOMP, b"\0\1")
        appliance.kill()
        assert stored(appliance) == Counter({(1, 1): 1})
        await appliance.start()
        client = await device.connect()
        client.send(publish[1], frames.PUBREL_HEAD + b"\0\1")  # a second message, whose first copy got lost
        assert [header for header, _ in await client.packets(2)] == [frames.PUBREC, frames.PUBCOMP]
        await device.close()
        assert await appliance.stop() == 0
    assert stored(appliance) == Counter({(1, 1): 2})
