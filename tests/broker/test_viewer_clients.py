"""Viewers as people run them: paho-mqtt and Debian's mosquitto-clients against the real listener, plugin and amqtt."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from appliance.broker import frames
from tests.broker.rig import WITHIN_S, Rig
from tests.broker.viewers import ACCOUNT, PASSWORD

TOPIC = "telemetry/press-07/data"


class PahoViewer:
    """A paho client in a thread of its own; what it tells arrives in queues of the event loop."""

    def __init__(self, client_id: str, *, clean: bool) -> None:
        loop = asyncio.get_running_loop()
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv311, clean_session=clean
        )
        self.client.username_pw_set(ACCOUNT, PASSWORD)
        self.messages: asyncio.Queue[paho.MQTTMessage] = asyncio.Queue()
        self._told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

        def tell(name: str) -> Callable[..., None]:
            def callback(client: Any, userdata: Any, *arguments: Any) -> None:
                loop.call_soon_threadsafe(self._told.put_nowait, (name, arguments))

            return callback

        self.client.on_connect = tell("connect")
        self.client.on_subscribe = tell("subscribe")
        self.client.on_publish = tell("publish")
        self.client.on_disconnect = tell("disconnect")
        self.client.on_message = lambda client, userdata, message: loop.call_soon_threadsafe(
            self.messages.put_nowait, message
        )

    async def told(self, name: str) -> Any:
        async with asyncio.timeout(WITHIN_S):
            what, arguments = await self._told.get()
        assert what == name
        return arguments

    async def subscribe(self, *filters: tuple[str, int]) -> list[int]:
        self.client.subscribe(list(filters))
        return [code.value for code in (await self.told("subscribe"))[1]]

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        """Returns when the exchange is complete."""
        self.client.publish(topic, payload, qos=qos, retain=retain)
        await self.told("publish")

    async def message(self) -> paho.MQTTMessage:
        async with asyncio.timeout(WITHIN_S):
            return await self.messages.get()


@asynccontextmanager
async def paho_viewer(
    rig: Rig, client_id: str, *, clean: bool = True, present: bool = False
) -> AsyncIterator[PahoViewer]:
    viewer = PahoViewer(client_id, clean=clean)
    await asyncio.to_thread(viewer.client.connect, "127.0.0.1", rig.port)
    viewer.client.loop_start()
    flags, code, _ = await viewer.told("connect")
    assert (code.is_failure, flags.session_present) == (False, present)
    try:
        yield viewer
    finally:
        viewer.client.disconnect()
        await asyncio.to_thread(viewer.client.loop_stop)


async def test_paho_sees_readings_tries_the_test_topics_and_is_refused_the_rest(rig: Rig) -> None:
    device = await rig.login("press-07")
    async with paho_viewer(rig, "dashboard") as viewer:
        assert await viewer.subscribe(("telemetry/#", 1), ("test/#", 2), ("command/#", 1)) == [1, 2, 0x80]
        device.send(frames.publish(TOPIC, b'{"t": 1}', qos=1, packet_id=1))
        message = await viewer.message()
        assert (message.topic, message.payload, message.qos, message.retain) == (TOPIC, b'{"t": 1}', 1, False)
        for qos in (0, 1, 2):
            await viewer.publish("test/try", b"%d" % qos, qos=qos)
            await viewer.publish("command/press-07/action", b"forged", qos=qos)
            message = await viewer.message()
            assert (message.topic, message.payload, message.qos) == ("test/try", b"%d" % qos, qos)
        await viewer.publish("test/kept", b"kept", qos=1, retain=True)
        assert (await viewer.message()).retain is False
        async with paho_viewer(rig, "late") as late:
            assert await late.subscribe(("test/+", 0)) == [0]
            message = await late.message()
            assert (message.topic, message.payload, message.retain) == ("test/kept", b"kept", True)


async def test_paho_with_a_lasting_session_misses_nothing_while_it_is_away(rig: Rig) -> None:
    device = await rig.login("press-07")
    async with paho_viewer(rig, "historian", clean=False) as viewer:
        assert await viewer.subscribe((TOPIC, 1)) == [1]
    for number in range(30):
        device.send(frames.publish(TOPIC, b"%d" % number, qos=1, packet_id=number + 1))
        await device.packet()
    async with paho_viewer(rig, "historian", clean=False, present=True) as viewer:
        assert [(await viewer.message()).payload for _ in range(30)] == [b"%d" % number for number in range(30)]


async def test_paho_with_a_wrong_password_is_told_so(rig: Rig) -> None:
    viewer = PahoViewer("dashboard", clean=True)
    viewer.client.username_pw_set(ACCOUNT, "guess")
    await asyncio.to_thread(viewer.client.connect, "127.0.0.1", rig.port)
    viewer.client.loop_start()
    _, code, _ = await viewer.told("connect")
    viewer.client.disconnect()
    await asyncio.to_thread(viewer.client.loop_stop)
    assert str(code) == "Bad user name or password"


@pytest.mark.skipif(shutil.which("mosquitto_sub") is None, reason="mosquitto-clients are not installed")
async def test_mosquitto_sub_sees_what_devices_and_mosquitto_pub_publish(rig: Rig) -> None:
    account = ("-h", "127.0.0.1", "-p", str(rig.port), "-u", ACCOUNT, "-P", PASSWORD)
    device = await rig.login("press-07")
    plugin = rig.broker.plugin
    assert plugin is not None
    watching = await asyncio.create_subprocess_exec(
        *("mosquitto_sub", *account, "-v", "-q", "2", "-C", "2", "-t", "telemetry/#", "-t", "test/#"),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        while "test/#" not in plugin.watched:
            await asyncio.sleep(0.01)
        device.send(frames.publish(TOPIC, b'{"t": 1}', qos=1, packet_id=1))
        await device.packet()
        publishing = await asyncio.create_subprocess_exec(
            *("mosquitto_pub", *account, "-q", "2", "-t", "test/try", "-m", "hello")
        )
        assert await publishing.wait() == 0
        output, _ = await watching.communicate()
    assert output.decode().splitlines() == [f'{TOPIC} {{"t": 1}}', "test/try hello"]
