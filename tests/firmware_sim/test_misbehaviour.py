"""What devices do wrong on request: each kind as a scripted server sees it, and how a fleet's share is chosen."""

from __future__ import annotations

import asyncio
import json
import struct
from collections import Counter
from random import Random

import pytest
from typer.testing import CliRunner

from appliance.contract.times import parse_rfc3339
from firmware_sim.cli import app
from firmware_sim.device import Device
from firmware_sim.faults import KINDS, Misbehaviour, Request, parse, spread
from firmware_sim.link import dup_packet
from firmware_sim.readings import OVERSIZE_BYTES
from firmware_sim.record import Recorder
from tests.conftest import ROOT
from tests.firmware_sim.peer import Peer, Received, peer
from tests.firmware_sim.test_device import COMMAND, DEVICE, TELEMETRY, connected

ANSWERS = f"command/{DEVICE}/response"


async def take(server: Peer, count: int) -> list[Received]:
    """The next messages."""
    return [await server.expect("publish") for _ in range(count)]


def is_json(payload: bytes) -> bool:
    try:
        json.loads(payload)
    except ValueError:
        return False
    return True


# --- what it says ---------------------------------------------------------------------------------------------


async def test_a_reading_is_published_twice_with_the_same_identity_behind_one_another() -> None:
    recorder = Recorder()
    async with peer() as server, connected(server, interval_s=0.01, recorder=recorder) as (device, _):
        device.misbehaviour.set("duplicate", 1.0)
        async with asyncio.timeout(10):
            while not recorder.counts["odd"]:
                await asyncio.sleep(0.01)
        messages = await take(server, server.received.qsize() + 6)
    ids = [message.json["msg_id"] for message in messages]
    assert max(Counter(ids).values()) == 2
    assert sorted(ids, key=lambda name: int(name.rpartition("-")[2])) == ids
    assert recorder.counts["odd"] > 0
    assert recorder.counts["pub"] >= recorder.counts["odd"], "a repeat was recorded as a reading"


async def test_a_packet_comes_again_with_dup_before_its_acknowledgement() -> None:
    async with peer() as server:
        server.automatic.discard("publish")
        async with connected(server, interval_s=0.01) as (device, _):
            (first,) = await take(server, 1)
            device.misbehaviour.set("dup-packet", 1.0)
            first.connection.puback(first.mid)
            second, third = await take(server, 2)
            assert (second.dup, third.dup) == (False, True)
            assert (second.mid, second.payload, second.topic) == (third.mid, third.payload, third.topic)
            device.misbehaviour.clear("dup-packet")
            for _ in range(2):
                second.connection.puback(second.mid)
            (fourth,) = await take(server, 1)
            assert not fourth.dup
            assert fourth.mid != second.mid


def test_a_dup_packet_is_a_publish_with_the_flag_of_the_specification() -> None:
    assert dup_packet(7, "a", b"x" * 200)[:3] == b"\x3a\xcd\x01"
    assert dup_packet(7, "a", b"x") == b"\x3a\x06" + struct.pack("!H", 1) + b"a" + struct.pack("!H", 7) + b"x"


async def test_a_message_goes_to_somebody_elses_topic_too() -> None:
    async with peer() as server, connected(server, interval_s=0.01) as (device, _):
        device.misbehaviour.set("wrong-topic", 1.0)
        while (await server.expect("publish")).topic == TELEMETRY:
            pass  # readings from before
        topics = {message.topic for message in await take(server, 4)}
    assert topics == {TELEMETRY, f"telemetry/not-{DEVICE}/data"}


async def test_something_that_is_no_json_is_published_too_and_readings_go_on() -> None:
    async with peer() as server, connected(server, interval_s=0.01) as (device, _):
        device.misbehaviour.set("bad-json", 1.0)
        while is_json((await server.expect("publish")).payload):
            pass  # readings from before
        assert [is_json(message.payload) for message in await take(server, 6)] == [True, False] * 3


async def test_an_oversized_message_is_said_once_even_if_it_costs_the_connection() -> None:
    async with peer() as server:
        server.automatic.discard("publish")
        async with connected(server, interval_s=0.01) as (device, _):
            device.misbehaviour.set("oversize", 1.0)
            while True:
                (message,) = await take(server, 1)
                if len(message.payload) > OVERSIZE_BYTES:
                    break
                message.connection.puback(message.mid)
            device.misbehaviour.clear()
            message.connection.drop()
            server.automatic.add("publish")
            await server.expect("connect", client_id=DEVICE)
            assert message.payload not in [again.payload for again in await take(server, 5)]


