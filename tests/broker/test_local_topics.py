"""Local topics: machines that talk to each other through the broker, beside their own work and never in its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.broker import frames
from appliance.broker.attached import AttachedLimits
from appliance.broker.listener import Limits
from appliance.broker.local_traffic import LocalTraffic
from appliance.store.devices import DeviceUpdate
from tests.broker.rig import WITHIN_S, Client, Rig, connect, puback, running, subscribe
from tests.broker.test_viewer_clients import PahoViewer
from tests.broker.viewers import DISCONNECT, Received, publish, received, unsubscribe, viewer

LINE = {"publish": ["line/{device}/out", "line/all/#"], "subscribe": ["line/+/out", "line/all/#"]}
VIEWERS = {"scada": "look-only"}


def local(rig: Rig) -> LocalTraffic:
    assert rig.broker.local is not None
    return rig.broker.local


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


async def machine(
    rig: Rig,
    device_id: str,
    *filters: str,
    qos: int = 1,
    clean: bool = True,
    present: bool = False,
    granted: dict[str, list[str]] | None = LINE,
    will: tuple[str, bytes] | None = None,
    flags: int = 0,
) -> Client:
    """A device with local topics that is logged in and has subscribed."""
    if rig.registry.get(device_id) is None:
        await rig.pair(device_id, local_topics=granted)
    device = rig.registry.get(device_id)
    assert device is not None
    password = rig.credentials.password(device_id, device.generation).encode()
    client = await rig.client()
    client.send(connect(device_id, device_id, password, clean=clean, will=will, flags=flags))
    assert await client.packet() == (frames.CONNACK, bytes([present, 0]))
    if filters:
        client.send(subscribe(1, *filters, qos=qos))
        assert await client.packet() == (frames.SUBACK, b"\x00\x01" + bytes([qos] * len(filters)))
    return client


async def grant(rig: Rig, device_id: str, granted: dict[str, Any] | None) -> None:
    """Odoo changes the device's profile."""
    device = rig.registry.get(device_id)
    assert device is not None
    config = device.config.model_validate({**device.config.model_dump(), "local_topics": granted})
    await rig.registry.update(DeviceUpdate(device_id=device_id, config=config))


async def leave(client: Client) -> None:
    client.send(DISCONNECT)
    assert await client.end() == b""
    client.close()


# --- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "wanted"), [(0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)])
async def test_a_machine_hears_another_with_the_lower_of_both_qos_and_nothing_of_it_is_stored(
    rig: Rig, sent: int, wanted: int
) -> None:
    hearing = await machine(rig, "robot-1", "line/+/out", qos=wanted)
    speaking = await machine(rig, "press-07")
    await publish(speaking, "line/press-07/out", b"\x00\xffdone", qos=sent)
    qos = min(sent, wanted)
    assert await received(hearing) == Received("line/press-07/out", b"\x00\xffdone", qos, packet_id=1 if qos else None)
    assert rig.buffer.backlog().waiting == 0
    assert rig.intercepted == []


