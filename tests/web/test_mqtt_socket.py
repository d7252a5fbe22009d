"""MQTT over WebSocket: real clients against the whole appliance, over TLS; and what its server bears of strangers."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from appliance import socket_door
from appliance.app import Appliance
from appliance.broker import listener
from appliance.broker.sessions import NativeSession
from appliance.contract.odoo import DeviceConfig
from appliance.identity import read_identity
from appliance.services.credentials import Credentials
from appliance.settings import Settings
from appliance.store.device_rows import Claim
from appliance.store.devices import Device
from appliance.web.mqtt_socket import MqttSockets
from tests.broker.rig import connect, packet, puback, subscribe, text

KEY = "a-key-for-tests-0123456789"
VIEWER, VIEWER_PASSWORD = "scada", "a-viewers-password"
WITHIN_S = 10.0
MOST_PAYLOAD = 100_000
MQTT = [Subprotocol("mqtt")]
ACCEPTED = b"\x20\x02\x00\x00"


@dataclass
class Box:
    """A whole appliance, and what a client needs to reach it."""

    appliance: Appliance
    running: asyncio.Task[None]
    trust: ssl.SSLContext
    credentials: Credentials

    @property
    def port(self) -> int:
        return self.appliance.ports.http

    async def pair(self, device_id: str) -> tuple[Device, str]:
        config = DeviceConfig(device_id=device_id)
        claim = Claim(serial=f"SN-{device_id}", token_digest=device_id.encode(), request_id="r", config=config)
        await self.appliance.registry.pair(claim)
        device = self.appliance.registry.get(device_id)
        assert device is not None
        return device, self.credentials.password(device_id, device.generation)

    @asynccontextmanager
    async def socket(self, **options: Any) -> AsyncIterator[ClientConnection]:
        options = {"subprotocols": MQTT, "compression": None, "ping_interval": None} | options
        async with open_socket(f"wss://127.0.0.1:{self.port}/mqtt", ssl=self.trust, **options) as websocket:
            yield websocket

    @asynccontextmanager
    async def login(self, device_id: str, *, keep_alive_s: int = 60, **options: Any) -> AsyncIterator[ClientConnection]:
        _, password = await self.pair(device_id)
        async with self.socket(**options) as websocket:
            await websocket.send(connect(device_id, device_id, password.encode(), keep_alive_s=keep_alive_s))
            assert await received(websocket, len(ACCEPTED)) == ACCEPTED
            yield websocket

    async def offline(self, device_id: str) -> tuple[str | None, str]:
        """Why the device is offline, as soon as it is: the code, and the end of the explanation."""
        async with asyncio.timeout(WITHIN_S):
            while (presence := self.appliance.presence.status(device_id)).status == "online":
                await asyncio.sleep(0.01)
        return presence.reason_code, (presence.reason or "").rpartition(": ")[2]


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    settings = Settings(
        _env_file=None,
        mqtt_bind="127.0.0.1",
        mqtt_broker_port=0,
        mqtt_broker_username=VIEWER,
        mqtt_broker_password=VIEWER_PASSWORD,
        mqtt_max_payload_bytes=MOST_PAYLOAD,
        host="127.0.0.1",
        port=0,
        iiot_api_key=KEY,
        iiot_advertised_host="127.0.0.1",
        iiot_data_dir=tmp_path / "data",
    )
    appliance = Appliance(settings)
    async with appliance.started():
        running = asyncio.create_task(appliance.run(), name="appliance")
        identity = await asyncio.to_thread(read_identity, settings)
        trust = ssl.create_default_context(cadata=identity.certificates.ca_pem)
        yield Box(appliance, running, trust, identity.credentials)
        appliance.stop()
        async with asyncio.timeout(WITHIN_S):
            await running
    assert not [task for task in asyncio.all_tasks() if "WebSocket" in task.get_name()]


async def received(websocket: ClientConnection, size: int) -> bytes:
    """So many bytes; frames do not matter."""
    data = b""
    async with asyncio.timeout(WITHIN_S):
        while len(data) < size:
            piece = await websocket.recv()
            assert isinstance(piece, bytes)
            data += piece
    return data


async def closed(websocket: ClientConnection) -> int | None:
    """The status code that the server closes with."""
    async with asyncio.timeout(WITHIN_S):
        try:
            while True:
                await websocket.recv()
        except ConnectionClosed as end:
            return end.rcvd.code if end.rcvd else None


def publish(packet_id: int, topic: str, payload: bytes) -> bytes:
    return packet(0x32, text(topic) + packet_id.to_bytes(2, "big") + payload)


class Paho:
    """paho in a thread of its own, over WebSocket and TLS."""

    def __init__(self, box: Box, client_id: str, login: tuple[str, str] | None) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.codes: list[int] = []
        self.subscribed, self.acknowledged, self.arrived = threading.Event(), threading.Event(), threading.Event()
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, transport="websockets", protocol=paho.MQTTv311
        )
        self.client.tls_set_context(box.trust)
        if login is not None:
            self.client.username_pw_set(*login)
        self.client.on_subscribe = lambda client, data, mid, codes, properties: self.subscribed.set()
        self.client.on_publish = lambda client, data, mid, code, properties: self.acknowledged.set()
        self.client.on_message = self._on_message
        self._port = box.port

    def _on_message(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        self.messages.append((message.topic, message.payload))
        self.arrived.set()

    async def subscribe(self, topic: str) -> None:
        self.client.on_connect = lambda client, data, flags, code, properties: client.subscribe(topic, 1)
        await asyncio.to_thread(self.client.connect, "127.0.0.1", self._port)
        self.client.loop_start()
        await self.until(self.subscribed)

    async def until(self, event: threading.Event) -> None:
        assert await asyncio.to_thread(event.wait, WITHIN_S)

    async def close(self) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)


@asynccontextmanager
async def paho_client(box: Box, client_id: str, login: tuple[str, str] | None = None) -> AsyncIterator[Paho]:
    client = Paho(box, client_id, login)
    try:
        yield client
    finally:
        await client.close()


# --- ordinary clients --------------------------------------------------------------------------------------------


async def test_paho_asks_for_its_configuration_publishes_and_gets_a_command_while_a_viewer_looks_on(box: Box) -> None:
    templates = box.appliance.settings.topics
    request = {"serial": "SN-1", "token": "K7QF", "request_id": "one"}
    async with paho_client(box, "SN-1") as unpaired:
        await unpaired.subscribe(templates.answer_topic("SN-1"))
        unpaired.client.publish(templates.config_request, json.dumps(request), 1)
        await unpaired.until(unpaired.arrived)
        # there is no Odoo here: that it cannot be asked is the answer
        assert json.loads(unpaired.messages[0][1])["status"] == "pending"
    device, password = await box.pair("press-07")
    async with (
        paho_client(box, "screen", (VIEWER, VIEWER_PASSWORD)) as viewer,
        paho_client(box, "press-07", ("press-07", password)) as client,
    ):
        await viewer.subscribe(device.topics.telemetry)
        await client.subscribe(device.topics.command)
        client.client.publish(device.topics.telemetry, b'{"temperature": 71.3}', 1)
        await client.until(client.acknowledged)
        await viewer.until(viewer.arrived)
        assert viewer.messages == [(device.topics.telemetry, b'{"temperature": 71.3}')]
        async with httpx.AsyncClient(verify=box.trust, headers={"X-API-Key": KEY}) as api:
            url = f"https://127.0.0.1:{box.port}"
            order = {"device_id": "press-07", "action": "reset"}
            sent = (await api.post(f"{url}/api/v1/command/send", json=order)).raise_for_status().json()
            await client.until(client.arrived)
            assert json.loads(client.messages[0][1])["action"] == "reset"
            assert json.loads(client.messages[0][1])["command_id"] == sent["command_id"]
            status = (await api.get(f"{url}/api/v1/device/press-07/status")).json()
        assert (status["connection"]["status"], status["connection"]["address"]) == ("online", "127.0.0.1")
        assert status["counters"]["received"] == 1
    assert (await box.offline("press-07"))[0] == "closed_by_device"


async def test_a_wrong_password_is_refused_as_over_tcp(box: Box) -> None:
    await box.pair("press-07")
    async with box.socket() as websocket:
        await websocket.send(connect("press-07", "press-07", b"wrong"))
        assert await received(websocket, 4) == b"\x20\x02\x00\x04"
        assert await closed(websocket) == 1000
    assert box.appliance.presence.status("press-07").status != "online"


async def test_packets_in_pieces_of_frames_and_many_in_one_are_all_understood(box: Box) -> None:
    device, password = await box.pair("press-07")
    topic = device.topics.telemetry
    login = connect("press-07", "press-07", password.encode())
    async with box.socket() as websocket:
        assert websocket.subprotocol == "mqtt"
        await websocket.send(b"")
        for byte in login:
            await websocket.send(bytes([byte]))
        assert await received(websocket, 4) == ACCEPTED
        one, two, three = (publish(number, topic, b'{"n": %d}' % number) for number in (1, 2, 3))
        await websocket.send(one + two + three[:9])
        await websocket.send([three[9:12], b"", three[12:] + b"\xc0\x00"])  # fragments of one message
        acknowledged = puback(1) + puback(2) + puback(3)
        answer = await received(websocket, len(acknowledged) + 2)
    assert answer.replace(b"\xd0\x00", b"") == acknowledged


async def test_a_large_reading_sent_before_the_answer_to_connect_is_stored(box: Box) -> None:
    device, password = await box.pair("press-07")
    reading = publish(1, device.topics.telemetry, json.dumps("x" * (MOST_PAYLOAD - 2)).encode())
    async with box.socket() as websocket:
        await websocket.send(connect("press-07", "press-07", password.encode()))
        await websocket.send(reading)
        assert await received(websocket, 8) == ACCEPTED + puback(1)


async def test_a_newer_connection_takes_over_from_a_socket(box: Box) -> None:
    async with box.login("press-07") as first, box.login("press-07"):
        assert await closed(first) == 1000
        assert box.appliance.presence.status("press-07").status == "online"


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offered", [None, ["mqttv5"], ["MQTT", "chat"]])
async def test_without_the_sub_protocol_the_handshake_is_refused(box: Box, offered: list[str] | None) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with box.socket(subprotocols=offered):
            pass
    response = refused.value.response
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
    assert json.loads(response.body or b"")["code"] == "bad_request"
    assert box.appliance.broker.listener.accepted == 0


async def test_only_its_own_path_is_a_socket_and_that_is_nothing_else(box: Box) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        async with open_socket(f"wss://127.0.0.1:{box.port}/health", ssl=box.trust, subprotocols=MQTT):
            pass
    async with httpx.AsyncClient(verify=box.trust, base_url=f"https://127.0.0.1:{box.port}") as client:
        assert (await client.get("/mqtt")).status_code == 426
        listed = (await client.get("/")).json()["endpoints"]
    assert {"method": "WS", "path": "/mqtt", "key": False, "scope": None} in listed


async def test_a_text_frame_ends_the_connection(box: Box) -> None:
    async with box.login("press-07") as websocket:
        await websocket.send("\x30\x00")
        assert await closed(websocket) == 1003
    assert await box.offline("press-07") == ("protocol_error", "a WebSocket frame that is not binary")


async def test_a_message_larger_than_any_packet_ends_the_connection(box: Box) -> None:
    async with box.login("press-07") as websocket:
        await websocket.send(bytes(MOST_PAYLOAD + 100_000))
        assert await closed(websocket) == 1009
    assert await box.offline("press-07") == ("protocol_error", "a WebSocket message is too large")


async def test_a_message_of_endless_empty_fragments_ends_the_connection(box: Box) -> None:
    async with box.login("press-07") as websocket:
        for number in range(socket_door.MOST_FRAGMENTS + 2):
            frame = Frame(Opcode.CONT if number else Opcode.BINARY, b"", fin=False)
            websocket.transport.write(frame.serialize(mask=True))
        assert await closed(websocket) == 1009


async def test_a_malformed_packet_ends_the_connection(box: Box) -> None:
    async with box.login("press-07") as websocket:
        await websocket.send(b"\xc0\x01\x00")
        assert await closed(websocket) == 1000
    assert (await box.offline("press-07"))[0] == "protocol_error"


async def test_a_stranger_that_sends_no_connect_is_cut_off(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "CONNECT_WITHIN_S", 0.05)
    async with box.socket() as websocket:
        await websocket.send(b"\x10")
        assert await closed(websocket) is None


async def test_a_stranger_cannot_fill_the_memory_with_a_message_that_has_no_end(box: Box) -> None:
    async with box.socket() as websocket:
        frame = Frame(Opcode.BINARY, bytes(150_000)).serialize(mask=True)
        websocket.transport.write(frame[:-1])
        assert await closed(websocket) is None


async def test_of_too_many_strangers_the_oldest_has_to_go(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_door, "MOST_UNANSWERED", 2)
    async with box.login("press-07") as known, box.socket() as oldest, box.socket(), box.socket() as newest:
        assert await closed(oldest) is None
        for websocket in (known, newest):
            pong = await websocket.ping()
            await asyncio.wait_for(pong, WITHIN_S)


# --- how connections end -----------------------------------------------------------------------------------------


async def test_a_killed_socket_is_a_lost_connection_and_a_silent_one_times_out(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with box.login("press-07") as websocket:
        websocket.transport.abort()
        assert (await box.offline("press-07"))[0] == "connection_lost"
    monkeypatch.setattr(listener, "SWEEP_S", 0.05)
    async with box.login("press-08", keep_alive_s=1) as websocket:
        assert await closed(websocket) is None
    assert (await box.offline("press-08"))[0] == "keep_alive"


async def test_a_peer_that_answers_no_ping_is_gone_but_not_one_that_is_not_read(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = box.appliance._web.config
    monkeypatch.setattr(config, "ws_ping_interval", 0.1)
    monkeypatch.setattr(config, "ws_ping_timeout", 0.1)
    async with box.login("press-07", keep_alive_s=0) as unread, box.login("press-08", keep_alive_s=0) as deaf:
        sessions = box.appliance.broker.listener._devices
        sessions["press-07"].connection.pause_reading()
        await unread.send(b"\xc0\x00")  # was being waited for already
        assert await received(unread, 2) == b"\xd0\x00"
        before = sessions["press-07"].connection.last_received_at
        await unread.send(b"\xc0\x00" + b"\xc0\x00")
        await unread.send(b"\xc0\x00")  # the server stops reading behind the first message that is not taken
        monkeypatch.setattr(deaf.protocol, "send_pong", lambda data: None)
        monkeypatch.setattr(deaf.protocol, "recv_frame", _without_pongs(deaf))
        assert (await box.offline("press-08"))[0] == "keep_alive"
        assert box.appliance.presence.status("press-07").status == "online"
        assert sessions["press-07"].connection.last_received_at == before
        sessions["press-07"].connection.resume_reading()
        assert await received(unread, 6) == b"\xd0\x00" * 3


def _without_pongs(websocket: ClientConnection) -> Callable[[Frame], None]:
    handle = websocket.protocol.recv_frame

    def recv_frame(frame: Frame) -> None:
        if frame.opcode is not Opcode.PING:
            handle(frame)

    return recv_frame


async def test_the_clocks_of_http_do_not_end_a_socket(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_door.UpgradingHttp, "idle_s", 0.1)
    loop = asyncio.get_running_loop()
    async with box.login("press-07") as websocket:
        end = loop.time() + 0.3
        while loop.time() < end:
            await asyncio.wait_for(await websocket.ping(), WITHIN_S)


@asynccontextmanager
async def stuffed(box: Box) -> AsyncIterator[NativeSession]:
    """The session of a device that does not read, and has been sent all that the appliance keeps for it."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", box.port))
    async with box.login("press-07", sock=raw, server_hostname="127.0.0.1") as websocket:
        device = box.appliance.registry.get("press-07")
        assert device is not None
        await websocket.send(subscribe(1, device.topics.command))
        await received(websocket, 5)
        websocket.transport.pause_reading()
        session = box.appliance.broker.listener._devices["press-07"]
        connection, payload = session.connection, bytes(50_000)
        most = box.appliance.broker.listener.limits.send_buffer_bytes + 2 * len(payload)
        async with asyncio.timeout(WITHIN_S):
            while not connection.writing_paused:
                session.send(device.topics.command, payload, redelivery=False, on_ack=lambda: None)
                session._state.in_flight.clear()
                assert connection._transport.get_write_buffer_size() <= most
                await asyncio.sleep(0)
        yield session
        websocket.transport.abort()