@pytest.mark.parametrize("seconds", [7200.0, -86_400.0])
async def test_a_clock_is_wrong_by_so_much(seconds: float) -> None:
    async with peer() as server, connected(server, interval_s=0.01) as (device, _):
        (right,) = await take(server, 1)
        device.misbehaviour.set("clock-skew", seconds)
        for message in await take(server, server.received.qsize() + 5):
            wrong = message
        apart_ms = parse_rfc3339(wrong.json["ts"]) - parse_rfc3339(right.json["ts"])
    assert abs(apart_ms - seconds * 1000) < 5000


async def test_with_qos_0_nothing_waits_for_acknowledgements_and_nothing_is_recorded_as_promised() -> None:
    recorder = Recorder()
    async with peer() as server:
        server.automatic.discard("publish")
        misbehaviour = Misbehaviour(random=Random(1), strengths={"qos0": 1.0})
        async with connected(server, interval_s=0.01, recorder=recorder, misbehaviour=misbehaviour):
            assert {message.qos for message in await take(server, 5)} == {0}
    assert recorder.counts["pub0"] >= 5
    assert (recorder.counts["pub"], recorder.counts["ack"]) == (0, 0)


async def test_with_qos_0_a_command_is_answered_too() -> None:
    async with peer() as server, connected(server, interval_s=0.01) as (device, subscribed):
        device.misbehaviour.set("qos0")
        for number in range(5):
            subscribed.connection.publish(COMMAND, {"command_id": f"c-{number}", "action": "reset"})
        for number in range(5):
            answer = await server.expect("publish", topic=ANSWERS)
            assert (answer.json["command_id"], answer.qos) == (f"c-{number}", 0)


# --- how it treats its connection ---------------------------------------------------------------------------


async def test_a_silent_device_says_nothing_answers_nothing_and_comes_back_by_itself() -> None:
    async with peer() as server, connected(server, interval_s=0.01, keepalive_s=1) as (device, subscribed):
        await take(server, 1)
        device.misbehaviour.set("silence", 0.001)
        async with asyncio.timeout(10):
            while (link := device._speaker.link) is None or not link.is_frozen:
                await asyncio.sleep(0.001)
        device.misbehaviour.clear()
        while not server.received.empty():
            server.received.get_nowait()
        frozen_at = asyncio.get_running_loop().time()
        mid = subscribed.connection.publish(COMMAND, {"command_id": "c-1", "action": "reset"})
        async with asyncio.timeout(10):
            packet = await server.received.get()
        assert packet.kind == "connect", "it said something"
        assert packet.connection is not subscribed.connection
        assert asyncio.get_running_loop().time() - frozen_at > 1.5
        assert mid


async def test_a_slow_reader_takes_one_packet_at_a_time() -> None:
    async with peer() as server, connected(server) as (device, subscribed):
        device.misbehaviour.set("slow-reading", 0.1)
        began = asyncio.get_running_loop().time()
        for number in range(4):
            subscribed.connection.publish(COMMAND, {"command_id": f"c-{number}", "action": "reset"})
        for number in range(4):
            answer = await server.expect("publish", topic=ANSWERS)
            assert answer.json["command_id"] == f"c-{number}"
        assert asyncio.get_running_loop().time() - began > 0.25
        device.misbehaviour.clear()
        subscribed.connection.publish(COMMAND, {"command_id": "c-9", "action": "reset"})
        await server.expect("publish", topic=ANSWERS)


async def test_a_flapping_device_connects_again_and_again_without_a_pause() -> None:
    async with peer() as server, connected(server) as (device, _):
        began = asyncio.get_running_loop().time()
        device.misbehaviour.set("flapping", 0.01)
        for _ in range(10):
            await server.expect("connect", client_id=DEVICE)
        assert asyncio.get_running_loop().time() - began < 5
        device.misbehaviour.clear()


async def test_a_clone_connects_beside_the_device_with_the_same_credentials_until_told_not_to() -> None:
    async with peer() as server, connected(server) as (device, subscribed):
        device.misbehaviour.set("clone", 0.05)
        clone = await server.expect("connect", client_id=DEVICE)
        assert clone.connection is not subscribed.connection
        assert clone.password == "the-secret"
        clone.connection.drop()
        again = await server.expect("connect", client_id=DEVICE)
        assert device.is_connected
        device.misbehaviour.clear()
        async with asyncio.timeout(10):
            while again.connection in server.connections:
                await asyncio.sleep(0.01)


