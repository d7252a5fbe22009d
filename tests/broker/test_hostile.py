"""What clients must not be able to do to the appliance, paired or not."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from appliance.broker import frames
from appliance.broker.connection import CONNECT_BYTES, Connection
from appliance.broker.frames import MOST_FILTERS, ProtocolError, parse_subscribe
from appliance.broker.sessions import MOST_UNACKED, NativeSession
from tests.broker.rig import Rig, connect, packet, running, subscribe, text

TELEMETRY = "telemetry/press-07/data"


def session_of(rig: Rig, device_id: str) -> NativeSession:
    return rig.broker.listener._devices[device_id]


class Held:
    """Commits that are under way, until they are let go."""

    def __init__(self, rig: Rig) -> None:
        self._database = rig.database
        self._committed = rig.database.committed
        self._receipts: list[Any] = []
        self.some = asyncio.Event()
        rig.database.committed = self._hold

    def _hold(self, receipts: list[Any]) -> None:
        self._receipts += receipts
        self.some.set()

    def let_go(self) -> None:
        self._database.committed = self._committed
        self._committed(self._receipts)


@pytest.fixture
async def failing(rig: Rig) -> Rig:
    """A rig in which taking telemetry raises what nobody has foreseen."""

    def fail(device_id: str, payload: bytes, received_at_ms: int, receipt: object) -> None:
        raise OverflowError("a fault of ours")

    await rig.pair("press-07")
    client = await rig.login("press-07")
    for route in session_of(rig, "press-07")._routes.values():
        if route.topic == TELEMETRY:
            route.accept = fail
    rig.clients.insert(0, client)
    return rig


async def test_a_fault_of_ours_with_one_packet_ends_that_connection_and_is_logged_once(
    failing: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    client, other = failing.clients[0], await failing.login("press-08")
    client.send(frames.publish(TELEMETRY, b"{}", qos=1, packet_id=1))
    assert await client.end() == b""
    assert failing.presence.status("press-07").status == "offline"
    assert failing.gone == ["press-07"]
    assert await other.silent()
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_fault_of_ours_with_a_will_neither_ends_the_sweep_nor_leaves_the_device_online(
    failing: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    connection = session_of(failing, "press-07").connection
    connection.will = frames.Will(TELEMETRY, b"{}", 1, False)
    connection.keep_alive_s = 0.001
    connection.last_received_at -= 1
    failing.broker.listener.sweep()
    assert failing.presence.status("press-07").status == "offline"
    assert "the will of press-07 could not be taken" in caplog.text


async def test_the_sweep_goes_on_after_a_fault(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    listener, swept = rig.broker.listener, asyncio.Event()
    monkeypatch.setattr("appliance.broker.listener.SWEEP_S", 0)
    sweeps = iter([True, False])

    def sweep() -> None:
        if next(sweeps, False):
            raise OverflowError
        swept.set()

    monkeypatch.setattr(listener, "sweep", sweep)
    run = asyncio.create_task(listener.run())
    async with asyncio.timeout(5):
        await swept.wait()
    run.cancel()


async def test_acknowledgements_of_foreign_topics_wait_in_order_and_make_no_work_for_the_store(rig: Rig) -> None:
    client = await rig.login("press-07")
    held = Held(rig)
    client.send(frames.publish(TELEMETRY, b"{}", qos=1, packet_id=1))
    client.send(*(frames.publish("no/topic", b"", qos=2, packet_id=each) for each in range(2, 2 + MOST_UNACKED)))
    async with asyncio.timeout(5):
        await held.some.wait()
        session = session_of(rig, "press-07")
        while session.unacked <= MOST_UNACKED:
            await asyncio.sleep(0)
    assert session.connection.reading_paused, "a flood of foreign topics must push back like any other"
    assert rig.database.queued == 0
    held.let_go()
    answers = await client.packets(1 + MOST_UNACKED)
    assert [int.from_bytes(body, "big") for _, body in answers] == list(range(1, 2 + MOST_UNACKED))
    assert not session.unacked
    assert await client.silent(), "it must be read again"


async def test_a_repeat_over_a_new_connection_is_not_acknowledged_before_the_message_is_on_disk(rig: Rig) -> None:
    """QoS 2 in a session that persists: the first connection breaks while the commit is under way."""
    first = await rig.login("press-07", clean=False)
    held = Held(rig)
    first.send(frames.publish(TELEMETRY, b"{}", qos=2, packet_id=1))
    async with asyncio.timeout(5):
        await held.some.wait()
    second = await rig.login("press-07", clean=False)
    second.send(frames.publish(TELEMETRY, b"{}", qos=2, packet_id=1, dup=True))
    assert await second.silent(), "PUBREC before the commit"
    held.let_go()
    assert await second.packet() == (frames.PUBREC, b"\0\1")
    assert (await rig.buffer.take()).messages[1:] == []


async def test_what_could_not_be_stored_is_no_repeat_when_it_is_sent_again(rig: Rig) -> None:
    client = await rig.login("press-07", clean=False)
    held = Held(rig)
    client.send(frames.publish(TELEMETRY, b"{}", qos=2, packet_id=1))
    async with asyncio.timeout(5):
        await held.some.wait()
    rig.broker.listener.withhold(held._receipts)
    assert rig.broker.listener.unacked_bytes == 0
    rig.database.committed = held._committed
    again = await rig.login("press-07", clean=False)
    again.send(frames.publish(TELEMETRY, b'{"again": 1}', qos=2, packet_id=1, dup=True))
    assert await again.packet() == (frames.PUBREC, b"\0\1")
    assert (await rig.buffer.take()).messages[-1].payload == b'{"again": 1}'


async def test_a_device_that_is_not_paired_may_not_send_more_than_a_connect_is_long(rig: Rig) -> None:
    client = await rig.client()
    client.send(connect("SN-1"))
    await client.packet()
    client.send(packet(0x30, text("iiot/config/request") + b"x" * CONNECT_BYTES))
    assert await client.end() == b""
    assert rig.asked == []


def test_no_more_filters_are_read_than_a_packet_may_hold() -> None:
    body = b"\0\1" + (text("a") + b"\0") * (MOST_FILTERS + 1) + b"\xff\xff is malformed, were it read"
    with pytest.raises(ProtocolError, match=f"more than {MOST_FILTERS} filters"):
        parse_subscribe(body, 0, len(body))


async def test_what_comes_after_the_end_is_not_read(rig: Rig) -> None:
    """TLS hands over what was under way when the connection was closed."""
    _, password = await rig.pair("press-07")
    connection = await unfinished(rig)
    connection.data_received(connect("press-07", "press-07", b"wrong"))
    assert connection.closed
    connection.data_received(connect("press-07", "press-07", password.encode()))
    assert connection.session is None
    assert rig.logged_in == []


async def unfinished(rig: Rig) -> Connection:
    """The appliance's side of a connection that has not sent anything."""
    await rig.client()
    async with asyncio.timeout(5):
        while not rig.broker.listener._not_logged_in:
            await asyncio.sleep(0)
    return next(iter(rig.broker.listener._not_logged_in))


