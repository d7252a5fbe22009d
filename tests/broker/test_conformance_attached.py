"""MQTT 3.1.1 statement by statement for attached devices: those with local topics, where amqtt has a part in it.

The statements are those that a native session cannot show: messages of others, retained ones, QoS 2 to the device. What
both have in common is in ``test_conformance.py``; the table of all statements is in ``README.md`` beside this file.
"""

from __future__ import annotations

import pytest

from appliance.broker import frames
from tests.broker.rig import Rig, puback, subscribe
from tests.broker.test_local_topics import leave, machine, until
from tests.broker.viewers import Received, publish, received, unsubscribe

OUT = "line/press-07/out"
PUBREC, PUBREL, PUBCOMP = frames.PUBREC_HEAD, frames.PUBREL_HEAD, frames.PUBCOMP_HEAD


async def passed_on(rig: Rig) -> None:
    """amqtt has nothing left to do."""
    await until(lambda: len(rig.broker.fan_out) == 0)


async def test_mqtt_3_1_2_5_messages_for_an_absent_lasting_session_are_kept(rig: Rig) -> None:
    """[MQTT-4.5.0-1]."""
    await leave(await machine(rig, "robot-1", "line/+/out", qos=2, clean=False))
    speaking = await machine(rig, "press-07")
    for qos in (1, 2):
        await publish(speaking, OUT, b"%d" % qos, qos=qos)
    await passed_on(rig)
    client = await machine(rig, "robot-1", clean=False, present=True)
    assert [(await received(client)).payload for _ in range(2)] == [b"1", b"2"]


async def test_mqtt_3_1_2_7_retained_messages_outlive_the_session_of_their_publisher(rig: Rig) -> None:
    speaking = await machine(rig, "press-07")
    await publish(speaking, OUT, b"kept", retain=True)
    await leave(speaking)
    await machine(rig, "press-07")
    client = await machine(rig, "robot-1", "line/+/out")
    assert (await received(client)).payload == b"kept"


@pytest.mark.parametrize("retain", [False, True])
async def test_mqtt_3_1_2_16_a_will_is_retained_only_where_its_flag_says_so(rig: Rig, retain: bool) -> None:
    """[MQTT-3.1.2-17]."""
    (await machine(rig, "press-07", will=(OUT, b"gone"), flags=0x20 * retain)).close()
    await until(lambda: rig.gone == ["press-07"])
    await passed_on(rig)
    late = await machine(rig, "robot-1", "line/+/out")
    if retain:
        assert await received(late) == Received(OUT, b"gone", 0, retain=True)
    else:
        assert await late.silent()


async def test_mqtt_3_3_1_3_dup_of_the_publisher_is_not_passed_on(rig: Rig) -> None:
    client = await machine(rig, "robot-1", "line/+/out")
    speaking = await machine(rig, "press-07")
    speaking.send(frames.publish(OUT, b"x", qos=1, packet_id=1, dup=True))
    assert (await received(client)).dup is False


async def test_mqtt_3_3_1_5_the_last_retained_message_is_kept_with_its_qos(rig: Rig) -> None:
    speaking = await machine(rig, "press-07")
    for qos in (0, 2, 1):
        await publish(speaking, OUT, b"%d" % qos, qos=qos, retain=True)
    client = await machine(rig, "robot-1", "line/+/out", qos=2)
    assert (await received(client))[1:4] == (b"1", 1, True)
    assert await client.silent(), "one for each topic"


async def test_mqtt_3_3_1_6_a_new_subscription_gets_the_retained_messages_that_match_it(rig: Rig) -> None:
    """[MQTT-3.3.1-8]: marked as retained."""
    speaking = await machine(rig, "press-07")
    await publish(speaking, "line/all/a", b"a", retain=True)
    await publish(speaking, "line/all/b/c", b"b", retain=True)
    client = await machine(rig, "robot-1", "line/all/+")
    assert (await received(client))[1:4] == (b"a", 1, True)
    assert await client.silent()