async def test_who_does_not_read_is_dropped_and_what_it_held_is_freed(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.broker.connection.SLOW_READER_S", 0.2)
    monkeypatch.setattr(listener, "SWEEP_S", 0.05)
    async with stuffed(box):
        assert (await box.offline("press-07"))[0] == "too_slow"
        async with asyncio.timeout(socket_door.CLOSE_WITHIN_S / 2):  # at once, that is
            while box.appliance._web.server_state.sockets:
                await asyncio.sleep(0.01)
        assert not box.appliance.broker.listener._closing


async def test_who_does_not_read_does_not_hold_up_a_stop(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    async with stuffed(box):
        box.appliance.stop()
        async with asyncio.timeout(3):
            await box.running
    assert box.appliance.presence.status("press-07").reason_code == "appliance_stopped"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_pings_of_somebody_who_does_not_read_the_pongs_are_not_answered(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with box.login("press-07") as websocket:
        (served,) = box.appliance._web.server_state.sockets
        connection = box.appliance.broker.listener._devices["press-07"].connection
        served.pause_writing()
        written: list[bytes] = []
        monkeypatch.setattr(served.transport, "write", written.append)
        before = connection.last_received_at
        for _ in range(100):
            websocket.transport.write(Frame(Opcode.PING, bytes(125)).serialize(mask=True))
        await websocket.send(b"\xc0\x00")
        async with asyncio.timeout(WITHIN_S):
            while connection.last_received_at == before:
                await asyncio.sleep(0.01)
        assert not written
        assert not served.conn.data_to_send()
        monkeypatch.undo()
        served.resume_writing()
        assert await received(websocket, 2) == b"\xd0\x00"


async def test_a_stop_acknowledges_what_was_read_closes_sockets_and_publishes_no_will(box: Box) -> None:
    device, password = await box.pair("press-07")
    topic = device.topics.telemetry
    async with box.socket() as websocket, box.login("press-08"):
        await websocket.send(connect("press-07", "press-07", password.encode(), will=(topic, b'{"will": true}')))
        assert await received(websocket, 4) == ACCEPTED
        await websocket.send(b"".join(publish(number, topic, b'{"n": 1}') for number in range(1, 51)))
        async with asyncio.timeout(WITHIN_S):
            while box.appliance.broker.listener._devices["press-07"].unacked == 0:
                await asyncio.sleep(0)
        box.appliance.stop()
        acknowledged = b"".join(puback(number) for number in range(1, 51))
        assert await received(websocket, len(acknowledged)) == acknowledged
        async with asyncio.timeout(3):
            assert await closed(websocket) == 1001
            await box.running
    assert box.appliance.presence.status("press-07").reason_code == "appliance_stopped"
    assert box.appliance.buffer.backlog().waiting == 50


async def test_nobody_is_let_in_any_more_once_it_stops() -> None:
    sockets = MqttSockets(open_connection=lambda: pytest.fail("let in"))
    sockets.stop()
    sent: list[Any] = []

    class Refused:
        def __init__(self) -> None:
            self.scope = {"subprotocols": MQTT}

        async def send_denial_response(self, response: Any) -> None:
            sent.append(response.status_code)

    await sockets.endpoint(Refused())  # type: ignore[arg-type]
    assert sent == [503]


@pytest.mark.parametrize(
    "head",
    [
        b"Sec-WebSocket-Version: 13\r\n",  # no key
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nX-Long: " + b"a" * 9000 + b"\r\n",
    ],
)
async def test_a_malformed_handshake_is_refused_without_a_word_in_the_log(
    box: Box, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", box.port, ssl=box.trust)
    writer.write(b"GET /mqtt HTTP/1.1\r\nHost: box\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + head + b"\r\n")
    async with asyncio.timeout(WITHIN_S):
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    writer.transport.abort()
    assert b" 101 " not in answer
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