async def test_session_present_is_never_said_to_mqtt_3_1(rig: Rig) -> None:
    _, password = await rig.pair("press-07")
    for _ in range(2):
        client = await rig.client()
        client.send(connect("press-07", "press-07", password.encode(), clean=False, name=b"MQIsdp", level=3))
        assert await client.packet() == (frames.CONNACK, b"\0\0")
        client.send(subscribe(1, "command/press-07/action"))
        assert await client.packet() == (frames.SUBACK, b"\0\1\1")


async def test_a_flood_of_bad_readings_is_one_line_a_minute_in_the_log(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = await rig.login("press-07")
    for each in range(1, 101):
        client.send(frames.publish(TELEMETRY, b"no JSON", qos=1, packet_id=each))
    await client.packets(100)
    assert len([record for record in caplog.records if "parked" in record.message]) == 1
    assert rig.buffer.backlog().parked == 100


async def test_sockets_are_asked_for_signs_of_life(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        connection = await unfinished(rig)
        peer = connection._transport.get_extra_info("socket")
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_a_device_id_that_changed_hands_while_nobody_was_connected_begins_without_a_session(rig: Rig) -> None:
    first = await rig.login("press-07", clean=False)
    first.send(subscribe(1, "command/press-07/action"), b"\xe0\x00")
    assert await first.packet() == (frames.SUBACK, b"\0\1\1")
    assert await first.end() == b""
    _, password = await rig.pair("press-07", "SN-another")
    second = await rig.client()
    second.send(connect("press-07", "press-07", password.encode(), clean=False))
    assert await second.packet() == (frames.CONNACK, b"\0\0"), "session present"
    sent = rig.broker.listener.deliver("press-07", "command/press-07/action", b"{}", redelivery=False, on_ack=list)
    assert not sent
