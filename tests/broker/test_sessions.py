"""Native sessions of devices: what they may publish and receive, and when they are acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.broker import frames
from appliance.broker.listener import Limits
from appliance.contract.odoo import DeviceConfig
from appliance.store.devices import DeviceUpdate
from tests.broker.rig import Rig, connect, packet, puback, running, subscribe, text

TOPIC = "telemetry/press-07/data"


async def test_a_reading_is_on_disk_when_its_puback_arrives(rig: Rig) -> None:
    client = await rig.login("press-07")
    client.send(frames.publish(TOPIC, b'{"t": 1}', qos=1, packet_id=7))
    assert await client.packet() == (frames.PUBACK, b"\x00\x07")
    batch = await rig.buffer.take()
    assert [(message.device, message.payload) for message in batch.messages] == [("press-07", b'{"t": 1}')]


async def test_nothing_is_acknowledged_while_the_commit_is_still_under_way(rig: Rig) -> None:
    client = await rig.login("press-07")
    held, entered = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(connection: object) -> None:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(held.wait(), loop).result()

    holding = rig.database.submit(hold)
    await entered.wait()
    client.send(frames.publish(TOPIC, b"{}", qos=1, packet_id=1))
    assert await client.silent()
    held.set()
    await holding
    assert await client.packet() == (frames.PUBACK, b"\x00\x01")


async def test_acknowledgements_leave_in_the_order_of_their_publishes(rig: Rig) -> None:
    client = await rig.login("press-07")
    sent = []
    for number in range(1, 61):
        # every third goes to a foreign topic and needs no commit, every fifth is not JSON and is parked
        topic = "telemetry/press-08/data" if number % 3 == 0 else TOPIC
        payload = b"not json" if number % 5 == 0 else b"{}"
        sent.append(frames.publish(topic, payload, qos=1, packet_id=number))
    client.send(*sent)
    ids = [int.from_bytes(body, "big") for _, body in await client.packets(60)]
    assert ids == list(range(1, 61))


async def test_a_foreign_topic_is_acknowledged_dropped_and_counted(rig: Rig) -> None:
    client = await rig.login("press-07")
    client.send(frames.publish("telemetry/press-08/data", b"{}", qos=1, packet_id=1))
    assert await client.packet() == (frames.PUBACK, b"\x00\x01")
    await rig.refusals.write()
    assert rig.buffer.backlog().waiting == 0
    assert [line.refused for line in await rig.buffer.ledger("press-07")] == [1]


async def test_what_is_not_json_is_acknowledged_and_parked_with_the_reason(rig: Rig) -> None:
    client = await rig.login("press-07")
    client.send(frames.publish(TOPIC, b"\xff\xfe", qos=1, packet_id=1))
    assert await client.packet() == (frames.PUBACK, b"\x00\x01")
    rows = await rig.database.run(
        lambda connection: connection.execute("SELECT device, code, payload FROM parked").fetchall()
    )
    assert rows == [("press-07", "not_json", b'{"base64":"//4="}')]
    assert rig.buffer.backlog().parked == 1


async def test_a_payload_over_the_limit_ends_the_connection_unacknowledged(rig: Rig) -> None:
    client = await rig.login("press-07")
    client.send(frames.publish(TOPIC, b'"' + b"x" * 262_144 + b'"', qos=1, packet_id=1))
    assert await client.end() == b""
    assert "too large" in (rig.presence.status("press-07").reason or "")
    assert rig.buffer.backlog().waiting == 0


async def test_the_largest_payload_is_taken_whatever_pieces_it_comes_in(rig: Rig) -> None:
    client = await rig.login("press-07")
    payload = b'"' + b"x" * (262_144 - 2) + b'"'
    packet = frames.publish(TOPIC, payload, qos=1, packet_id=1)
    for start in range(0, len(packet), 10_007):
        client.send(packet[start : start + 10_007])
        await client.writer.drain()
    assert await client.packet() == (frames.PUBACK, b"\x00\x01")
    assert (await rig.buffer.take()).messages[0].payload == payload


async def test_packets_that_come_byte_by_byte_are_understood(rig: Rig) -> None:
    client = await rig.login("press-07")
    for byte in frames.publish(TOPIC, b"{}", qos=1, packet_id=1) + b"\xc0\x00":
        client.send(bytes([byte]))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert sorted([await client.packet(), await client.packet()]) == [
        (frames.PUBACK, b"\x00\x01"),
        (frames.PINGRESP, b""),
    ]


async def test_qos_2_is_stored_once_however_often_it_is_repeated_before_its_release(rig: Rig) -> None:
    client = await rig.login("press-07")
    first = frames.publish(TOPIC, b"{}", qos=2, packet_id=5)
    again = frames.publish(TOPIC, b"{}", qos=2, packet_id=5, dup=True)
    client.send(first, again, again)
    assert [await client.packet() for _ in range(3)] == [(frames.PUBREC, b"\x00\x05")] * 3
    client.send(frames.PUBREL_HEAD + b"\x00\x05")
    assert await client.packet() == (frames.PUBCOMP, b"\x00\x05")
    assert rig.buffer.backlog().waiting == 1


async def test_a_device_gets_its_own_topics_and_no_other(rig: Rig) -> None:
    client = await rig.login("press-07")
    client.send(
        subscribe(3, "command/press-07/action", "command/press-08/action", "ota/+/notify", "#", TOPIC, "$SYS/#")
    )
    assert await client.packet() == (frames.SUBACK, b"\x00\x03" + bytes([1, 0x80, 1, 1, 0x80, 0x80]))
    assert rig.ready == ["press-07"]
    deliver = rig.broker.listener.deliver
    done: list[int] = []
    assert deliver("press-07", "command/press-07/action", b"go", redelivery=False, on_ack=lambda: done.append(1))
    first, body = await client.packet()
    assert (first, body) == (0x32, text("command/press-07/action") + b"\x00\x01" + b"go")
    client.send(puback(1))
    assert await client.silent()
    assert done == [1]
    assert not deliver("press-07", "command/press-08/action", b"x", redelivery=False, on_ack=list) or (
        await client.packet()
    )[1].startswith(text("command/press-08/action")), "'#' must not open foreign topics"


async def test_what_was_not_acknowledged_keeps_its_id_and_carries_dup_in_a_session_that_persisted(rig: Rig) -> None:
    topic = "command/press-07/action"
    client = await rig.login("press-07", clean=False)
    client.send(subscribe(1, topic))
    await client.packet()
    deliver = rig.broker.listener.deliver
    acked: list[str] = []
    assert deliver("press-07", topic, b"go", redelivery=False, on_ack=lambda: acked.append("first"))
    _, body = await client.packet()
    client.close()
    while rig.gone != ["press-07"]:
        await asyncio.sleep(0.01)
    device = rig.registry.get("press-07")
    assert device is not None
    back = await rig.client()
    back.send(
        connect("press-07", "press-07", rig.credentials.password("press-07", device.generation).encode(), clean=False)
    )
    assert await back.packet() == (frames.CONNACK, b"\x01\x00")
    assert rig.ready == ["press-07", "press-07"], "its subscription persisted, so it is ready at once"
    assert deliver("press-07", topic, b"go", redelivery=True, on_ack=lambda: acked.append("second"))
    assert await back.packet() == (0x3A, body)
    back.send(puback(1))
    assert await back.silent()
    assert acked == ["second"]


async def test_what_earlier_connections_left_unacknowledged_does_not_fill_the_window_for_ever(rig: Rig) -> None:
    topic = "command/press-07/action"
    deliver = rig.broker.listener.deliver
    for number in range(25):
        client = await rig.login("press-07", clean=False)
        client.send(subscribe(1, topic))
        await client.packet()
        assert deliver("press-07", topic, b"%d" % number, redelivery=False, on_ack=list), f"refused at {number}"
        assert (await client.packet())[1].endswith(b"%d" % number)
        client.close()
        while rig.presence.status("press-07").status == "online":
            await asyncio.sleep(0.005)


async def test_a_device_that_reads_again_is_offered_what_waits(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(send_buffer_bytes=4096)) as rig:
        client = await rig.login("press-07")
        client.send(subscribe(1, "command/press-07/action", qos=0))
        await client.packet()
        transport = client.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        deliver = rig.broker.listener.deliver
        while deliver("press-07", "command/press-07/action", b"x" * 60_000, redelivery=False, on_ack=list):
            await asyncio.sleep(0)
        offered = len(rig.ready)
        transport.resume_reading()
        while len(rig.ready) == offered:
            await client.packet()


async def test_a_device_that_sends_too_much_is_not_read_until_the_next_second(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(messages_per_s=10)) as rig:
        client, other = await rig.login("press-07"), await rig.login("press-08")
        packets = [frames.publish(TOPIC, b"{}", qos=1, packet_id=number) for number in range(1, 31)]
        client.send(*packets[:10])
        await client.packets(10)
        client.send(*packets[10:])
        await client.writer.drain()
        for _ in range(5):
            assert await other.silent(), "the other device is read"
        assert rig.buffer.backlog().last_seq == 10
        rig.broker.listener.sweep()
        ids = [int.from_bytes(body, "big") for _, body in await client.packets(20)]
        assert ids == list(range(11, 31)), "nothing is lost, it only takes its time"
        assert rig.presence.status("press-07").status == "online"


async def test_the_newer_connection_takes_over_and_the_older_is_closed_first(rig: Rig) -> None:
    old = await rig.login("press-07")
    new = await rig.login("press-07")
    assert await old.end() == b""
    assert await new.silent()
    status = rig.presence.status("press-07")
    assert (status.status, status.takeovers) == ("online", 1)


async def test_a_device_that_is_silent_for_one_and_a_half_keep_alives_is_ended(rig: Rig) -> None:
    client = await rig.login("press-07", keep_alive_s=10)
    listener = rig.broker.listener
    now = listener.time()
    listener.time = lambda: now + 14.9  # type: ignore[method-assign]
    listener.sweep()
    assert rig.presence.status("press-07").status == "online"
    listener.time = lambda: now + 15.5  # type: ignore[method-assign]
    listener.sweep()
    assert await client.end() == b""
    assert rig.presence.status("press-07").reason_code == "keep_alive"


async def test_a_device_whose_access_ends_is_disconnected(rig: Rig) -> None:
    client = await rig.login("press-07")
    await rig.registry.set_enabled("press-07", False)
    assert await client.end() == b""
    again = await rig.client()
    device = rig.registry.get("press-07")
    assert device is not None
    again.send(connect("press-07", "press-07", rig.credentials.password("press-07", device.generation).encode()))
    assert await again.packet() == (frames.CONNACK, bytes([0, frames.NOT_AUTHORIZED]))


async def test_a_will_on_an_own_topic_is_stored_when_the_connection_is_lost(rig: Rig) -> None:
    device, password = await rig.pair("press-07")
    for topic, graceful in ((TOPIC, False), ("telemetry/press-08/data", False), (TOPIC, True)):
        client = await rig.client()
        client.send(connect("press-07", "press-07", password.encode(), will=(topic, b'{"gone": true}')))
        await client.packet()
        if graceful:
            client.send(b"\xe0\x00")
            await client.end()
        else:
            client.close()
        while rig.presence.status("press-07").status != "offline":
            await asyncio.sleep(0.01)
    assert [message.payload for message in (await rig.buffer.take()).messages] == [b'{"gone": true}']
    assert device.device_id == "press-07"


MALFORMED = {
    "QoS 3": packet(0x36, text(TOPIC) + b"\x00\x01{}"),
    "DUP with QoS 0": packet(0x38, text(TOPIC) + b"{}"),
    "a topic longer than the packet": packet(0x32, b"\xff\xff" + b"x"),
    "packet id 0": packet(0x32, text(TOPIC) + b"\x00\x00{}"),
    "no packet id": packet(0x32, text(TOPIC) + b"\x00"),
    "a wildcard in the topic": packet(0x32, text("telemetry/+/data") + b"\x00\x01{}"),
    "an empty topic": packet(0x32, text("") + b"\x00\x01{}"),
    "a topic that is no UTF-8": packet(0x32, text(b"\xff\xff") + b"\x00\x01{}"),
    "a topic with U+0000": packet(0x32, text("a\0b") + b"\x00\x01{}"),
    "SUBSCRIBE without filters": packet(0x82, b"\x00\x01"),
    "SUBSCRIBE with wrong flags": packet(0x80, b"\x00\x01" + text(TOPIC) + b"\x00"),
    "SUBSCRIBE with QoS 3": packet(0x82, b"\x00\x01" + text(TOPIC) + b"\x03"),
    "a malformed filter": packet(0x82, b"\x00\x01" + text("a/#/b") + b"\x00"),
    "a second CONNECT": connect("press-07"),
    "PINGREQ with a body": packet(0xC0, b"x"),
    "a packet for servers only": packet(0xD0, b""),
    "type 0": packet(0x00, b""),
    "type 15": packet(0xF0, b""),
    "PUBACK of a wrong length": packet(0x40, b"\x01"),
    "a remaining length of five bytes": b"\x30\xff\xff\xff\xff\x01",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_packet_ends_this_connection_and_no_other(rig: Rig, name: str) -> None:
    other = await rig.login("press-08")
    client = await rig.login("press-07")
    client.send(MALFORMED[name])
    assert await client.end() == b""
    assert rig.presence.status("press-07").reason_code == "protocol_error"
    assert await other.silent()
    assert rig.buffer.backlog().waiting == 0


# --- topics that change while the device is connected ----------------------------------------------------------

OLD = {"telemetry": "old/{device}/t", "command": "old/{device}/c", "config_response": "old/{device}/cfg"}
NEW = {"telemetry": "new/{device}/t", "command": "new/{device}/c", "config_response": "new/{device}/cfg"}


async def change(rig: Rig, topics: dict[str, str]) -> None:
    config = DeviceConfig(device_id="press-07", config_version=2, topics=topics)
    await rig.registry.update(DeviceUpdate(device_id="press-07", config=config))


def deliver(rig: Rig, topic: str) -> bool:
    return rig.broker.listener.deliver("press-07", topic, b"{}", redelivery=False, on_ack=lambda: None)


async def test_a_connected_device_goes_on_with_the_topics_it_had_until_these_are_ended(rig: Rig) -> None:
    client = await rig.login("press-07", topics=OLD)
    client.send(subscribe(1, "old/press-07/c", "old/SN-press-07/cfg"))
    await client.packet()
    await change(rig, NEW)
    client.send(frames.publish("old/press-07/t", b'{"n": 1}', qos=1, packet_id=2))
    assert await client.packet() == (frames.PUBACK, b"\x00\x02")
    client.send(frames.publish("new/press-07/t", b'{"n": 2}', qos=1, packet_id=3))
    assert await client.packet() == (frames.PUBACK, b"\x00\x03")
    assert [message.payload for message in (await rig.buffer.take()).messages] == [b'{"n": 1}', b'{"n": 2}']
    for name, former in (("new/press-07/c", "old/press-07/c"), ("new/SN-press-07/cfg", "old/SN-press-07/cfg")):
        assert deliver(rig, name)
        assert text(former) in (await client.packet())[1]
    # once it has the new ones it is reached there
    client.send(subscribe(4, "new/press-07/c"))
    assert await client.packet() == (frames.SUBACK, b"\x00\x04\x01")
    assert deliver(rig, "new/press-07/c")
    assert text("new/press-07/c") in (await client.packet())[1]
    await rig.registry.end_earlier(["press-07"])
    client.send(frames.publish("old/press-07/t", b'{"n": 3}', qos=1, packet_id=5))
    assert await client.packet() == (frames.PUBACK, b"\x00\x05")
    assert len((await rig.buffer.take()).messages) == 2
    assert not deliver(rig, "new/SN-press-07/cfg")
    client.send(subscribe(6, "old/press-07/c"))
    assert await client.packet() == (frames.SUBACK, b"\x00\x06\x80")


async def test_a_device_that_was_away_when_its_topics_changed_logs_in_with_those_it_had(rig: Rig) -> None:
    await rig.pair("press-07", topics=OLD)
    await change(rig, NEW)
    client = await rig.login("press-07")
    client.send(subscribe(1, "old/press-07/c", "old/SN-press-07/cfg", "old/press-08/c"))
    assert await client.packet() == (frames.SUBACK, b"\x00\x01\x01\x01\x80")
    assert rig.ready == ["press-07"]
    client.send(frames.publish("old/press-07/t", b"{}", qos=1, packet_id=2))
    await client.packet()
    assert len((await rig.buffer.take()).messages) == 1


async def test_a_wildcard_is_served_on_the_new_topic_and_an_exact_name_on_its_own(rig: Rig) -> None:
    client = await rig.login("press-07", topics=OLD)
    client.send(subscribe(1, "+/press-07/c"))
    await client.packet()
    await change(rig, NEW)
    assert deliver(rig, "new/press-07/c")
    assert text("new/press-07/c") in (await client.packet())[1]
    client.send(subscribe(2, "old/press-07/c"))
    await client.packet()
    assert deliver(rig, "new/press-07/c")
    assert text("old/press-07/c") in (await client.packet())[1]


async def test_a_name_that_means_something_else_now_means_what_it_means_now(rig: Rig) -> None:
    client = await rig.login("press-07", topics={"telemetry": "x/{device}"})
    await change(rig, {"command_response": "x/{device}"})
    client.send(frames.publish("x/press-07", b"{}", qos=1, packet_id=1))
    await client.packet()
    assert rig.intercepted == [("command_response", "press-07", b"{}")]


async def test_viewers_see_readings_on_the_topics_that_a_device_had(rig: Rig) -> None:
    await rig.pair("press-07", topics=OLD)
    await change(rig, NEW)
    plugin = rig.broker.plugin
    assert plugin.viewer_may_receive("old/press-07/t")
    assert plugin.viewer_may_receive("new/press-07/t")
    assert not plugin.viewer_may_receive("old/press-07/c")
