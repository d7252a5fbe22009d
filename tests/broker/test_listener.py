"""Who is let in, and who is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.broker import frames
from appliance.broker.listener import Limits
from tests.broker.rig import Rig, connect, packet, running, subscribe, text

REQUEST = "iiot/config/request"


async def answer(rig: Rig, *packets: bytes) -> bytes:
    client = await rig.client()
    client.send(*packets)
    return await client.end()


async def test_a_wrong_password_gets_connack_4_and_nothing_else(rig: Rig) -> None:
    await rig.pair("press-07")
    assert await answer(rig, connect("press-07", "press-07", b"wrong")) == b"\x20\x02\x00\x04"
    assert await answer(rig, connect("press-07", "press-07")) == b"\x20\x02\x00\x04"
    assert await answer(rig, connect("nobody", "nobody", b"wrong")) == b"\x20\x02\x00\x04"
    assert rig.logged_in == []


async def test_a_device_must_connect_under_its_own_client_id(rig: Rig) -> None:
    _, password = await rig.pair("press-07")
    assert await answer(rig, connect("press-08", "press-07", password.encode())) == b"\x20\x02\x00\x02"


async def test_mqtt_5_and_unknown_levels_are_refused_with_the_bytes_of_the_contract(rig: Rig) -> None:
    assert await answer(rig, connect("a", level=5)) == bytes.fromhex("2003008400")
    assert await answer(rig, connect("a", level=6)) == bytes.fromhex("20020001")
    assert await answer(rig, connect("a", name=b"HTTP")) == b""


async def test_mqtt_3_1_clients_are_served(rig: Rig) -> None:
    _, password = await rig.pair("press-07")
    client = await rig.client()
    client.send(connect("press-07", "press-07", password.encode(), name=b"MQIsdp", level=3))
    assert await client.packet() == (frames.CONNACK, b"\x00\x00")


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        frames.publish("telemetry/press-07/data", b"{}"),
        connect("press-07", flags=0x01),
        connect("press-07", flags=0x18),
        packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + text("a") + b"more"),
        packet(0x10, text("MQTT") + b"\x04\x42\x00\x3c" + text("a") + text("password")),
        packet(0x10, text("MQTT") + b"\x04"),
        b"\x10\xff\xff\x03" + b"x" * 100,
    ],
)
async def test_a_connection_that_does_not_begin_with_a_proper_connect_is_closed(rig: Rig, first: bytes) -> None:
    assert await answer(rig, first) == b""
    assert rig.broker.listener.connections == 0


async def test_without_the_plugin_nobody_is_let_in_and_nothing_is_intercepted(tmp_path: Path) -> None:
    async with running(tmp_path, viewers={"scada": "look-only"}, plugins={}) as rig:
        assert rig.broker.plugin is None
        _, password = await rig.pair("press-07")
        publish = frames.publish("telemetry/press-07/data", b"{}", qos=1, packet_id=1)
        assert await answer(rig, connect("press-07", "press-07", password.encode()), publish) == b"\x20\x02\x00\x05"
        assert await answer(rig, connect("SN-1")) == b"\x20\x02\x00\x05"
        assert await answer(rig, connect("x", "scada", b"look-only")) == b"\x20\x02\x00\x05"
        assert rig.buffer.backlog().waiting == 0
        assert rig.asked == []


async def test_an_unpaired_device_may_ask_and_gets_the_answer_alone(rig: Rig) -> None:
    asking, listening = await rig.client(), await rig.client()
    for client in (asking, listening):
        client.send(connect("SN-1001"), subscribe(1, "iiot/config/SN-1001"))
        assert await client.packets(2) == [(frames.CONNACK, b"\x00\x00"), (frames.SUBACK, b"\x00\x01\x01")]
    asking.send(frames.publish(REQUEST, b'{"serial": "SN-1001"}', qos=1, packet_id=2))
    assert await asking.packet() == (frames.PUBACK, b"\x00\x02")
    assert await asking.packet() == (0x32, text("iiot/config/SN-1001") + b"\x00\x01" + b'{"serial": "SN-1001"}')
    assert await listening.silent(), "the answer goes to the connection that asked, to no other"


async def test_an_unpaired_device_can_do_nothing_else(rig: Rig) -> None:
    await rig.pair("press-07")
    client = await rig.client()
    client.send(connect("press-07"))
    assert await client.packet() == (frames.CONNACK, b"\x00\x00")
    client.send(subscribe(1, "iiot/config/SN-2", "#", "command/press-07/action", "telemetry/press-07/data"))
    assert await client.packet() == (frames.SUBACK, b"\x00\x01" + bytes([0x80, 1, 0x80, 0x80]))
    client.send(frames.publish("telemetry/press-07/data", b"{}", qos=1, packet_id=1))
    assert await client.packet() == (frames.PUBACK, b"\x00\x01")
    assert rig.buffer.backlog().waiting == 0
    assert rig.presence.status("press-07").status == "unknown", "an unpaired connection is nobody's presence"


async def test_unpaired_connections_are_limited_per_address_and_end_after_a_minute(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(unpaired_per_address=2)) as rig:
        clients = []
        for number in range(2):
            clients.append(await rig.client())
            clients[-1].send(connect(f"SN-{number}"))
            assert await clients[-1].packet() == (frames.CONNACK, b"\x00\x00")
        assert await answer(rig, connect("SN-3")) == b"\x20\x02\x00\x03"
        listener = rig.broker.listener
        now = listener.time()
        listener.time = lambda: now + 61  # type: ignore[method-assign]
        listener.sweep()
        for client in clients:
            assert await client.end() == b""
        assert listener.connections == 0


async def test_who_sends_no_connect_within_ten_seconds_is_cut_off(rig: Rig) -> None:
    client = await rig.client()
    client.send(b"\x10")
    listener = rig.broker.listener
    while not listener.accepted:
        await asyncio.sleep(0.01)
    now = listener.time()
    listener.time = lambda: now + 10.5  # type: ignore[method-assign]
    listener.sweep()
    assert await client.end() == b""


async def test_of_too_many_that_have_not_logged_in_the_oldest_has_to_go(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.broker.listener.MOST_NOT_LOGGED_IN", 5)
    clients = []
    for _ in range(7):
        clients.append(await rig.client())
        clients[-1].send(b"\x10")
        await asyncio.sleep(0)
    for client in clients[:2]:
        assert await client.end() == b""
    clients[2].send(b"\x02\x00\x00")  # still there, and closed for what it sends
    assert await clients[2].end() == b""
    await rig.login("press-07")


async def test_while_very_many_have_not_logged_in_none_of_them_may_take_much_memory(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.broker.listener.CROWDED", 2)
    half = packet(0x10, b"\x00" * 4000)[:3000]
    patient = await rig.client()
    patient.send(half)
    _, password = await rig.pair("press-07")
    strangers = [await rig.client() for _ in range(3)]
    strangers[-1].send(half)
    assert await strangers[-1].end() == b""
    client = await rig.client()
    whole = connect("press-07", "press-07", password.encode(), will=("telemetry/press-07/data", b"x" * 2000))
    client.send(whole)
    assert await client.packet() == (frames.CONNACK, b"\0\0"), "one that comes whole may be larger"
    patient.send(half)
    assert await patient.end() == b""


async def test_more_connections_than_allowed_are_refused_as_unavailable(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(connections=1)) as rig:
        await rig.login("press-07")
        _, password = await rig.pair("press-08")
        assert await answer(rig, connect("press-08", "press-08", password.encode())) == b"\x20\x02\x00\x03"


async def test_a_device_that_does_not_read_is_dropped_and_costs_no_memory(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(send_buffer_bytes=4096)) as rig:
        client = await rig.login("press-07")
        client.send(subscribe(1, "command/press-07/action", qos=0))
        await client.packet()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        deliver, sent = rig.broker.listener.deliver, 0
        while deliver("press-07", "command/press-07/action", b"x" * 60_000, redelivery=False, on_ack=list):
            sent += 1
            assert sent < 1000, "the send buffer has no bound"
            await asyncio.sleep(0)
        listener = rig.broker.listener
        now = listener.time()
        listener.time = lambda: now + 11  # type: ignore[method-assign]
        listener.sweep()
        assert rig.presence.status("press-07").reason_code == "too_slow"


async def test_a_thousand_hostile_connections_leave_nothing_behind(rig: Rig) -> None:
    listener = rig.broker.listener
    tasks = len(asyncio.all_tasks())
    for index in range(1000):
        client = await rig.client()
        client.send([b"\x10\xff", connect("x", "y", b"z"), b"garbage", b""][index % 4])
        client.close()
    client = await rig.login("press-07")
    assert await client.silent()
    for _ in range(200):
        if listener.accepted == 1001 and not listener._closing and not listener._not_logged_in:
            break
        await asyncio.sleep(0.01)
    assert (listener.connections, len(listener._not_logged_in), len(listener._closing)) == (1, 0, 0)
    assert len(asyncio.all_tasks()) <= tasks + 2


async def test_who_takes_over_its_own_connection_is_let_in_while_all_places_are_taken(tmp_path: Path) -> None:
    """Its place becomes free; it must not wait until the dead connection is noticed."""
    limits = Limits(connections=3, viewers=1)
    async with running(tmp_path, viewers={"scada": "look-only"}, limits=limits) as rig:
        device, look = await rig.login("press-07"), connect("v", "scada", b"look-only")
        await rig.login("press-08")
        viewer = await rig.client()
        viewer.send(look)
        assert await viewer.packet() == (frames.CONNACK, b"\0\0")
        _, password = await rig.pair("press-09")
        full = b"\x20\x02\x00\x03"
        assert await answer(rig, connect("press-09", "press-09", password.encode())) == full
        assert await answer(rig, connect("other", "scada", b"look-only")) == full
        assert await answer(rig, connect("", "scada", b"look-only")) == full
        assert await answer(rig, connect("press-07", "press-07", b"wrong")) == b"\x20\x02\x00\x04"
        assert await answer(rig, connect("v", "scada", b"wrong")) == b"\x20\x02\x00\x04"
        assert await answer(rig, connect("SN-1")) == full
        again = await rig.login("press-07")
        assert await device.end() == b""
        viewing = await rig.client()
        viewing.send(look)
        assert await viewing.packet() == (frames.CONNACK, b"\0\0")
        assert await viewer.end() == b""
        assert await again.silent()
        assert rig.broker.listener.connections == 3
        assert rig.broker.listener._admission.viewers == 1