# --- how it obeys --------------------------------------------------------------------------------------------


async def test_a_command_that_is_not_acknowledged_is_not_carried_out_either() -> None:
    recorder = Recorder()
    async with peer() as server, connected(server, recorder=recorder) as (device, subscribed):
        device.misbehaviour.set("no-puback")
        subscribed.connection.publish(COMMAND, {"command_id": "c-1", "action": "reset"})
        config = subscribed.connection.publish(f"iiot/config/{device.serial}", b"{}")
        puback = await server.expect("puback")
        assert puback.mid == config, "only other topics are acknowledged"
        device.misbehaviour.clear()
        subscribed.connection.publish(COMMAND, {"command_id": "c-1", "action": "reset"})
        await server.expect("publish", topic=ANSWERS)
    assert recorder.counts["cmd"] == 1


async def test_a_command_is_answered_twice_late_or_never() -> None:
    async with peer() as server, connected(server) as (device, subscribed):
        device.misbehaviour.set("twice-answer")
        subscribed.connection.publish(COMMAND, {"command_id": "c-1", "action": "reset"})
        both = [await server.expect("publish", topic=ANSWERS) for _ in range(2)]
        assert both[0].json == both[1].json
        device.misbehaviour.clear()
        for command_id, kind, strength in (("c-2", "late-answer", 0.5), ("c-3", "no-answer", 1.0)):
            device.misbehaviour.set(kind, strength)
            await server.expect("puback", mid=subscribed.connection.publish(COMMAND, {"command_id": command_id}))
            device.misbehaviour.clear()
        subscribed.connection.publish(COMMAND, {"command_id": "c-4", "action": "reset"})
        answers = [(await server.expect("publish", topic=ANSWERS)).json["command_id"] for _ in range(2)]
        assert answers == ["c-4", "c-2"]


# --- how it is asked for -------------------------------------------------------------------------------------


def test_a_share_of_the_fleet_is_chosen_by_chance_and_the_same_way_by_seed() -> None:
    names = [f"d-{number}" for number in range(200)]
    requests = (Request("bad-json", 0.1), Request("clone", 0.001), Request("qos0"))
    chosen = spread(requests, names, Random(3))
    assert chosen == spread(requests, names, Random(3))
    assert chosen != spread(requests, names, Random(4))
    count = Counter(kind for wrong in chosen.values() for kind in wrong)
    assert count == {"bad-json": 20, "clone": 1, "qos0": 200}


def test_misbehaviour_is_read_from_a_command_line() -> None:
    assert parse("bad-json=0.1") == Request("bad-json", 0.1, None)
    assert parse("silence:5") == Request("silence", 1.0, 5.0)
    assert parse("clock-skew=0.5:-60") == Request("clock-skew", 0.5, -60.0)
    for text in (
        "gossip",
        "bad-json=2",
        "bad-json=0",
        "bad-json=much",
        "bad-json:3",
        "silence:0",
        "flapping:-1",
        "x=1:1",
    ):
        with pytest.raises(ValueError, match=r"."):
            parse(text)


def test_every_kind_has_a_strength_that_can_be_used_and_a_row_in_the_readme() -> None:
    text = (ROOT / "firmware_sim" / "README.md").read_text()
    misbehaviour = Misbehaviour(random=Random(1))
    for name, kind in KINDS.items():
        misbehaviour.set(name)
        assert f"| `{name}` | {kind.strength:g}" in text, name
    assert set(misbehaviour.as_dict()) == set(KINDS)
    listed = CliRunner().invoke(app, ["misbehaviour"]).output
    assert all(name in listed for name in KINDS)


def test_a_mistake_on_the_command_line_is_said() -> None:
    for options in (["--misbehave", "gossip"], ["--machine", "toaster"]):
        result = CliRunner().invoke(app, ["device", "--serial", "SN-1", "--plain", *options])
        assert result.exit_code == 2
        assert "there are" in result.output.replace("│", "").replace("\n", " ")


def test_a_device_that_behaves_does_nothing_wrong() -> None:
    misbehaviour = Misbehaviour(random=Random(1))
    assert not any(misbehaviour.now(kind) for kind in KINDS)
    assert all(misbehaviour.get(kind) is None and misbehaviour.after_s(kind) is None for kind in KINDS)
    assert Device.__init__.__kwdefaults__["misbehaviour"] is None