async def test_messages_of_a_machine_keep_their_order_and_none_is_missing(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/#", "line/+/out", qos=1)
    speaking = await machine(rig, "press-07")
    frames_sent = [frames.publish("line/press-07/out", b"%d" % n, qos=1, packet_id=n + 1) for n in range(300)]
    speaking.send(*frames_sent)
    for number in range(300):
        message = await received(hearing)
        assert message.payload == b"%d" % number, "once, although two of its filters match"
        hearing.send(puback(message.packet_id or 0))
    assert [await speaking.packet() for _ in range(300)] == [
        (frames.PUBACK, (n + 1).to_bytes(2, "big")) for n in range(300)
    ]


async def test_what_is_published_right_behind_its_own_subscription_is_heard(rig: Rig) -> None:
    client = await machine(rig, "press-07")
    client.send(
        subscribe(1, "line/all/#"),
        frames.publish("line/all/a", b"1", qos=1, packet_id=9),
        frames.publish("line/all/a", b"2"),
    )
    got = [await client.packet() for _ in range(4)]
    assert (frames.SUBACK, b"\x00\x01\x01") in got
    assert (frames.PUBACK, b"\x00\x09") in got
    assert [body[-1:] for header, body in got if header & 0xF0 == frames.PUBLISH] == [b"1", b"2"]


async def test_after_unsubscribe_and_its_answer_nothing_more_is_heard(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/+/out", "line/all/#")
    speaking = await machine(rig, "press-07")
    hearing.send(unsubscribe(2, "line/+/out", "never/held"))
    assert await hearing.packet() == (frames.UNSUBACK, b"\x00\x02")
    await publish(speaking, "line/press-07/out", b"x")
    await publish(speaking, "line/all/a", b"y")
    assert (await received(hearing)).payload == b"y"


async def test_a_machine_is_heard_while_odoo_and_the_store_are_away(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/+/out")
    speaking = await machine(rig, "press-07")
    await rig.database.close()
    await publish(speaking, "line/press-07/out", b"x")
    assert (await received(hearing)).payload == b"x"


# --- its own work goes first --------------------------------------------------------------------------------------


async def test_own_topics_of_an_attached_device_are_stored_before_they_are_acknowledged_and_acks_keep_their_order(
    rig: Rig,
) -> None:
    client = await machine(rig, "press-07", "line/#")
    kinds = ["telemetry/press-07/data", "line/press-07/out", "foreign", "line/press-07/out"] * 5
    client.send(*(frames.publish(topic, b"%d" % n, qos=1, packet_id=n + 1) for n, topic in enumerate(kinds)))
    acks, heard = [], []
    while len(acks) < len(kinds) or len(heard) < 10:
        header, body = await client.packet()
        if header == frames.PUBACK:
            acks.append(int.from_bytes(body, "big"))
        else:
            heard.append(int(body[2 + body[1] + 2 :]))
    assert acks == list(range(1, 21))
    assert heard == [n for n, topic in enumerate(kinds) if topic.startswith("line/")]
    assert rig.buffer.backlog().waiting == 5


async def test_commands_and_local_messages_to_one_device_never_share_a_packet_id(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/+/out", "command/robot-1/action")
    speaking = await machine(rig, "press-07")
    acknowledged: list[int] = []
    for number in range(6):
        if number % 2:
            await publish(speaking, "line/press-07/out", b"%d" % number)
        else:
            rig.broker.listener.deliver(
                *("robot-1", "command/robot-1/action", b"%d" % number),
                redelivery=False,
                on_ack=lambda number=number: acknowledged.append(number),
            )
        message = await received(hearing)
        assert message.payload == b"%d" % number
        assert message.packet_id == number + 1
    hearing.send(*(puback(number) for number in (2, 1, 3, 4, 5, 6)))
    assert await hearing.silent()
    assert acknowledged == [0, 2, 4]
    await publish(speaking, "line/press-07/out", b"next")
    assert (await received(hearing)).packet_id == 7


async def test_a_device_whose_amqtt_has_stopped_goes_on_with_its_own_work(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.broker.fan_out.FENCE_WITHIN_S", 0.05)
    hearing = await machine(rig, "robot-1", "line/+/out", qos=0)
    client = await machine(rig, "press-07")
    held = asyncio.Event()

    async def stuck(*_: object) -> None:
        await held.wait()

    monkeypatch.setattr(rig.broker.amqtt, "internal_message_broadcast", stuck)
    client.send(frames.publish("line/press-07/out", b"first", qos=1, packet_id=1))
    assert await client.packet() == (frames.PUBACK, b"\x00\x01")
    rig.broker.fan_out.stalled = True  # what its fence finds out after 10 s
    for number in range(2, 300):
        client.send(frames.publish("line/press-07/out", b"x" * 1000, qos=1, packet_id=number))
        assert await client.packet() == (frames.PUBACK, number.to_bytes(2, "big"))
    client.send(frames.publish("telemetry/press-07/data", b"1", qos=1, packet_id=1))
    assert await client.packet() == (frames.PUBACK, b"\x00\x01")
    assert rig.buffer.backlog().waiting == 1
    assert local(rig).dropped == 298
    assert await hearing.silent()
    held.set()


async def test_a_device_that_is_held_up_when_amqtt_stops_is_read_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await machine(rig, "robot-1", "line/+/out", qos=0)
    client = await machine(rig, "press-07")
    held = asyncio.Event()

    async def stuck(*_: object) -> None:
        await held.wait()

    monkeypatch.setattr(rig.broker.amqtt, "internal_message_broadcast", stuck)
    client.send(*(frames.publish("line/press-07/out", b"x", qos=1, packet_id=n) for n in range(1, 200)))
    assert len(await client.packets(199)) == 199
    client.send(frames.publish("telemetry/press-07/data", b"1", qos=1, packet_id=200))
    rig.broker.listener.sweep()
    await asyncio.sleep(0.1)
    assert rig.buffer.backlog().waiting == 0, "it sends faster than amqtt takes, and is not read"
    rig.broker.fan_out.stalled = True
    rig.broker.listener.sweep()
    assert await client.packet() == (frames.PUBACK, b"\0\xc8")
    held.set()


async def test_real_clients_of_two_machines_talk_to_each_other(rig: Rig) -> None:
    clients = {}
    for device_id in ("press-07", "robot-1"):
        device, password = await rig.pair(device_id, local_topics=LINE)
        clients[device_id] = paho = PahoViewer(device.device_id, clean=True)
        paho.client.username_pw_set(device_id, password)
        await asyncio.to_thread(paho.client.connect, "127.0.0.1", rig.port)
        paho.client.loop_start()
        await paho.told("connect")
    press, robot = clients["press-07"], clients["robot-1"]
    assert await robot.subscribe(("line/+/out", 2), ("command/robot-1/action", 1), ("line/press-07/in", 1)) == [
        2,
        1,
        0x80,
    ]
    for qos in (0, 1, 2):
        await press.publish("line/press-07/out", b"%d" % qos, qos=qos)
        await press.publish("telemetry/press-07/data", b"%d" % qos, qos=qos)
        message = await robot.message()
        assert (message.topic, message.payload, message.qos) == ("line/press-07/out", b"%d" % qos, qos)
    await until(lambda: rig.buffer.backlog().waiting == 3)
    for paho in clients.values():
        paho.client.disconnect()
        await asyncio.to_thread(paho.client.loop_stop)


async def test_a_flood_of_local_messages_is_held_up_and_none_is_lost(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/+/out", qos=0)
    speaking = await machine(rig, "press-07")
    speaking.send(*(frames.publish("line/press-07/out", b"%d" % number + b"x" * 2000) for number in range(2000)))
    for number in range(2000):
        assert (await received(hearing)).payload.startswith(b"%dx" % number)
    assert rig.broker.fan_out.dropped == local(rig).dropped == 0


# --- rights -------------------------------------------------------------------------------------------------------


async def test_what_is_not_granted_is_refused_acknowledged_and_counted(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/#")
    speaking = await machine(rig, "press-07")
    for topic in ("line/robot-1/out", "line/press-07", "other/x", "command/robot-1/action"):
        await publish(speaking, topic, b"forged")
    assert await hearing.silent()
    assert rig.intercepted == []
    speaking.send(subscribe(2, "line/press-07/in", "other/#", "test/#", "line/+/out", "+/+/+/+"))
    assert await speaking.packet() == (frames.SUBACK, b"\x00\x02\x80\x80\x80\x01\x01")
    speaking.send(frames.publish("line/+/out", b"no name"))
    assert await speaking.end() == b""


async def test_a_wide_filter_shows_own_topics_and_granted_ones_and_nothing_of_others(rig: Rig) -> None:
    speaking = await machine(rig, "press-07", granted={"publish": ["line/press-07/out", "line/secret"]})
    looking = await viewer(rig, "test/#", "telemetry/#", client_id="looking")
    await publish(looking, "test/a", b"a viewer's", retain=True)
    await publish(speaking, "line/secret", b"not granted to it, retained", retain=True)
    client = await machine(rig, "robot-1", "#", qos=2)
    await publish(speaking, "line/secret", b"not granted to it")
    await publish(speaking, "telemetry/press-07/data", b"1")
    assert (await received(looking)).payload == b"a viewer's"
    assert (await received(looking)).payload == b"1"
    await publish(speaking, "line/press-07/out", b"granted")
    assert await received(client) == Received("line/press-07/out", b"granted", 1, packet_id=1)
    rig.broker.listener.deliver("robot-1", "command/robot-1/action", b"go", redelivery=False, on_ack=lambda: None)
    assert (await received(client))[:3] == ("command/robot-1/action", b"go", 1)
    assert await looking.silent()


async def test_a_wide_filter_of_a_device_does_not_draw_telemetry_through_amqtt(rig: Rig) -> None:
    await machine(rig, "robot-1", "#", "+/+/+")
    assert rig.broker.plugin is not None
    watched = rig.broker.plugin.watched
    assert not watched.matches("telemetry/press-07/data")
    assert watched.matches("line/press-07/out")
    assert len(watched) == 2


async def test_rights_granted_while_connected_hold_at_once(rig: Rig) -> None:
    client = await machine(rig, "press-07", granted=None)
    client.send(subscribe(1, "line/+/out"))
    assert await client.packet() == (frames.SUBACK, b"\x00\x01\x80")
    await grant(rig, "press-07", LINE)
    client.send(subscribe(2, "line/+/out"))
    assert await client.packet() == (frames.SUBACK, b"\x00\x02\x01")
    client.send(frames.publish("line/press-07/out", b"x"))
    assert (await received(client)).payload == b"x"


async def test_subscriptions_that_are_no_longer_granted_end_while_connected(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/+/out", "line/all/#")
    speaking = await machine(rig, "press-07")
    await grant(rig, "robot-1", {"publish": [], "subscribe": ["line/all/#"]})
    await publish(speaking, "line/press-07/out", b"x")
    await publish(speaking, "line/all/a", b"y")
    assert (await received(hearing)).payload == b"y"
    await grant(rig, "robot-1", None)
    await publish(speaking, "line/all/a", b"z")
    await publish(hearing, "line/robot-1/out", b"may not any more")
    assert await hearing.silent()
    hearing.send(subscribe(2, "line/all/#"))
    assert await hearing.packet() == (frames.SUBACK, b"\x00\x02\x80")
    await grant(rig, "robot-1", LINE)
    await publish(speaking, "line/all/a", b"its subscriptions have ended, not slept")
    assert await hearing.silent()
    assert rig.broker.plugin is not None
    await until(lambda: len(rig.broker.plugin.watched) == 0)  # type: ignore[union-attr]


async def test_what_waits_for_an_absent_device_is_dropped_when_it_is_no_longer_granted(rig: Rig) -> None:
    await leave(await machine(rig, "robot-1", "line/+/out", "line/all/#", clean=False))
    speaking = await machine(rig, "press-07")
    await publish(speaking, "line/press-07/out", b"x")
    await publish(speaking, "line/all/a", b"y")
    await until(lambda: len(rig.broker.fan_out) == 0)
    await grant(rig, "robot-1", {"publish": [], "subscribe": ["line/all/#"]})
    assert rig.broker.plugin is not None
    watched = rig.broker.plugin.watched
    assert not watched.matches("line/press-07/out"), "at once, and not only when it returns"
    back = await machine(rig, "robot-1", clean=False, present=True)
    assert (await received(back)).payload == b"y"
    assert await back.silent()


async def test_a_revoked_device_is_gone_with_all_that_was_kept_for_it(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/+/out", clean=False)
    await rig.registry.set_enabled("robot-1", False)
    assert await hearing.end() == b""
    assert len(local(rig)) == 0
    await rig.registry.set_enabled("robot-1", True)
    await machine(rig, "robot-1", clean=False, present=False)


async def test_viewers_and_machines_do_not_meet(rig: Rig) -> None:
    looking = await viewer(rig, "#")
    client = await machine(rig, "press-07", "line/#")
    await publish(client, "line/press-07/out", b"x", retain=True)
    assert (await received(client)).payload == b"x"
    looking.send(subscribe(2, "line/+/out"))
    assert await looking.packet() == (frames.SUBACK, b"\x00\x02\x80")
    await publish(looking, "line/all/a", b"y")
    assert await looking.silent()
    assert await client.silent()
    late = await viewer(rig, "#", client_id="late")
    assert await late.silent()


# --- retained messages and wills ----------------------------------------------------------------------------------


async def test_a_retained_local_message_meets_new_subscriptions_until_it_is_cleared(rig: Rig) -> None:
    speaking = await machine(rig, "press-07", "line/+/out")
    await publish(speaking, "line/press-07/out", b"kept", retain=True)
    assert (await received(speaking)).retain is False
    hearing = await machine(rig, "robot-1", "#", "line/+/out", qos=2)
    assert await received(hearing) == Received("line/press-07/out", b"kept", 1, retain=True, packet_id=1)
    await publish(speaking, "line/press-07/out", b"", retain=True)
    assert (await received(hearing)).payload == b""
    late = await machine(rig, "robot-2", "line/+/out")
    assert await late.silent()


async def test_retained_local_messages_are_bounded_apart_from_those_of_viewers(tmp_path: Path) -> None:
    limits = AttachedLimits(local_retained_topics=3)
    async with running(tmp_path, viewers=VIEWERS, attached=limits) as rig:
        looking = await viewer(rig)
        await publish(looking, "test/a", b"a viewer's", retain=True)
        speaking = await machine(rig, "press-07")
        for number in range(10):
            await publish(speaking, f"line/all/{number}", b"%d" % number, retain=True)
        hearing = await machine(rig, "robot-1", "line/all/+", qos=0)
        assert [(await received(hearing)).payload for _ in range(3)] == [b"7", b"8", b"9"]
        assert await hearing.silent()
        late = await viewer(rig, "test/#", client_id="late")
        assert (await received(late)).payload == b"a viewer's"


async def test_a_will_on_a_local_topic_is_heard_when_the_connection_is_lost_and_not_after_disconnect(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/+/out")
    will = ("line/press-07/out", b"gone")
    await leave(await machine(rig, "press-07", will=will))
    assert await hearing.silent()
    (await machine(rig, "press-07", will=will, flags=0x20 | 0x08)).close()
    assert await received(hearing) == Received("line/press-07/out", b"gone", 1, packet_id=1)
    late = await machine(rig, "robot-2", "line/+/out")
    assert (await received(late))[1:4] == (b"gone", 1, True)


async def test_a_will_is_held_against_the_rights_at_login_and_again_at_the_end(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/#")
    (await machine(rig, "press-07", will=("line/robot-1/out", b"forged"))).close()
    client = await machine(rig, "press-07", will=("line/press-07/out", b"granted no more"))
    await grant(rig, "press-07", {"publish": ["line/all/#"]})
    client.close()
    await until(lambda: rig.gone == ["press-07", "press-07"])
    assert await hearing.silent()


# --- sessions -----------------------------------------------------------------------------------------------------


async def test_an_absent_device_gets_later_what_came_with_qos_1_or_2_and_the_unacknowledged_with_dup(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/+/out", qos=2, clean=False)
    speaking = await machine(rig, "press-07")
    await publish(speaking, "line/press-07/out", b"a", qos=1)
    await publish(speaking, "line/press-07/out", b"b", qos=2)
    assert [(await received(hearing)).packet_id for _ in range(2)] == [1, 2]
    hearing.send(frames.PUBREC_HEAD + b"\x00\x02")
    assert await hearing.packet() == (0x62, b"\x00\x02")
    hearing.close()
    await until(lambda: rig.gone == ["robot-1"])
    for qos in (0, 1, 2):
        await publish(speaking, "line/press-07/out", b"%d" % qos, qos=qos)
    await until(lambda: len(rig.broker.fan_out) == 0)
    back = await machine(rig, "robot-1", clean=False, present=True)
    assert await received(back) == Received("line/press-07/out", b"a", 1, dup=True, packet_id=1)
    assert await back.packet() == (0x62, b"\x00\x02")
    assert [(await received(back))[1:3] for _ in range(2)] == [(b"1", 1), (b"2", 2)]
    back.send(puback(1), frames.PUBCOMP_HEAD + b"\x00\x02")
    await publish(speaking, "line/press-07/out", b"live")
    assert (await received(back)).payload == b"live", "its subscription outlived the connection"


async def test_qos_2_from_a_machine_is_passed_on_once_however_often_it_is_repeated(rig: Rig) -> None:
    hearing = await machine(rig, "robot-1", "line/+/out", qos=2)
    client = await machine(rig, "press-07", clean=False)
    client.send(frames.publish("line/press-07/out", b"once", qos=2, packet_id=5))
    assert await client.packet() == (frames.PUBREC, b"\x00\x05")
    client.close()
    back = await machine(rig, "press-07", clean=False, present=True)
    back.send(
        frames.publish("line/press-07/out", b"once", qos=2, packet_id=5, dup=True), frames.PUBREL_HEAD + b"\x00\x05"
    )
    assert [header for header, _ in await back.packets(2)] == [frames.PUBREC, frames.PUBCOMP]
    assert (await received(hearing)).payload == b"once"
    assert await hearing.silent()


async def test_what_waits_for_an_absent_device_is_bounded_and_the_newest_stays(tmp_path: Path) -> None:
    async with running(tmp_path, attached=AttachedLimits(device_queued_messages=30)) as rig:
        await leave(await machine(rig, "robot-1", "line/+/out", clean=False))
        speaking = await machine(rig, "press-07")
        for number in range(100):
            await publish(speaking, "line/press-07/out", b"%d" % number)
        await until(lambda: local(rig).dropped == 70)
        back = await machine(rig, "robot-1", clean=False, present=True)
        got = []
        for _ in range(30):
            message = await received(back)
            got.append(message.payload)
            back.send(puback(message.packet_id or 0))
        assert got == [b"%d" % number for number in range(70, 100)]


async def test_a_clean_session_takes_over_and_leaves_nothing_of_the_lasting_one(rig: Rig) -> None:
    old = await machine(rig, "robot-1", "line/+/out", clean=False)
    new = await machine(rig, "robot-1")
    assert await old.end() == b""
    speaking = await machine(rig, "press-07")
    await publish(speaking, "line/press-07/out", b"x")
    assert await new.silent()
    assert len(local(rig)) == 0
    assert rig.presence.status("robot-1").takeovers == 1


async def test_a_device_that_reconnects_again_and_again_ends_with_one_session(rig: Rig) -> None:
    present = False
    for clean in (True, False, False, True, False) * 4:
        client = await machine(rig, "robot-1", "line/+/out", clean=clean, present=present and not clean)
        present = not clean
    speaking = await machine(rig, "press-07")
    await publish(speaking, "line/press-07/out", b"x")
    assert (await received(client)).payload == b"x"
    assert len(local(rig)) == 1
    await until(lambda: len(rig.broker.amqtt.sessions) == 2)


# --- bounds -------------------------------------------------------------------------------------------------------


async def test_who_does_not_subscribe_to_local_topics_costs_amqtt_nothing(rig: Rig) -> None:
    await machine(rig, "press-07", "command/press-07/action")
    other = await rig.login("press-08")
    other.send(subscribe(1, "#"))
    assert await other.packet() == (frames.SUBACK, b"\x00\x01\x01")
    assert [name for name in rig.broker.amqtt.sessions if "press" in name] == []
    assert len(local(rig)) == 0


async def test_more_attached_devices_than_allowed_are_refused_local_topics_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path, attached=AttachedLimits(devices=2)) as rig:
        await machine(rig, "robot-1", "line/+/out")
        second = await machine(rig, "robot-2", "line/+/out", clean=False)
        third = await machine(rig, "robot-3")
        third.send(subscribe(1, "line/+/out", "command/robot-3/action", "#"))
        assert await third.packet() == (frames.SUBACK, b"\x00\x01\x80\x01\x01")
        assert local(rig).refused == 1
        await publish(third, "telemetry/robot-3/data", b"1")
        assert rig.buffer.backlog().waiting == 1
        await publish(third, "line/all/a", b"may be said")
        await leave(second)
        third.send(subscribe(2, "line/+/out"))
        assert await third.packet() == (frames.SUBACK, b"\x00\x02\x01"), "the one that is away makes room"
        await machine(rig, "robot-2", clean=False, present=False)


async def test_filters_of_devices_leave_room_for_those_of_viewers(tmp_path: Path) -> None:
    async with running(tmp_path, viewers=VIEWERS, attached=AttachedLimits(filters=4, viewer_filters=2)) as rig:
        await machine(rig, "robot-1", "line/+/out", "line/all/#")
        client = await machine(rig, "robot-2", granted={"subscribe": ["cell/a", "line/+/out"]})
        client.send(subscribe(1, "cell/a", "line/+/out"))
        assert await client.packet() == (frames.SUBACK, b"\x00\x01\x80\x01")
        await viewer(rig, "test/a", "test/b")


async def test_subscriptions_of_a_device_are_bounded(tmp_path: Path) -> None:
    async with running(tmp_path, attached=AttachedLimits(device_subscriptions=3)) as rig:
        client = await machine(rig, "robot-1")
        client.send(subscribe(1, *(f"line/all/{n}" for n in range(5)), "line/all/0"))
        assert await client.packet() == (frames.SUBACK, b"\x00\x01\x01\x01\x01\x80\x80\x01")
        client.send(subscribe(2, "line/all/" + "x" * 2000, "line/all/1"))
        assert await client.packet() == (frames.SUBACK, b"\x00\x02\x80\x01")


async def test_requests_that_wait_for_amqtt_are_bounded_and_hold_up_nothing_else(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await machine(rig, "robot-2", "line/+/out")
    client = await machine(rig, "robot-1")
    monkeypatch.setattr("appliance.broker.adapters.Attachment._answer", lambda self, codes: None)
    client.send(*(subscribe(number, "line/all/#", "command/robot-1/action") for number in range(1, 101)))
    assert await client.packets(68) == [(frames.SUBACK, bytes([0, number]) + b"\x80\x01") for number in range(33, 101)]
    await publish(client, "telemetry/robot-1/data", b"1")
    rig.broker.fan_out.stalled = True
    for _ in range(300):
        await publish(client, "line/robot-1/out", b"x" * 1000)
    await publish(client, "telemetry/robot-1/data", b"2")
    assert rig.buffer.backlog().waiting == 2
    assert local(rig).dropped == 300, "they do not pile up"


async def test_a_session_that_amqtt_ends_is_begun_anew_by_its_device(rig: Rig) -> None:
    client = await machine(rig, "robot-1", "line/+/out", clean=False)
    name = next(name for name in rig.broker.amqtt.sessions if name.endswith("/robot-1"))
    _, handler = rig.broker.amqtt.sessions[name]
    await handler.handle_connection_closed()
    assert await client.end() == b""
    await machine(rig, "robot-1", "line/+/out", clean=False, present=False)


async def test_a_payload_over_the_limit_ends_the_connection(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(payload_bytes=1000)) as rig:
        client = await machine(rig, "press-07")
        await publish(client, "line/press-07/out", b"x" * 1000)
        client.send(frames.publish("line/press-07/out", b"x" * 1001))
        assert await client.end() == b""


async def test_a_device_that_stays_away_too_long_is_forgotten_with_its_whole_session(tmp_path: Path) -> None:
    async with running(tmp_path, attached=AttachedLimits(session_expiry_s=0.05)) as rig:
        await leave(await machine(rig, "robot-1", "line/+/out", "command/robot-1/action", clean=False))
        await until(lambda: len(local(rig)) == 0)
        await machine(rig, "robot-1", clean=False, present=False)
