"""Viewers: what they see, what they may publish, and that sessions of theirs behave as the specification says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.broker import frames
from appliance.broker.attached import AttachedLimits
from appliance.broker.fan_out import wrap
from tests.broker.rig import WITHIN_S, Rig, connect, packet, puback, running, subscribe, text
from tests.broker.viewers import DISCONNECT, Received, publish, received, unsubscribe, viewer

TOPIC = "telemetry/press-07/data"


async def read(rig: Rig, payload: bytes = b"{}", *, qos: int = 1) -> None:
    """One reading of press-07, from a connection of its own."""
    device = await rig.login("press-07")
    device.send(frames.publish(TOPIC, payload, qos=qos, packet_id=1))
    if qos:
        assert (await device.packet())[0] in (frames.PUBACK, frames.PUBREC)
    device.send(DISCONNECT)
    await device.end()


# --- what viewers see ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic_filter", ["#", "telemetry/#", "telemetry/+/data", "+/press-07/+", TOPIC])
async def test_a_viewer_sees_what_a_device_publishes(rig: Rig, topic_filter: str) -> None:
    client = await viewer(rig, topic_filter)
    await read(rig, b'{"t": 71.3}')
    assert await received(client) == Received(TOPIC, b'{"t": 71.3}', qos=1, packet_id=1)


async def test_the_lower_of_both_qualities_of_service_counts(rig: Rig) -> None:
    clients = [await viewer(rig, "telemetry/#", client_id=f"v{qos}", qos=qos) for qos in range(3)]
    for published in range(3):
        await read(rig, qos=published)
        assert [(await received(client)).qos for client in clients] == [min(published, held) for held in range(3)]


async def test_overlapping_subscriptions_get_a_message_once_with_the_highest_quality(rig: Rig) -> None:
    client = await viewer(rig)
    client.send(
        subscribe(1, "telemetry/#", "#", qos=0), subscribe(2, "telemetry/+/data", qos=1), subscribe(3, TOPIC, qos=0)
    )
    assert [header for header, _ in await client.packets(3)] == [frames.SUBACK] * 3
    for payload in (b"1", b"1", b"2"):
        await read(rig, payload)
    assert [(await received(client))[:3] for _ in range(3)] == [(TOPIC, b"1", 1), (TOPIC, b"1", 1), (TOPIC, b"2", 1)]
    assert await client.silent()


async def test_a_viewer_of_everything_never_sees_commands_configuration_or_updates(rig: Rig) -> None:
    client = await viewer(rig, "#", "+/+/#")
    device = await rig.login("press-07")
    device.send(subscribe(1, "#"))
    await device.packet()
    for topic in ("command/press-07/action", "ota/press-07/notify", "iiot/config/SN-press-07"):
        deliver = rig.broker.listener.deliver
        assert deliver("press-07", topic, b"secret", redelivery=False, on_ack=lambda: None)
        await device.packet()
    for topic in ("command/press-07/response", "ota/press-07/status", "iiot/config/request", TOPIC):
        device.send(frames.publish(topic, b"{}", qos=1, packet_id=9))
        assert (await device.packet())[0] == frames.PUBACK
    assert (await received(client)).topic == TOPIC
    await publish(client, "test/end", b"")
    assert (await received(client)).topic == "test/end"


async def test_a_viewer_gets_nothing_else_whatever_might_get_into_amqtt(rig: Rig) -> None:
    client = await viewer(rig, "#")
    for number, topic in enumerate(("command/press-07/action", "$SYS/x", "other", TOPIC)):
        await rig.broker.amqtt.internal_message_broadcast(topic, wrap(1000 + number, 1, b"x"))
    assert (await received(client)).topic == TOPIC


async def test_refused_filters_are_answered_one_by_one_and_not_passed_on(rig: Rig) -> None:
    client = await viewer(rig)
    client.send(subscribe(5, "command/#", "test/a", "$SYS/#", TOPIC, "test/a", qos=2), subscribe(6, "ota/#"))
    assert await client.packet() == (frames.SUBACK, b"\x00\x05" + bytes([0x80, 2, 0x80, 2, 2]))
    assert await client.packet() == (frames.SUBACK, b"\x00\x06\x80")
    assert set(rig.broker.amqtt.subscriptions) == {"test/a", TOPIC, "$appliance/fence"}


async def test_subscriptions_are_bounded_per_client_and_for_all_of_them(tmp_path: Path) -> None:
    limits = AttachedLimits(subscriptions=3, filters=4)
    async with running(tmp_path, viewers={"scada": "look-only"}, attached=limits) as rig:
        first, second = await viewer(rig), await viewer(rig, client_id="second")
        first.send(subscribe(1, "test/1", "test/2", "test/3", "test/4"), subscribe(2, "test/1"))
        assert await first.packet() == (frames.SUBACK, b"\x00\x01\x01\x01\x01\x80")
        assert await first.packet() == (frames.SUBACK, b"\x00\x02\x01"), "it holds that one already"
        second.send(subscribe(1, "test/4", "test/5", "test/1"))
        assert await second.packet() == (frames.SUBACK, b"\x00\x01\x01\x80\x01")
        second.send(subscribe(2, "test/" + "x" * 1100, "test" + "/" * 100))
        assert await second.packet() == (frames.SUBACK, b"\x00\x02\x80\x80")


async def test_a_changed_quality_counts_from_its_suback_on(rig: Rig) -> None:
    client = await viewer(rig, "test/a", qos=0)
    for qos in (2, 1):
        client.send(subscribe(3, "test/a", qos=qos))
        assert await client.packet() == (frames.SUBACK, bytes([0, 3, qos]))
        client.send(frames.publish("test/a", b"", qos=2, packet_id=qos))
        assert (await client.packet())[0] == frames.PUBREC
        assert (await received(client)).qos == qos


async def test_after_unsuback_nothing_comes_and_amqtt_keeps_nothing(rig: Rig) -> None:
    client = await viewer(rig, "test/a", "test/b")
    client.send(unsubscribe(7, "test/a", "test/never-held"), frames.publish("test/a", b"no"))
    assert await client.packet() == (frames.UNSUBACK, b"\x00\x07")
    client.send(frames.publish("test/b", b"yes"))
    assert (await received(client)).payload == b"yes"
    client.send(unsubscribe(8, "test/b"))
    assert await client.packet() == (frames.UNSUBACK, b"\x00\x08")
    assert set(rig.broker.amqtt.subscriptions) == {"$appliance/fence"}, "it would walk them for every message"


# --- what viewers publish -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_viewers_publish_below_test_reaches_other_viewers(rig: Rig, qos: int) -> None:
    sender, other = await viewer(rig, client_id="sender"), await viewer(rig, "test/#", client_id="other", qos=2)
    await publish(sender, "test/deep/down", b"hello", qos=qos)
    assert (await received(other))[:3] == ("test/deep/down", b"hello", qos)


async def test_names_of_the_brokers_own_are_not_published_to_whatever_the_policy(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.broker.plugin, "viewer_may_publish", lambda topic: True)
    client = await viewer(rig)
    await publish(client, "$SYS/x", b"x", qos=2)
    await publish(client, "anywhere", b"x", qos=2)
    assert rig.broker.attached is not None
    assert rig.broker.attached.refused == 1


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_viewers_publish_elsewhere_is_acknowledged_dropped_and_counted(rig: Rig, qos: int) -> None:
    other = await viewer(rig, "#", client_id="other")
    sender = await viewer(rig, client_id="sender")
    device = await rig.login("press-07")
    device.send(subscribe(1, "#"))
    await device.packet()
    for topic in (TOPIC, "command/press-07/action", "tests", "test", "$SYS/x", "$appliance/fence"):
        await publish(sender, topic, b"forged", qos=qos, retain=True)
    await publish(sender, "test/end", b"")
    assert (await received(other)).topic == "test/end"
    assert await device.silent()
    attached = rig.broker.attached
    assert attached is not None
    assert attached.refused == 6
    assert len(attached.retained) == 0
    assert rig.buffer.backlog().waiting == 0


async def test_a_repeated_qos_2_publish_is_passed_on_once(rig: Rig) -> None:
    client = await viewer(rig, "test/#", qos=0)
    first = frames.publish("test/a", b"once", qos=2, packet_id=5)
    again = frames.publish("test/a", b"once", qos=2, packet_id=5, dup=True)
    client.send(first, again, frames.PUBREL_HEAD + b"\x00\x05", first)
    answers = [packet for packet in await client.packets(6) if packet[0] != frames.PUBLISH]
    assert [header for header, _ in answers] == [frames.PUBREC, frames.PUBREC, frames.PUBCOMP, frames.PUBREC]
    assert await client.silent()


async def test_a_retained_message_comes_with_its_flag_to_who_subscribes_later_and_only_the_newest(rig: Rig) -> None:
    sender, early = await viewer(rig, client_id="sender"), await viewer(rig, "test/#", client_id="early", qos=2)
    for payload in (b"old", b"new"):
        await publish(sender, "test/a", payload, retain=True)
    await publish(sender, "test/b", b"b", qos=0, retain=True)
    assert [await received(early) for _ in range(3)] == [
        Received("test/a", b"old", 1, packet_id=1),
        Received("test/a", b"new", 1, packet_id=2),
        Received("test/b", b"b", 0),
    ], "who had subscribed before gets it without the flag (§3.3.1.3)"
    late = await viewer(rig, "test/#", "test/+", client_id="late", qos=2)
    assert await received(late) == Received("test/a", b"new", 1, retain=True, packet_id=1)
    assert await received(late) == Received("test/b", b"b", 0, retain=True)
    await publish(sender, "test/a", b"", retain=True)
    assert await received(late) == Received("test/a", b"", 1, packet_id=2)
    last = await viewer(rig, "test/#", client_id="last")
    assert (await received(last)).topic == "test/b"
    assert await last.silent()


async def test_retained_messages_are_bounded_in_number_and_size(tmp_path: Path) -> None:
    limits = AttachedLimits(retained_topics=2, retained_bytes=100)
    async with running(tmp_path, viewers={"scada": "look-only"}, attached=limits) as rig:
        client = await viewer(rig)
        for topic, payload in (("a", b"1"), ("b", b"2"), ("c", b"3"), ("b", b"4"), ("c", b"x" * 100)):
            await publish(client, f"test/{topic}", payload, retain=True)
        client.send(subscribe(1, "test/#"))
        assert await client.packet() == (frames.SUBACK, b"\x00\x01\x01")
        assert (await received(client))[:2] == ("test/b", b"4"), "c was replaced by what is too large to keep"
        assert await client.silent()
        assert rig.broker.attached is not None
        assert rig.broker.attached.retained.dropped == 2


async def test_a_viewers_will_is_published_when_its_connection_is_lost_and_only_below_test(rig: Rig) -> None:
    watching = await viewer(rig, "#", client_id="watching")
    for will, graceful in (
        (("test/will", b"lost"), True),
        ((TOPIC, b"forged"), False),
        (("test/will", b"lost"), False),
    ):
        client = await viewer(rig, client_id="leaving", will=will, flags=0x28)
        if graceful:
            client.send(DISCONNECT)
            await client.end()
        else:
            client.close()
    assert await received(watching) == Received("test/will", b"lost", 1, packet_id=1)
    late = await viewer(rig, "test/will", client_id="late")
    assert (await received(late))[:4] == ("test/will", b"lost", 1, True), "its retain flag was set"
    assert await watching.silent()


# --- order --------------------------------------------------------------------------------------------------------


async def test_a_publish_right_behind_its_subscribe_is_received(rig: Rig) -> None:
    for number in range(20):
        client = await viewer(rig, client_id=f"v{number}")
        client.send(subscribe(1, "test/own", qos=0), frames.publish("test/own", b"mine", qos=1, packet_id=2))
        assert [header for header, _ in await client.packets(3)] == [frames.SUBACK, frames.PUBACK, frames.PUBLISH]


async def test_a_disconnect_right_behind_a_subscribe_comes_after_its_suback(rig: Rig) -> None:
    for number in range(20):
        client = await viewer(rig, client_id=f"v{number}", will=("test/will", b"lost"))
        client.send(subscribe(1, "test/will"), DISCONNECT)
        assert await client.end() == frames.suback(1, [1])
    watching = await viewer(rig, "test/will")
    assert await watching.silent()
    assert len(rig.broker.attached or ()) == 1


async def test_a_new_subscription_gets_nothing_that_was_published_before_it(rig: Rig) -> None:
    client = await viewer(rig, "test/b", qos=0)
    before = [frames.publish(topic, b"%d" % number) for number in range(20) for topic in ("test/a", "test/b")]
    client.send(*before, subscribe(2, "test/a", qos=0), frames.publish("test/a", b"after"))
    packets = await client.packets(22)
    assert (frames.SUBACK, b"\x00\x02\x00") in packets
    assert [body for _, body in packets if body.startswith(text("test/a"))] == [text("test/a") + b"after"]


async def test_packets_that_wait_for_amqtt_keep_their_order(rig: Rig) -> None:
    client = await viewer(rig)
    client.send(
        subscribe(1, "test/a", qos=0),
        unsubscribe(2, "test/a"),
        b"\xc0\x00",
        subscribe(3, "test/a", qos=0),
        frames.publish("test/a", b"x", qos=1, packet_id=4),
        b"\xc0\x00",
    )
    headers = [header for header, _ in await client.packets(6)]
    assert headers == [
        *(frames.SUBACK, frames.UNSUBACK, frames.PINGRESP, frames.SUBACK, frames.PUBACK, frames.PINGRESP),
    ]
    assert (await received(client)).payload == b"x"


MALFORMED = {
    "an empty topic": packet(0x30, text("") + b"x"),
    "a wildcard in a topic": packet(0x30, text("test/+") + b"x"),
    "QoS 3": packet(0x36, text("test/a") + b"\x00\x01"),
    "packet id 0": packet(0x32, text("test/a") + b"\x00\x00"),
    "a topic that is no UTF-8": packet(0x30, text(b"test/\xff")),
    "a malformed filter": packet(0x82, b"\x00\x01" + text("test/#/a") + b"\x00"),
    "SUBSCRIBE with wrong flags": packet(0x80, b"\x00\x01" + text("test/a") + b"\x00"),
    "PUBREL with wrong flags": packet(0x60, b"\x00\x01"),
    "a second CONNECT": connect("v", "scada", b"look-only"),
    "a packet for servers only": frames.suback(1, [0]),
    "a malformed packet behind one that waits": subscribe(1, "test/a") + packet(0x30, text("")),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_packet_ends_this_viewer_and_no_other(rig: Rig, name: str) -> None:
    other, client = await viewer(rig, "test/#", client_id="other"), await viewer(rig)
    client.send(MALFORMED[name])
    assert await client.end() in (b"", frames.suback(1, [1]))
    await publish(other, "test/still", b"here")
    assert (await received(other)).payload == b"here"


async def test_more_than_a_hundred_open_qos_2_publishes_end_the_connection(rig: Rig) -> None:
    client = await viewer(rig)
    client.send(*(frames.publish("test/a", b"", qos=2, packet_id=number) for number in range(1, 102)))
    assert len(await client.end()) == 4 * 100


async def test_qos_2_goes_out_in_four_steps(rig: Rig) -> None:
    client = await viewer(rig, "test/a", qos=2)
    client.send(frames.publish("test/a", b"x", qos=2, packet_id=9))
    assert await client.packet() == (frames.PUBREC, b"\x00\x09")
    assert (await received(client)).packet_id == 1
    client.send(frames.PUBREC_HEAD + b"\x00\x01", puback(1))
    assert await client.packet() == (0x62, b"\x00\x01")
    client.send(frames.PUBREC_HEAD + b"\x00\x01")
    assert await client.packet() == (0x62, b"\x00\x01"), "a repeated PUBREC is answered again"
    client.send(frames.PUBCOMP_HEAD + b"\x00\x01")
    await publish(client, "test/a", b"y", qos=0)
    assert (await received(client)).payload == b"y"


async def test_amqtt_that_does_not_answer_costs_its_client_the_connection_and_nobody_else(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.broker.adapters.ANSWER_WITHIN_S", 0.05)
    monkeypatch.setattr("appliance.broker.adapters.END_WITHIN_S", 0.05)
    client = await viewer(rig)
    monkeypatch.setattr(rig.broker.amqtt, "add_subscription", lambda *_: asyncio.Event().wait())
    assert rig.broker.attached is not None
    session = rig.broker.attached._states["scada", "v"].session
    assert session is not None
    client.send(subscribe(1, "test/a"), b"\xc0\x00")
    async with asyncio.timeout(WITHIN_S):
        while not session.connection.reading_paused:
            await asyncio.sleep(0.001)
    assert await client.end() == b"", "nothing overtakes the SUBACK"
    monkeypatch.undo()
    other = await viewer(rig, "test/a", client_id="other")
    await publish(other, "test/a", b"x")
    assert (await received(other)).payload == b"x"
