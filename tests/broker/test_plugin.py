"""The one authority: loaded by amqtt, asked by the listener; what viewers may see, and what is handed to them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from amqtt.plugins.base import BaseTopicPlugin

from appliance.broker import frames
from appliance.broker.filter_tree import FilterTree
from appliance.broker.plugin import InterceptPlugin, Refusal
from appliance.contract.topics import filter_matches, is_topic_filter
from tests.broker.rig import Rig, connect, running
from tests.broker.viewers import viewer


async def test_amqtt_loads_the_plugin_and_the_listener_asks_that_same_instance(rig: Rig) -> None:
    loaded = rig.broker.amqtt.plugins_manager.plugins
    assert [type(each) for each in loaded] == [InterceptPlugin]
    assert not isinstance(loaded[0], BaseTopicPlugin), "topic filtering makes amqtt lose messages"
    loaded[0].identify = lambda connect: Refusal(frames.NOT_AUTHORIZED, "this instance says so")
    client = await rig.client()
    client.send(connect("v", "scada", b"look-only"))
    assert await client.packet() == (frames.CONNACK, bytes([0, frames.NOT_AUTHORIZED]))


async def test_what_the_plugin_intercepts_goes_to_its_service_and_not_through_amqtt(rig: Rig) -> None:
    client = await rig.login("press-07")
    client.send(frames.publish("command/press-07/response", b"{}", qos=1, packet_id=1))
    assert await client.packet() == (frames.PUBACK, b"\x00\x01")
    assert rig.intercepted == [("command_response", "press-07", b"{}")]
    assert list(rig.broker.amqtt.sessions) == ["appliance/fence/1"], "a device costs amqtt nothing"


async def test_without_the_plugin_a_viewer_is_not_let_in_and_amqtt_stays_empty(tmp_path: Path) -> None:
    async with running(tmp_path, viewers={"scada": "look-only"}, plugins={}) as rig:
        client = await rig.client()
        client.send(connect("v", "scada", b"look-only"))
        assert await client.end() == bytes([frames.CONNACK, 2, 0, frames.NOT_AUTHORIZED])
        assert rig.broker.attached is None
        assert rig.broker.amqtt.sessions == {}


@pytest.mark.parametrize(
    ("topic_filter", "granted"),
    [
        ("#", True),
        ("+/+/data", True),
        ("telemetry/#", True),
        ("telemetry/+/data", True),
        ("telemetry/press-07/data", True),
        ("telemetry/not-paired-yet/data", True),
        ("test/#", True),
        ("test/deep/down", True),
        ("plant/hall-1/#", True),
        ("plant/+/press-08", True),
        ("command/#", False),
        ("command/press-07/action", False),
        ("ota/+/notify", False),
        ("iiot/config/#", False),
        ("plant/hall-2/#", False),
        ("telemetry", False),
        ("tests/x", False),
        ("$SYS/#", False),
        ("$appliance/fence", False),
    ],
)
async def test_viewers_may_subscribe_to_telemetry_and_test_topics(rig: Rig, topic_filter: str, granted: bool) -> None:
    await rig.pair("press-08", topics={"telemetry": "plant/hall-1/{device}"})
    plugin = rig.broker.plugin
    assert plugin is not None
    assert plugin.viewer_may_subscribe(topic_filter) is granted


async def test_viewers_may_receive_telemetry_of_devices_that_were_paired_meanwhile(rig: Rig) -> None:
    plugin = rig.broker.plugin
    assert plugin is not None
    assert plugin.viewer_may_receive("telemetry/press-07/data")
    assert plugin.viewer_may_receive("test/x")
    assert not plugin.viewer_may_receive("plant/press-08/values")
    await rig.pair("press-08", topics={"telemetry": "plant/{device}/values"})
    assert plugin.viewer_may_receive("plant/press-08/values")
    for topic in ("command/press-08/action", "ota/press-08/notify", "iiot/config/SN-press-08", "$SYS/uptime"):
        assert not plugin.viewer_may_receive(topic)


async def test_only_telemetry_is_ever_watched_and_only_while_a_filter_matches_it(rig: Rig) -> None:
    device, _ = await rig.pair("press-07")
    plugin = rig.broker.plugin
    assert plugin is not None
    routes = {route.topic: route for route in plugin.routes(device).values()}

    def watched() -> set[str]:
        return {topic for topic, route in routes.items() if plugin.is_watched(route)}

    assert watched() == set()
    wide = await viewer(rig, "#", client_id="wide")
    assert watched() == {"telemetry/press-07/data"}
    narrow = await viewer(rig, "telemetry/press-07/+", client_id="narrow")
    wide.send(b"\xe0\x00")
    await wide.end()
    assert watched() == {"telemetry/press-07/data"}, "another viewer still holds a filter for it"
    narrow.send(b"\xe0\x00")
    await narrow.end()
    assert watched() == set()


def test_the_tree_of_filters_agrees_with_matching_them_one_by_one() -> None:
    dice = random.Random(7)
    levels = ["a", "b", "", "+", "#", "$x"]
    held: list[str] = []
    tree = FilterTree()
    for _ in range(3000):
        topic_filter = "/".join(dice.choices(levels, k=dice.randint(1, 4)))
        if is_topic_filter(topic_filter) and dice.random() < 0.5:
            assert tree.add(topic_filter) is (topic_filter not in held)
            held.append(topic_filter)
        elif held and dice.random() < 0.8:
            leaving = dice.choice(held)
            held.remove(leaving)
            assert tree.discard(leaving) is (leaving not in held)
        topic = "/".join(dice.choices(["a", "b", "", "$x"], k=dice.randint(1, 4)))
        if topic:
            assert tree.matches(topic) is any(filter_matches(each, topic) for each in held), (topic, held)
        if len(held) > 12:
            held, tree = [], FilterTree()
    assert not tree.discard("never/added")


def test_an_emptied_tree_of_filters_keeps_nothing() -> None:
    tree = FilterTree()
    for each in ("a/b/c", "a/b", "a/+/c", "#"):
        tree.add(each)
    assert len(tree) == 4
    assert "a/b" in tree
    assert "a" not in tree
    for each in ("a/b", "#", "a/b/c", "a/+/c"):
        assert tree.discard(each)
    assert len(tree) == 0
    assert tree._root.children == {}