async def test_mqtt_3_3_1_7_a_retained_message_with_qos_0_replaces_the_former(rig: Rig) -> None:
    speaking = await machine(rig, "press-07")
    await publish(speaking, OUT, b"former", qos=1, retain=True)
    await publish(speaking, OUT, b"new", qos=0, retain=True)
    client = await machine(rig, "robot-1", "line/+/out")
    assert await received(client) == Received(OUT, b"new", 0, retain=True)


async def test_mqtt_3_3_1_9_an_established_subscription_gets_a_retained_message_unmarked(rig: Rig) -> None:
    client = await machine(rig, "robot-1", "line/+/out")
    speaking = await machine(rig, "press-07")
    await publish(speaking, OUT, b"x", retain=True)
    assert await received(client) == Received(OUT, b"x", 1, packet_id=1)


async def test_mqtt_3_3_1_10_an_empty_retained_message_is_passed_on_and_removes_the_former(rig: Rig) -> None:
    """[MQTT-3.3.1-11]."""
    speaking = await machine(rig, "press-07", "line/+/out", qos=0)
    await publish(speaking, OUT, b"x", qos=0, retain=True)
    await publish(speaking, OUT, b"", qos=0, retain=True)
    assert [(await received(speaking)).payload for _ in range(2)] == [b"x", b""]
    assert await (await machine(rig, "robot-1", "line/+/out")).silent()


async def test_mqtt_3_3_1_12_a_message_that_is_not_retained_leaves_the_retained_one(rig: Rig) -> None:
    speaking = await machine(rig, "press-07")
    await publish(speaking, OUT, b"kept", retain=True)
    await publish(speaking, OUT, b"passing")
    await publish(speaking, OUT, b"")
    client = await machine(rig, "robot-1", "line/+/out")
    assert (await received(client)).payload == b"kept"
    assert await client.silent()


async def test_mqtt_3_3_5_1_overlapping_filters_get_one_message_with_the_highest_qos_granted(rig: Rig) -> None:
    client = await machine(rig, "robot-1", "line/#", qos=0)
    client.send(subscribe(2, "line/+/out", qos=2), subscribe(3, "#", qos=1))
    assert [body for _, body in await client.packets(2)] == [b"\0\2\2", b"\0\3\1"]
    speaking = await machine(rig, "press-07")
    await publish(speaking, OUT, b"x", qos=2)
    assert await received(client) == Received(OUT, b"x", 2, packet_id=1)
    assert await client.silent()


async def test_mqtt_3_8_4_3_a_repeated_subscription_is_sent_the_retained_messages_again(rig: Rig) -> None:
    speaking = await machine(rig, "press-07")
    await publish(speaking, OUT, b"kept", retain=True)
    client = await machine(rig, "robot-1", "line/+/out", qos=1)
    client.send(puback((await received(client)).packet_id or 0), subscribe(2, "line/+/out", qos=0))
    assert await client.packet() == (frames.SUBACK, b"\0\2\0")
    assert await received(client) == Received(OUT, b"kept", 0, retain=True)
    await publish(speaking, OUT, b"live")
    assert await received(client) == Received(OUT, b"live", 0), "by the new QoS, once"


async def test_mqtt_3_10_4_3_delivery_that_has_begun_is_completed_after_unsubscribe(rig: Rig) -> None:
    client = await machine(rig, "robot-1", "line/+/out", qos=2)
    speaking = await machine(rig, "press-07")
    await publish(speaking, OUT, b"x", qos=2)
    assert (await received(client)).packet_id == 1
    client.send(unsubscribe(2, "line/+/out"), PUBREC + b"\0\1")
    assert await client.packets(2) == [(frames.UNSUBACK, b"\0\2"), (0x62, b"\0\1")]
    client.send(PUBCOMP + b"\0\1")
    assert await client.silent()


