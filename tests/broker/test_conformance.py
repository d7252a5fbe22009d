"""MQTT 3.1.1 statement by statement, raw sockets against the real listener: native sessions of devices.

Each test is named after its statement. Which statements apply, which are tested here and which elsewhere, and which do
not apply and why, stands in the table of ``README.md`` beside this file; the last test holds the two together.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.broker import frames
from tests.broker import test_conformance_attached
from tests.broker.rig import WITHIN_S, Client, Rig, connect, packet, puback, subscribe, text
from tests.broker.viewers import DISCONNECT, unsubscribe
from tests.conftest import ROOT

NAME = "press-07"
DATA = f"telemetry/{NAME}/data"
COMMAND = f"command/{NAME}/action"
OFFER = f"ota/{NAME}/notify"
PINGREQ = b"\xc0\x00"
PINGRESP = (0xD0, b"")


async def password(rig: Rig) -> bytes:
    device = rig.registry.get(NAME)
    if device is None:
        device, _ = await rig.pair(NAME)
    return rig.credentials.password(NAME, device.generation).encode()


async def hello(
    rig: Rig,
    *,
    clean: bool = True,
    present: bool = False,
    will: tuple[str, bytes] | None = None,
    flags: int = 0,
    keep_alive_s: int = 60,
    level: int = 4,
    name: bytes = b"MQTT",
) -> Client:
    """The device, logged in; ``present`` is what CONNACK must say."""
    client = await rig.client()
    client.send(
        connect(
            *(NAME, NAME, await password(rig)),
            clean=clean,
            will=will,
            flags=flags,
            keep_alive_s=keep_alive_s,
            level=level,
            name=name,
        )
    )
    assert await client.packet() == (frames.CONNACK, bytes([present, 0]))
    return client


async def listening(rig: Rig, *filters: str, qos: int = 1, clean: bool = True) -> Client:
    """The same, subscribed."""
    client = await hello(rig, clean=clean)
    client.send(subscribe(1, *filters, qos=qos))
    assert (await client.packet())[0] == frames.SUBACK
    return client


async def drop(rig: Rig, client: Client) -> None:
    """Its connection breaks."""
    client.close()
    await until(lambda: rig.presence.status(NAME).status == "offline")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.005)


async def refused(rig: Rig, *sent: bytes) -> bytes:
    """All that a connection gets that sends this."""
    client = await rig.client()
    client.send(*sent)
    return await client.end()


async def breaks(rig: Rig, *sent: bytes) -> None:
    """These packets end the connection at once, and without an answer."""
    client = await hello(rig)
    client.send(*sent, PINGREQ)
    assert await client.end() == b""


def send(rig: Rig, payload: bytes, *, topic: str = COMMAND, again: bool = False) -> bool:
    """A service publishes to the device."""
    return rig.broker.listener.deliver(NAME, topic, payload, redelivery=again, on_ack=lambda: None)


def waiting(rig: Rig) -> int:
    return rig.buffer.backlog().waiting


# --- 1.5 data representations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
async def test_mqtt_1_5_3_1_ill_formed_utf_8_or_a_surrogate_closes(rig: Rig, bad: bytes) -> None:
    """[MQTT-3.1.3-4], [MQTT-3.1.3-10], [MQTT-3.1.3-11], [MQTT-3.8.3-1], [MQTT-3.10.3-1]."""
    await breaks(rig, packet(0x30, text(bad) + b"1"))
    await breaks(rig, packet(0x82, b"\0\1" + text(bad) + b"\1"))
    await breaks(rig, packet(0xA2, b"\0\1" + text(bad)))
    for will_topic, user_name in ((bad, b"x"), (b"x", bad)):
        fields = text(NAME) + text(will_topic) + text(b"1") + text(user_name)
        assert await refused(rig, packet(0x10, text(b"MQTT") + b"\x04\x86\0\x3c" + fields)) == b""
    assert await refused(rig, packet(0x10, text(b"MQTT") + b"\x04\x02\0\x3c" + text(bad))) == b""


async def test_mqtt_1_5_3_2_u_0000_closes(rig: Rig) -> None:
    """[MQTT-4.7.3-2]."""
    await breaks(rig, packet(0x30, text("a\0b") + b"1"))
    await breaks(rig, packet(0x82, b"\0\1" + text("a\0b") + b"\1"))


async def test_mqtt_1_5_3_3_a_byte_order_mark_is_a_character_and_is_not_stripped(rig: Rig) -> None:
    client = await hello(rig)
    client.send(packet(0x32, text("\ufeff" + DATA) + b"\0\1" + b"1"), subscribe(2, "\ufeff" + COMMAND))
    assert await client.packet() == (frames.PUBACK, b"\0\1")
    assert await client.packet() == (frames.SUBACK, b"\0\2\x80")
    assert waiting(rig) == 0, "another topic, and not the device's own"


# --- 2.2 and 2.3 headers and packet ids ---------------------------------------------------------------------------

BODIES = {
    0x40: b"\0\1",
    0x50: b"\0\1",
    0x60: b"\0\1",
    0x70: b"\0\1",
    0x80: b"\0\1" + text(COMMAND) + b"\1",
    0xA0: b"\0\1" + text(COMMAND),
    0xC0: b"",
    0xE0: b"",
}
FLAGS = {0x60: 2, 0x80: 2, 0xA0: 2}


@pytest.mark.parametrize("kind", BODIES)
async def test_mqtt_2_2_2_2_reserved_flags_with_another_value_close(rig: Rig, kind: int) -> None:
    for flags in set(range(16)) - {FLAGS.get(kind, 0)}:
        await breaks(rig, packet(kind | flags, BODIES[kind]))


@pytest.mark.parametrize("first", [0x00, 0x20, 0x90, 0xB0, 0xD0, 0xF0, 0x0F, 0xFF])
async def test_mqtt_4_8_0_1_a_packet_type_that_no_client_may_send_closes(rig: Rig, first: int) -> None:
    await breaks(rig, packet(first, b"\0\1"))


async def test_mqtt_4_8_0_1_a_remaining_length_of_five_bytes_closes(rig: Rig) -> None:
    await breaks(rig, b"\x30\xff\xff\xff\xff\x01")


async def test_mqtt_2_3_1_1_packet_id_0_closes(rig: Rig) -> None:
    await breaks(rig, frames.publish(DATA, b"1", qos=1, packet_id=0))
    await breaks(rig, frames.publish(DATA, b"1", qos=2, packet_id=0))
    await breaks(rig, subscribe(0, COMMAND))
    await breaks(rig, unsubscribe(0, COMMAND))
    await breaks(rig, packet(0x32, text(DATA)))


async def test_mqtt_2_3_1_4_ids_of_what_is_under_way_to_the_device_differ_until_they_are_acknowledged(rig: Rig) -> None:
    client = await listening(rig, COMMAND, OFFER)
    ids = []
    for number in range(20):
        assert send(rig, b"%d" % number, topic=(COMMAND, OFFER)[number % 2])
        _, body = await client.packet()
        ids.append(body[2 + body[1] : 4 + body[1]])
    assert len(set(ids)) == 20
    assert b"\0\0" not in ids
    assert not send(rig, b"one more than the window")
    client.send(b"\x40\x02" + ids[7])
    assert await client.silent()
    assert send(rig, b"there is room again")
    _, body = await client.packet()
    assert body[2 + body[1] : 4 + body[1]] not in set(ids) - {ids[7]}


async def test_mqtt_2_3_1_5_qos_0_carries_no_packet_id_in_either_direction(rig: Rig) -> None:
    """[MQTT-4.3.1-1]."""
    client = await listening(rig, COMMAND, qos=0)
    client.send(packet(0x30, text(DATA) + b"12"))
    await until(lambda: waiting(rig) == 1)
    assert send(rig, b"go")
    assert await client.packet() == (0x30, text(COMMAND) + b"go")


async def test_mqtt_2_3_1_6_acknowledgements_carry_the_id_of_their_publish(rig: Rig) -> None:
    client = await hello(rig)
    for packet_id in (1, 255, 256, 65535):
        raw = packet_id.to_bytes(2, "big")
        client.send(frames.publish(DATA, b"1", qos=1, packet_id=packet_id))
        assert await client.packet() == (frames.PUBACK, raw)
        client.send(frames.publish(DATA, b"1", qos=2, packet_id=packet_id))
        assert await client.packet() == (frames.PUBREC, raw)
        client.send(frames.PUBREL_HEAD + raw)
        assert await client.packet() == (frames.PUBCOMP, raw)


async def test_mqtt_2_3_1_7_suback_and_unsuback_carry_the_id_of_their_request(rig: Rig) -> None:
    """[MQTT-3.8.4-2]."""
    client = await hello(rig)
    for packet_id in (1, 256, 65535):
        client.send(subscribe(packet_id, COMMAND), unsubscribe(packet_id, COMMAND))
        assert await client.packet() == (frames.SUBACK, packet_id.to_bytes(2, "big") + b"\1")
        assert await client.packet() == (frames.UNSUBACK, packet_id.to_bytes(2, "big"))


# --- 3.1 CONNECT, 3.2 CONNACK -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [PINGREQ, DISCONNECT, subscribe(1, "a"), frames.publish("a", b"1"), puback(1)])
async def test_mqtt_3_1_0_1_a_connection_whose_first_packet_is_not_connect_is_closed(rig: Rig, first: bytes) -> None:
    assert await refused(rig, first) == b""


async def test_mqtt_3_1_0_2_a_second_connect_closes(rig: Rig) -> None:
    await breaks(rig, connect(NAME, NAME, await password(rig)))


@pytest.mark.parametrize("name", [b"MQTs", b"mqtt", b"MQTT ", b"", b"HTTP"])
async def test_mqtt_3_1_2_1_another_protocol_name_closes_without_an_answer(rig: Rig, name: bytes) -> None:
    assert await refused(rig, connect(NAME, NAME, await password(rig), name=name)) == b""


@pytest.mark.parametrize(
    ("name", "level", "answer"),
    [
        (b"MQTT", 5, b"\x20\x03\x00\x84\x00"),
        *((b"MQTT", level, b"\x20\x02\x00\x01") for level in (0, 1, 2, 3, 6, 0x84, 255)),
        *((b"MQIsdp", level, b"\x20\x02\x00\x01") for level in (0, 2, 4, 5, 0x83)),
    ],
)
async def test_mqtt_3_1_2_2_another_level_is_answered_and_closed(
    rig: Rig, name: bytes, level: int, answer: bytes
) -> None:
    assert await refused(rig, connect(NAME, NAME, await password(rig), name=name, level=level)) == answer


async def test_mqtt_3_1_2_2_clients_of_mqtt_3_1_are_served(rig: Rig) -> None:
    client = await hello(rig, name=b"MQIsdp", level=3, clean=False)
    client.send(frames.publish(DATA, b"1", qos=1, packet_id=1))
    assert await client.packet() == (frames.PUBACK, b"\0\1")
    await drop(rig, client)
    await hello(rig, name=b"MQIsdp", level=3, clean=False, present=False)  # the byte was reserved then


async def test_mqtt_3_1_2_3_the_reserved_flag_of_connect_closes(rig: Rig) -> None:
    assert await refused(rig, connect(NAME, NAME, await password(rig), flags=1)) == b""


async def test_mqtt_3_1_2_4_a_lasting_session_goes_on_with_its_subscriptions(rig: Rig) -> None:
    await drop(rig, await listening(rig, COMMAND, clean=False))
    client = await hello(rig, clean=False, present=True)
    assert rig.ready == [NAME, NAME], "without a new SUBSCRIBE"
    assert send(rig, b"go")
    assert (await client.packet())[1].endswith(b"go")


async def test_mqtt_3_1_2_6_a_clean_session_discards_what_was_before_and_is_not_kept(rig: Rig) -> None:
    await drop(rig, await listening(rig, COMMAND, clean=False))
    client = await hello(rig, clean=True, present=False)
    assert not send(rig, b"not subscribed")
    client.send(subscribe(1, COMMAND))
    assert await client.packet() == (frames.SUBACK, b"\0\1\1")
    await drop(rig, client)
    await hello(rig, clean=False, present=False)
    assert not send(rig, b"not subscribed")


async def test_mqtt_3_1_2_8_a_will_is_published_when_the_connection_is_lost(rig: Rig) -> None:
    client = await hello(rig, will=(DATA, b'{"gone": 1}'))
    assert waiting(rig) == 0
    client.close()
    await until(lambda: waiting(rig) == 1)


async def test_mqtt_3_1_2_8_a_will_is_published_after_an_error_of_the_protocol_and_after_silence(rig: Rig) -> None:
    client = await hello(rig, will=(DATA, b"1"), flags=0x10)
    client.send(b"\xf0\x00")
    assert await client.end() == b""
    await until(lambda: waiting(rig) == 1)
    client = await hello(rig, will=(DATA, b"2"), keep_alive_s=10)
    listener = rig.broker.listener
    now = listener.time()
    listener.time = lambda: now + 16  # type: ignore[method-assign]
    listener.sweep()
    assert await client.end() == b""
    await until(lambda: waiting(rig) == 2)


async def test_mqtt_3_1_2_10_a_will_is_published_once(rig: Rig) -> None:
    (await hello(rig, will=(DATA, b"1"), clean=False)).close()
    await until(lambda: waiting(rig) == 1)
    (await hello(rig, clean=False, present=True)).close()
    await until(lambda: rig.gone == [NAME, NAME])
    assert waiting(rig) == 1


@pytest.mark.parametrize("flags", [0x08, 0x10, 0x18, 0x20])
async def test_mqtt_3_1_2_11_will_qos_or_will_retain_without_a_will_close(rig: Rig, flags: int) -> None:
    """[MQTT-3.1.2-13], [MQTT-3.1.2-15]."""
    assert await refused(rig, connect(NAME, NAME, await password(rig), flags=flags)) == b""


async def test_mqtt_3_1_2_12_without_a_will_nothing_is_published(rig: Rig) -> None:
    await drop(rig, await hello(rig))
    await rig.database.run(lambda connection: None)
    assert waiting(rig) == 0


async def test_mqtt_3_1_2_14_a_will_with_qos_3_closes(rig: Rig) -> None:
    assert await refused(rig, connect(NAME, NAME, await password(rig), will=(DATA, b"1"), flags=0x18)) == b""


async def test_mqtt_3_1_2_22_a_password_without_a_user_name_closes(rig: Rig) -> None:
    body = text(b"MQTT") + b"\x04\x42\0\x3c" + text(NAME) + text(await password(rig))
    assert await refused(rig, packet(0x10, body)) == b""


@pytest.mark.parametrize("missing", range(1, 5))
async def test_mqtt_3_1_4_1_a_connect_without_a_field_that_its_flags_announce_closes(rig: Rig, missing: int) -> None:
    """[MQTT-3.1.2-9], [MQTT-3.1.2-19], [MQTT-3.1.2-21], [MQTT-3.1.3-1], [MQTT-3.1.3-3]."""
    fields = [text(NAME), text(DATA), text(b"1"), text(NAME), text(await password(rig))]
    head = text(b"MQTT") + b"\x04\xc6\0\x3c"
    assert await refused(rig, packet(0x10, head + b"".join(fields[:missing]))) == b""
    assert await refused(rig, packet(0x10, head + b"".join(fields) + b"x")) == b"", "[MQTT-3.1.2-18], [MQTT-3.1.2-20]"
    assert await refused(rig, packet(0x10, head)) == b""


async def test_mqtt_3_1_2_24_silence_of_one_and_a_half_keep_alive_closes(rig: Rig) -> None:
    client = await hello(rig, keep_alive_s=10)
    listener = rig.broker.listener
    now = listener.time()
    listener.time = lambda: now + 14.9  # type: ignore[method-assign]
    listener.sweep()
    client.send(PINGREQ)
    assert await client.packet() == PINGRESP
    listener.time = lambda: now + 29.0  # type: ignore[method-assign]
    listener.sweep()
    assert rig.presence.status(NAME).status == "online", "any packet counts, from the last one on"
    listener.time = lambda: now + 30.5  # type: ignore[method-assign]
    listener.sweep()
    assert await client.end() == b""


async def test_mqtt_3_1_2_24_keep_alive_0_never_closes(rig: Rig) -> None:
    client = await hello(rig, keep_alive_s=0)
    listener = rig.broker.listener
    now = listener.time()
    listener.time = lambda: now + 7 * 24 * 3600  # type: ignore[method-assign]
    listener.sweep()
    assert await client.silent()


async def test_mqtt_3_1_3_2_sessions_belong_to_the_client_id_and_to_nobody_else(rig: Rig) -> None:
    await drop(rig, await listening(rig, COMMAND, clean=False))
    other = await rig.login("press-08", clean=False)
    assert await other.silent()
    await hello(rig, clean=False, present=True)


@pytest.mark.parametrize("client_id", ["a", "0123456789abcdefABCDEFz", "Z" * 23])
async def test_mqtt_3_1_3_5_client_ids_of_1_to_23_letters_and_digits_are_let_in(rig: Rig, client_id: str) -> None:
    await rig.login(client_id)


async def test_mqtt_3_1_3_8_an_empty_client_id_without_a_clean_session_is_refused_with_code_2(rig: Rig) -> None:
    assert await refused(rig, connect("", clean=False)) == b"\x20\x02\x00\x02"
    assert await refused(rig, connect("", NAME, await password(rig), clean=False)) == b"\x20\x02\x00\x02"


async def test_mqtt_3_1_3_9_a_client_id_that_is_not_the_devices_is_refused_with_code_2(rig: Rig) -> None:
    assert await refused(rig, connect("press-08", NAME, await password(rig))) == b"\x20\x02\x00\x02"
    assert await refused(rig, connect("", NAME, await password(rig))) == b"\x20\x02\x00\x02", "[MQTT-3.1.3-6]"


async def test_mqtt_3_1_4_2_a_newer_connection_of_the_same_client_id_closes_the_older(rig: Rig) -> None:
    old = await hello(rig)
    new = await hello(rig)
    assert await old.end() == b""
    assert await new.silent()


async def test_mqtt_3_1_4_5_nothing_behind_a_refused_connect_is_processed(rig: Rig) -> None:
    await rig.pair(NAME)
    behind = frames.publish(DATA, b"1", qos=1, packet_id=1)
    assert await refused(rig, connect(NAME, NAME, b"guess"), behind, PINGREQ) == b"\x20\x02\x00\x04"
    await rig.database.run(lambda connection: None)
    assert waiting(rig) == 0


async def test_mqtt_3_2_0_1_connack_is_the_first_packet_also_where_something_waits(rig: Rig) -> None:
    await drop(rig, await listening(rig, COMMAND, clean=False))
    sent: list[bool] = []
    rig.broker.listener.ready = lambda device_id, name: sent.append(send(rig, b"go"))
    client = await hello(rig, clean=False, present=True)
    assert (await client.packet())[1].endswith(b"go")
    assert sent == [True]


async def test_mqtt_3_1_4_4_what_was_sent_right_behind_connect_is_answered_behind_connack(rig: Rig) -> None:
    client = await rig.client()
    client.send(connect(NAME, NAME, await password(rig)), subscribe(7, COMMAND), PINGREQ)
    assert [header for header, _ in await client.packets(3)] == [frames.CONNACK, frames.SUBACK, frames.PINGRESP]


async def test_mqtt_3_2_2_1_session_present_is_0_for_a_clean_session(rig: Rig) -> None:
    await drop(rig, await hello(rig, clean=False))
    await hello(rig, clean=True, present=False)


async def test_mqtt_3_2_2_2_session_present_is_1_where_the_session_lasted(rig: Rig) -> None:
    await drop(rig, await hello(rig, clean=False))
    await hello(rig, clean=False, present=True)


async def test_mqtt_3_2_2_3_session_present_is_0_where_there_was_none(rig: Rig) -> None:
    await hello(rig, clean=False, present=False)


@pytest.mark.parametrize(("wrong", "code"), [("password", 4), ("client id", 2), ("switched off", 5)])
async def test_mqtt_3_2_2_4_a_refusal_says_why_and_never_session_present(rig: Rig, wrong: str, code: int) -> None:
    """[MQTT-3.2.2-5]: and it closes."""
    await drop(rig, await hello(rig, clean=False))
    right = await password(rig)
    if wrong == "switched off":
        await rig.registry.set_enabled(NAME, False)
    client_id = "press-08" if wrong == "client id" else NAME
    secret = b"guess" if wrong == "password" else right
    assert await refused(rig, connect(client_id, NAME, secret, clean=False)) == bytes([0x20, 2, 0, code])


# --- 3.3 PUBLISH --------------------------------------------------------------------------------------------------


async def test_mqtt_3_3_1_1_what_is_sent_again_carries_dup_and_the_first_does_not(rig: Rig) -> None:
    client = await listening(rig, COMMAND, clean=False)
    assert send(rig, b"go")
    first, body = await client.packet()
    assert first == 0x32
    await drop(rig, client)
    client = await hello(rig, clean=False, present=True)
    assert send(rig, b"go", again=True)
    assert await client.packet() == (0x3A, body)


async def test_mqtt_3_3_1_2_dup_with_qos_0_closes_and_is_never_sent(rig: Rig) -> None:
    await breaks(rig, packet(0x38, text(DATA) + b"1"))
    client = await listening(rig, COMMAND, qos=0)
    assert send(rig, b"go", again=True)
    assert (await client.packet())[0] == 0x30


async def test_mqtt_3_3_1_3_dup_of_a_device_does_not_make_its_message_a_repeat(rig: Rig) -> None:
    client = await hello(rig)
    for number in (1, 2):
        client.send(frames.publish(DATA, b"%d" % number, qos=1, packet_id=5, dup=True))
        assert await client.packet() == (frames.PUBACK, b"\0\5")
    assert waiting(rig) == 2


async def test_mqtt_3_3_1_4_qos_3_closes(rig: Rig) -> None:
    for first in (0x36, 0x37, 0x3E, 0x3F):
        await breaks(rig, packet(first, text(DATA) + b"\0\1" + b"1"))


async def test_mqtt_3_3_2_1_the_topic_is_the_first_field_and_must_be_whole(rig: Rig) -> None:
    await breaks(rig, packet(0x30, b""))
    await breaks(rig, packet(0x30, b"\0"))
    await breaks(rig, packet(0x30, b"\0\x20" + b"short"))


@pytest.mark.parametrize("topic", ["telemetry/+/data", "telemetry/#", "#", "a#", "a+b"])
async def test_mqtt_3_3_2_2_wildcards_in_a_topic_name_close(rig: Rig, topic: str) -> None:
    """[MQTT-4.7.1-1]."""
    await breaks(rig, frames.publish(topic, b"1"))


async def test_mqtt_3_3_2_3_only_what_matches_a_subscription_is_sent(rig: Rig) -> None:
    client = await listening(rig, OFFER)
    assert not send(rig, b"go")
    client.send(subscribe(2, "command/+/action"))
    await client.packet()
    assert send(rig, b"go")
    assert await client.packet() == (0x32, text(COMMAND) + b"\0\1go"), "under the very name that was published"


async def test_mqtt_3_3_4_1_each_qos_gets_its_answer(rig: Rig) -> None:
    client = await hello(rig)
    client.send(*(frames.publish(DATA, b"%d" % qos, qos=qos, packet_id=qos) for qos in (0, 1, 2)))
    assert await client.packet() == (frames.PUBACK, b"\0\1")
    assert await client.packet() == (frames.PUBREC, b"\0\2")
    assert await client.silent()
    assert waiting(rig) == 3


async def test_mqtt_3_3_5_1_overlapping_subscriptions_get_one_message_with_the_highest_qos(rig: Rig) -> None:
    client = await listening(rig, "command/#", "#", qos=0)
    client.send(subscribe(2, COMMAND, qos=1))
    await client.packet()
    assert send(rig, b"go")
    assert await client.packet() == (0x32, text(COMMAND) + b"\0\1go")
    assert await client.silent()


@pytest.mark.parametrize("topic", ["telemetry/press-08/data", "$SYS/x", COMMAND, "x"])
async def test_mqtt_3_3_5_2_what_a_device_may_not_publish_is_acknowledged_and_dropped(rig: Rig, topic: str) -> None:
    client = await hello(rig)
    client.send(frames.publish(topic, b"1", qos=1, packet_id=1), frames.publish(topic, b"1", qos=2, packet_id=2))
    assert await client.packets(2) == [(frames.PUBACK, b"\0\1"), (frames.PUBREC, b"\0\2")]
    assert waiting(rig) == 0


@pytest.mark.parametrize("kind", [0x40, 0x50, 0x62, 0x70])
@pytest.mark.parametrize("body", [b"", b"\1", b"\0\1\0"])
async def test_mqtt_4_8_0_1_an_acknowledgement_of_a_wrong_length_closes(rig: Rig, kind: int, body: bytes) -> None:
    await breaks(rig, packet(kind, body))


async def test_mqtt_3_6_1_1_pubrel_with_other_flags_closes(rig: Rig) -> None:
    for flags in set(range(16)) - {2}:
        await breaks(rig, packet(0x60 | flags, b"\0\1"))


# --- 3.8 to 3.11 subscriptions ------------------------------------------------------------------------------------


async def test_mqtt_3_8_1_1_subscribe_with_other_flags_closes(rig: Rig) -> None:
    for flags in set(range(16)) - {2}:
        await breaks(rig, packet(0x80 | flags, b"\0\1" + text(COMMAND) + b"\1"))


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\1"])
async def test_mqtt_3_8_3_3_a_subscribe_without_a_filter_closes(rig: Rig, body: bytes) -> None:
    await breaks(rig, packet(0x82, body))


@pytest.mark.parametrize("qos", [b"", b"\x03", b"\x04", b"\x81"])
async def test_mqtt_3_8_3_4_a_requested_qos_that_is_none_closes(rig: Rig, qos: bytes) -> None:
    await breaks(rig, packet(0x82, b"\0\1" + text(COMMAND) + qos))


async def test_mqtt_3_8_4_3_a_repeated_subscription_replaces_the_earlier_and_its_qos(rig: Rig) -> None:
    client = await listening(rig, COMMAND, qos=1)
    client.send(subscribe(2, COMMAND, qos=0))
    assert await client.packet() == (frames.SUBACK, b"\0\2\0")
    assert send(rig, b"go")
    assert await client.packet() == (0x30, text(COMMAND) + b"go")
    assert await client.silent(), "once, although it subscribed twice"


async def test_mqtt_3_8_4_5_one_suback_answers_all_filters_in_their_order(rig: Rig) -> None:
    """[MQTT-3.8.4-1], [MQTT-3.8.4-4], [MQTT-3.9.3-1], [MQTT-3.9.3-2]."""
    client = await hello(rig)
    wanted = [(COMMAND, 0), ("command/press-08/action", 1), ("iiot/config/+", 2), (OFFER, 1), ("$SYS/#", 0)]
    body = b"\0\x09" + b"".join(text(each) + bytes([qos]) for each, qos in wanted)
    client.send(packet(0x82, body))
    assert await client.packet() == (frames.SUBACK, b"\0\x09\x00\x80\x01\x01\x80")
    assert await client.silent()


async def test_mqtt_3_8_4_6_a_lower_qos_than_wanted_may_be_granted_and_holds(rig: Rig) -> None:
    client = await hello(rig)
    client.send(subscribe(1, COMMAND, qos=2))
    assert await client.packet() == (frames.SUBACK, b"\0\1\1"), "nothing goes to devices with QoS 2"
    assert send(rig, b"go")
    assert (await client.packet())[0] == 0x32


async def test_mqtt_3_10_1_1_unsubscribe_with_other_flags_closes(rig: Rig) -> None:
    for flags in set(range(16)) - {2}:
        await breaks(rig, packet(0xA0 | flags, b"\0\1" + text(COMMAND)))


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\1", b"\0\1\0", b"\0\1\0\0"])
async def test_mqtt_3_10_3_2_an_unsubscribe_without_a_filter_closes(rig: Rig, body: bytes) -> None:
    await breaks(rig, packet(0xA2, body))


async def test_mqtt_3_10_4_1_filters_are_compared_character_by_character(rig: Rig) -> None:
    client = await listening(rig, COMMAND, "command/+/action")
    client.send(unsubscribe(2, COMMAND.upper(), "command/#", COMMAND))
    assert await client.packet() == (frames.UNSUBACK, b"\0\2")
    assert send(rig, b"go"), "the other filter is still held"
    assert (await client.packet())[1].endswith(b"go")


async def test_mqtt_3_10_4_2_nothing_new_is_sent_after_unsubscribe(rig: Rig) -> None:
    client = await listening(rig, COMMAND)
    client.send(unsubscribe(2, COMMAND))
    assert await client.packet() == (frames.UNSUBACK, b"\0\2")
    assert not send(rig, b"go")


async def test_mqtt_3_10_4_3_what_was_sent_before_unsubscribe_can_still_be_acknowledged(rig: Rig) -> None:
    client = await listening(rig, COMMAND)
    acknowledged: list[int] = []
    rig.broker.listener.deliver(NAME, COMMAND, b"go", redelivery=False, on_ack=lambda: acknowledged.append(1))
    client.send(unsubscribe(2, COMMAND))
    assert [header for header, _ in await client.packets(2)] == [0x32, frames.UNSUBACK]
    client.send(puback(1))
    assert await client.silent()
    assert acknowledged == [1]


async def test_mqtt_3_10_4_5_unsuback_comes_also_where_nothing_was_subscribed(rig: Rig) -> None:
    """[MQTT-3.10.4-4], [MQTT-3.10.4-6]."""
    client = await hello(rig)
    client.send(unsubscribe(513, "never/held", "nor/this"))
    assert await client.packet() == (frames.UNSUBACK, b"\x02\x01")
    assert await client.silent()


# --- 3.12 to 3.14 -------------------------------------------------------------------------------------------------


async def test_mqtt_3_12_4_1_every_pingreq_is_answered(rig: Rig) -> None:
    client = await hello(rig)
    client.send(PINGREQ * 5)
    assert await client.packets(5) == [PINGRESP] * 5


async def test_mqtt_3_14_1_1_disconnect_with_flags_or_a_body_closes_as_an_error(rig: Rig) -> None:
    for bad in (b"\xe1\x00", b"\xe8\x00", b"\xe0\x01\x00"):
        client = await hello(rig)
        client.send(bad)
        assert await client.end() == b""
        assert rig.presence.status(NAME).reason_code == "protocol_error"


async def test_mqtt_3_14_4_3_no_will_is_published_after_disconnect(rig: Rig) -> None:
    """Nothing behind it is read either."""
    client = await hello(rig, will=(DATA, b"gone"))
    client.send(DISCONNECT, frames.publish(DATA, b"1", qos=1, packet_id=1))
    assert await client.end() == b""
    await rig.database.run(lambda connection: None)
    assert waiting(rig) == 0
    assert rig.presence.status(NAME).reason_code == "closed_by_device"


# --- 4 operational behaviour --------------------------------------------------------------------------------------


async def test_mqtt_4_1_0_2_a_session_lasts_as_long_as_its_connection(rig: Rig) -> None:
    """[MQTT-4.1.0-1]."""
    client = await listening(rig, COMMAND)
    await rig.login("press-08")
    rig.broker.listener.sweep()
    assert send(rig, b"go")
    assert (await client.packet())[1].endswith(b"go")


async def test_mqtt_4_3_2_2_after_its_puback_a_packet_id_stands_for_a_new_message(rig: Rig) -> None:
    client = await hello(rig)
    for number in range(3):
        client.send(frames.publish(DATA, b"%d" % number, qos=1, packet_id=7))
        assert await client.packet() == (frames.PUBACK, b"\0\7")
    assert waiting(rig) == 3


async def test_mqtt_4_3_2_1_a_message_stays_unacknowledged_until_its_puback(rig: Rig) -> None:
    client = await listening(rig, COMMAND)
    acknowledged: list[int] = []
    rig.broker.listener.deliver(NAME, COMMAND, b"go", redelivery=False, on_ack=lambda: acknowledged.append(1))
    assert await client.packet() == (0x32, text(COMMAND) + b"\0\1go")
    client.send(puback(2), frames.PUBREC_HEAD + b"\0\1", frames.PUBCOMP_HEAD + b"\0\1")
    assert await client.silent()
    assert acknowledged == [], "neither another id nor another kind of acknowledgement is its own"
    client.send(puback(1), puback(1))
    assert await client.silent()
    assert acknowledged == [1]


async def test_mqtt_4_3_3_2_qos_2_is_taken_once_until_its_release_and_anew_behind_it(rig: Rig) -> None:
    client = await hello(rig, clean=False)
    message = frames.publish(DATA, b"1", qos=2, packet_id=9)
    client.send(message)
    assert await client.packet() == (frames.PUBREC, b"\0\x09")
    client.send(frames.publish(DATA, b"1", qos=2, packet_id=9, dup=True))
    assert await client.packet() == (frames.PUBREC, b"\0\x09")
    await drop(rig, client)
    client = await hello(rig, clean=False, present=True)
    client.send(frames.publish(DATA, b"1", qos=2, packet_id=9, dup=True))
    assert await client.packet() == (frames.PUBREC, b"\0\x09")
    assert waiting(rig) == 1
    client.send(frames.PUBREL_HEAD + b"\0\x09", frames.PUBREL_HEAD + b"\0\x09")
    assert await client.packets(2) == [(frames.PUBCOMP, b"\0\x09")] * 2, "also for a repeated PUBREL"
    client.send(message)
    assert await client.packet() == (frames.PUBREC, b"\0\x09")
    assert waiting(rig) == 2


async def test_mqtt_4_4_0_1_unacknowledged_messages_go_out_again_with_their_ids_in_their_order(rig: Rig) -> None:
    client = await listening(rig, COMMAND, OFFER, clean=False)
    messages = [(COMMAND, b"go"), (OFFER, b"update"), (COMMAND, b"stop")]
    for topic, payload in messages:
        assert send(rig, payload, topic=topic)
    before = await client.packets(3)
    client.send(puback(2))
    assert await client.silent()
    await drop(rig, client)
    client = await hello(rig, clean=False, present=True)
    for topic, payload in messages:
        assert send(rig, payload, topic=topic, again=True), "the services' part: what they still want delivered"
    first, offer, last = await client.packets(3)
    assert (first, last) == ((0x3A, before[0][1]), (0x3A, before[2][1]))
    assert offer == (0x32, text(OFFER) + b"\0\4update"), "that one was acknowledged, and is a new message"


async def test_mqtt_4_6_0_2_pubacks_come_in_the_order_of_the_publishes(rig: Rig) -> None:
    client = await hello(rig)
    topics = [DATA, "foreign", f"command/{NAME}/response", DATA, "foreign", f"ota/{NAME}/status"] * 10
    client.send(*(frames.publish(topic, b"{}", qos=1, packet_id=n + 1) for n, topic in enumerate(topics)))
    assert [body for _, body in await client.packets(60)] == [(n + 1).to_bytes(2, "big") for n in range(60)]


async def test_mqtt_4_6_0_3_pubrecs_come_in_the_order_of_the_publishes(rig: Rig) -> None:
    client = await hello(rig)
    topics = [DATA, "foreign"] * 15
    client.send(*(frames.publish(topic, b"{}", qos=2, packet_id=n + 1) for n, topic in enumerate(topics)))
    assert await client.packets(30) == [(frames.PUBREC, (n + 1).to_bytes(2, "big")) for n in range(30)]


async def test_mqtt_4_6_0_6_messages_are_sent_in_the_order_in_which_they_are_published(rig: Rig) -> None:
    client = await listening(rig, COMMAND)
    for number in range(20):
        assert send(rig, b"%d" % number)
    assert [body[4 + body[1] :] for _, body in await client.packets(20)] == [b"%d" % n for n in range(20)]


@pytest.mark.parametrize("bad", ["a/#/b", "a#", "#a", "##", "command/#x"])
async def test_mqtt_4_7_1_2_a_number_sign_that_is_not_the_whole_last_level_closes(rig: Rig, bad: str) -> None:
    await breaks(rig, subscribe(1, bad))
    await breaks(rig, unsubscribe(1, bad))


@pytest.mark.parametrize("bad", ["a+", "+a", "a/+b/c", "++"])
async def test_mqtt_4_7_1_3_a_plus_sign_that_is_not_a_whole_level_closes(rig: Rig, bad: str) -> None:
    await breaks(rig, subscribe(1, bad))


@pytest.mark.parametrize("granted", ["#", "+/+/+", "command/#", "+/press-07/#", "/".join([*COMMAND.split("/"), "#"])])
async def test_mqtt_3_8_3_2_wildcards_are_understood(rig: Rig, granted: str) -> None:
    client = await hello(rig)
    client.send(subscribe(1, granted))
    assert await client.packet() == (frames.SUBACK, b"\0\1\1")
    assert send(rig, b"go")
    assert await client.packet() == (0x32, text(COMMAND) + b"\0\1go")


@pytest.mark.parametrize("foreign", ["+", "+/+", "/#", "command/+", "command/press-08/#", "+/+/+/+", "Command/#"])
async def test_mqtt_4_7_3_4_a_filter_that_matches_none_of_the_devices_topics_opens_nothing(
    rig: Rig, foreign: str
) -> None:
    client = await hello(rig)
    client.send(subscribe(1, foreign))
    assert await client.packet() == (frames.SUBACK, b"\0\1\x80")
    assert not send(rig, b"go")


async def test_mqtt_4_7_3_1_empty_names_and_filters_close(rig: Rig) -> None:
    await breaks(rig, frames.publish("", b"1"))
    await breaks(rig, subscribe(1, ""))
    await breaks(rig, unsubscribe(1, ""))


async def test_mqtt_4_7_3_3_the_longest_name_is_no_error(rig: Rig) -> None:
    client = await hello(rig)
    client.send(frames.publish("x" * 65535, b"1", qos=1, packet_id=1))
    assert await client.packet() == (frames.PUBACK, b"\0\1")


async def test_mqtt_4_8_0_1_an_error_of_one_client_is_not_noticed_by_another(rig: Rig) -> None:
    other = await rig.login("press-08")
    await breaks(rig, b"\xf0\x00")
    other.send(frames.publish("telemetry/press-08/data", b"1", qos=1, packet_id=1))
    assert await other.packet() == (frames.PUBACK, b"\0\1")


# --- the table ----------------------------------------------------------------------------------------------------


def test_the_table_names_every_statement_and_every_test_of_it_exists() -> None:
    readme = Path(__file__).with_name("README.md").read_text()
    table = re.findall(r"^\| \[(MQTT-[\d.-]+)\] \| ([^|]+) \| (.+) \|$", readme, re.MULTILINE)
    rows = {statement: place for statement, place, _ in table}
    assert len(table) == len(rows) == 139, "statements of the specification's appendix B"
    tests = [name for module in (globals(), vars(test_conformance_attached)) for name in module]
    covered = "".join(path.read_text() for path in (Path(__file__), Path(test_conformance_attached.__file__)))
    for statement, place in rows.items():
        prefix = "test_" + re.sub(r"[.-]", "_", statement.lower()) + "_"
        has_test = any(name.startswith(prefix) for name in tests) or f"[{statement}]" in covered
        assert has_test == (place == "here"), statement
    for path in re.findall(r"`(tests/[\w/]+\.py)`", readme):
        assert (ROOT / path).is_file(), path
    for name in tests:
        if found := re.match(r"test_mqtt_(\d)_(\d+)_(\d+)_(\d+)_", name):
            assert "MQTT-{}.{}.{}-{}".format(*found.groups()) in rows, name
