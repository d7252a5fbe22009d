"""Eclipse Paho's own client tests for MQTT 3.1.1 against the whole appliance: its listener, plugin, amqtt, HTTP.

``TEST_PAHO_SUITE=/path/to/paho.mqtt.testing pytest tests/broker/test_paho_suite.py``. The suite speaks to an open
broker: no login, any topic. So the plugin's policy is replaced by one that attaches everybody and permits everything,
and nothing else is.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from appliance.app import Appliance
from appliance.broker import frames
from appliance.broker.frames import Connect
from appliance.broker.plugin import InterceptPlugin, Refusal, Rights, Verdict, ViewerLogin
from appliance.settings import Settings
from tests.broker import paho_suite

SUITE = os.environ.get("TEST_PAHO_SUITE", "")
WITHIN_S = 180.0


class OpenPolicy(InterceptPlugin):
    """Everybody is let in, and may do everything but one subscription."""

    @dataclass
    class Config:
        """As the appliance's own."""

        rights: Rights

    def identify(self, connect: Connect) -> Verdict:
        if not connect.client_id and not connect.clean_session:
            return Refusal(frames.BAD_CLIENT_ID, "an empty client id needs a clean session")
        return ViewerLogin("everybody")

    def viewer_may_subscribe(self, topic_filter: str) -> bool:
        return topic_filter != paho_suite.NOT_SUBSCRIBABLE

    def viewer_may_receive(self, topic: str) -> bool:
        return True

    @staticmethod
    def viewer_may_publish(topic: str) -> bool:
        return True


@asynccontextmanager
async def open_appliance(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Appliance]:
    """An appliance with the open policy, without TLS."""
    policy = f"{OpenPolicy.__module__}.{OpenPolicy.__qualname__}"
    monkeypatch.setattr("appliance.broker.server.plugin_configuration", lambda rights: {policy: {"rights": rights}})
    settings = Settings(
        _env_file=None,
        mqtt_bind="127.0.0.1",
        mqtt_broker_port=0,
        mqtt_use_tls=False,
        host="127.0.0.1",
        port=0,
        http_use_tls=False,
        iiot_advertised_host="127.0.0.1",
        iiot_data_dir=folder / "data",
    )
    appliance = Appliance(settings)
    async with appliance.started():
        assert isinstance(appliance.broker.plugin, OpenPolicy)
        running = asyncio.create_task(appliance.run(), name="appliance")
        yield appliance
        appliance.stop()
        await running


@asynccontextmanager
async def relay_to_websocket(http_port: int) -> AsyncIterator[int]:
    """A TCP port; who connects there is connected to the WebSocket ``/mqtt``: the suite's clients speak TCP only."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionClosed, OSError, asyncio.CancelledError):
            async with open_socket(f"ws://127.0.0.1:{http_port}/mqtt", subprotocols=[Subprotocol("mqtt")]) as socket:

                async def up() -> None:
                    # odd pieces, so that frames and packets do not align
                    while data := await reader.read(7):
                        await socket.send(data)
                    await socket.close()

                upward = asyncio.create_task(up())
                tasks.add(upward)
                try:
                    async for data in socket:
                        assert isinstance(data, bytes)
                        writer.write(data)
                finally:
                    upward.cancel()
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def outcome(port: int) -> tuple[dict[str, str], str]:
    """How the tests ended, in a process of their own, and all that the suite said meanwhile."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, paho_suite.__file__, SUITE, str(port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await child.communicate()
    assert child.returncode == 0, err.decode()
    found: dict[str, str] = json.loads(out)
    return found, err.decode()


@pytest.mark.skipif(not SUITE, reason="TEST_PAHO_SUITE names no checkout of github.com/eclipse/paho.mqtt.testing")
@pytest.mark.parametrize("transport", ["tcp", "websocket"])
async def test_all_eleven_client_tests_of_eclipse_paho_pass(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_appliance(tmp_path, monkeypatch) as appliance:
        if transport == "tcp":
            ended, said = await outcome(appliance.ports.mqtt)
        else:
            async with relay_to_websocket(appliance.ports.http) as port:
                ended, said = await outcome(port)
    assert ended == dict.fromkeys(paho_suite.TESTS, "passed"), said