async def test_mqtt_4_3_3_1_qos_2_to_a_device_goes_by_publish_pubrec_pubrel_pubcomp(rig: Rig) -> None:
    client = await machine(rig, "robot-1", "line/+/out", qos=2)
    speaking = await machine(rig, "press-07")
    await publish(speaking, OUT, b"x", qos=2)
    assert await received(client) == Received(OUT, b"x", 2, packet_id=1)
    client.send(puback(1), PUBCOMP + b"\0\1")
    assert await client.silent(), "neither is its answer"
    client.send(PUBREC + b"\0\1", PUBREC + b"\0\1")
    assert await client.packets(2) == [(0x62, b"\0\1")] * 2
    for number in range(25):
        await publish(speaking, OUT, b"%d" % number, qos=2)
    ids = [(await received(client)).packet_id for _ in range(19)]
    assert 1 not in ids, "not free before PUBCOMP"
    assert await client.silent(), "the window of 20 is full"
    client.send(PUBCOMP + b"\0\1")
    assert (await received(client)).payload == b"19"


async def test_mqtt_4_4_0_1_publish_and_pubrel_are_sent_again_with_their_ids(rig: Rig) -> None:
    client = await machine(rig, "robot-1", "line/+/out", qos=2, clean=False)
    speaking = await machine(rig, "press-07")
    for number, qos in enumerate((2, 1, 2)):
        await publish(speaking, OUT, b"%d" % number, qos=qos)
        await received(client)
    client.send(PUBREC + b"\0\1")
    assert await client.packet() == (0x62, b"\0\1")
    client.close()
    await until(lambda: rig.gone == ["robot-1"])
    client = await machine(rig, "robot-1", clean=False, present=True)
    assert await client.packet() == (0x62, b"\0\1")
    assert await received(client) == Received(OUT, b"1", 1, dup=True, packet_id=2)
    assert await received(client) == Received(OUT, b"2", 2, dup=True, packet_id=3)


async def test_mqtt_4_6_0_4_pubrels_come_in_the_order_of_the_pubrecs(rig: Rig) -> None:
    client = await machine(rig, "robot-1", "line/+/out", qos=2)
    speaking = await machine(rig, "press-07")
    for number in range(5):
        await publish(speaking, OUT, b"%d" % number, qos=2)
        await received(client)
    client.send(*(PUBREC + bytes([0, packet_id]) for packet_id in (3, 1, 5, 2, 4)))
    assert [body[1] for _, body in await client.packets(5)] == [3, 1, 5, 2, 4]


async def test_mqtt_4_6_0_2_acknowledgements_of_own_and_local_topics_keep_one_order(rig: Rig) -> None:
    """[MQTT-4.6.0-3]."""
    client = await machine(rig, "press-07")
    topics = ["telemetry/press-07/data", OUT, OUT, "telemetry/press-07/data", "foreign"] * 6
    for qos, kind in ((1, frames.PUBACK), (2, frames.PUBREC)):
        client.send(*(frames.publish(topic, b"1", qos=qos, packet_id=n + 1) for n, topic in enumerate(topics)))
        assert await client.packets(30) == [(kind, bytes([0, n + 1])) for n in range(30)]


async def test_mqtt_4_6_0_6_messages_of_one_publisher_arrive_in_its_order_for_each_qos(rig: Rig) -> None:
    client = await machine(rig, "robot-1", "line/+/out", qos=1)
    speaking = await machine(rig, "press-07")
    for number in range(60):
        speaking.send(frames.publish(OUT, b"%d" % number, qos=1, packet_id=number + 1))
    for number in range(60):
        message = await received(client)
        assert message.payload == b"%d" % number
        client.send(puback(message.packet_id or 0))


async def test_mqtt_4_7_2_1_filters_that_begin_with_a_wildcard_show_nothing_of_the_brokers_own(rig: Rig) -> None:
    client = await machine(rig, "robot-1", "#", "+/#")
    client.send(subscribe(2, "$SYS/#", "$appliance/#"))
    assert await client.packet() == (frames.SUBACK, b"\0\2\x80\x80")
    speaking = await machine(rig, "press-07")
    await publish(speaking, "$SYS/x", b"1")
    await passed_on(rig)
    assert await client.silent()
