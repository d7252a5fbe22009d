"""Viewers' connections and sessions: who is let in, what outlives a connection, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.broker import frames
from appliance.broker.attached import AttachedClients, AttachedLimits
from appliance.broker.connection import SLOW_READER_S
from appliance.broker.listener import Limits
from tests.broker.rig import WITHIN_S, Client, Rig, connect, puback, running, subscribe
from tests.broker.viewers import DISCONNECT, Received, publish, received, viewer

VIEWERS = {"scada": "look-only", "panel": "look-only"}
TOPIC = "telemetry/press-07/data"


def attached(rig: Rig) -> AttachedClients:
    assert rig.broker.attached is not None
    return rig.broker.attached


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


async def leave(client: Client) -> None:
    client.send(DISCONNECT)
    assert await client.end() == b""
    client.close()


async def refused(rig: Rig, packet: bytes) -> int:
    """The return code of the CONNACK that this CONNECT gets."""
    client = await rig.client()
    client.send(packet)
    answer = await client.end()
    assert answer[:3] == b"\x20\x02\x00"
    return answer[3]


# --- who is let in ------------------------------------------------------------------------------------------------


async def test_a_wrong_password_gets_connack_4_and_ten_of_them_close_the_account_to_that_address(rig: Rig) -> None:
    for _ in range(10):
        assert await refused(rig, connect("v", "scada", b"guess")) == frames.BAD_CREDENTIALS
    assert await refused(rig, connect("v", "scada", b"look-only")) == frames.UNAVAILABLE
    listener = rig.broker.listener
    assert len(attached(rig)) == 0
    await rig.login("press-07")
    assert listener.connections == 1, "devices at that address are let in"


async def test_an_empty_client_id_is_for_clean_sessions_and_belongs_to_one_connection(rig: Rig) -> None:
    assert await refused(rig, connect("", "scada", b"look-only", clean=False)) == frames.BAD_CLIENT_ID
    clients = [await viewer(rig, "test/#", client_id="") for _ in range(3)]
    await publish(clients[0], "test/a", b"x", qos=0)
    for client in clients:
        assert (await received(client)).payload == b"x"


async def test_more_viewers_than_allowed_are_refused_until_one_leaves(tmp_path: Path) -> None:
    async with running(tmp_path, viewers=VIEWERS, limits=Limits(viewers=2)) as rig:
        first = await viewer(rig, client_id="1")
        await viewer(rig, client_id="2")
        assert await refused(rig, connect("3", "scada", b"look-only")) == frames.UNAVAILABLE
        await leave(first)
        await viewer(rig, client_id="3")


async def test_a_flood_of_viewers_is_held_up_until_amqtt_has_cleared_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.broker.attached.MOST_AMQTT_SESSIONS", 5)
    code = frames.ACCEPTED
    while code == frames.ACCEPTED:
        client = await rig.client()
        client.send(connect("", "scada", b"look-only"), DISCONNECT)
        code = (await client.end())[3]
        assert len(rig.broker.amqtt.sessions) <= 5
    assert code == frames.UNAVAILABLE
    await until(lambda: len(rig.broker.amqtt.sessions) == 1)
    await viewer(rig)


# --- takeover -----------------------------------------------------------------------------------------------------


async def test_a_viewers_newer_connection_takes_over_and_the_older_is_closed_first(rig: Rig) -> None:
    old = await viewer(rig, "test/#")
    new = await viewer(rig, "test/b")
    assert await old.end() == b""
    await publish(new, "test/a", b"not subscribed in the new session")
    await publish(new, "test/b", b"b")
    assert (await received(new)).payload == b"b"
    assert len(attached(rig)) == 1


async def test_the_same_client_id_of_another_account_or_a_device_is_another_client(tmp_path: Path) -> None:
    async with running(tmp_path, viewers=VIEWERS) as rig:
        device = await rig.login("press-07")
        clients = [await viewer(rig, "test/a", client_id="press-07", account=account) for account in VIEWERS]
        await publish(clients[0], "test/a", b"x")
        for client in clients:
            assert (await received(client)).payload == b"x"
        assert await device.silent()
        assert rig.presence.status("press-07").takeovers == 0


async def test_a_viewer_that_takes_over_again_and_again_ends_with_one_session(rig: Rig) -> None:
    for clean in (True, False, False, True, False) * 4:
        client = await rig.client()
        client.send(connect("v", "scada", b"look-only", clean=clean), subscribe(1, "test/#"))
        assert (await client.packet())[0] == frames.CONNACK
    assert await client.packet() == (frames.SUBACK, b"\x00\x01\x01")
    await publish(client, "test/a", b"x")
    assert (await received(client)).payload == b"x"
    assert len(attached(rig)) == 1
    await until(lambda: len(rig.broker.amqtt.sessions) == 2)


# --- sessions that outlive their connection -----------------------------------------------------------------------


async def test_an_absent_viewer_gets_later_what_came_with_qos_1_or_2_while_it_was_away(rig: Rig) -> None:
    await leave(await viewer(rig, "test/#", qos=2, clean=False))
    sender = await viewer(rig, client_id="sender")
    for qos in (0, 1, 2):
        await publish(sender, "test/a", b"%d" % qos, qos=qos)
    await until(lambda: len(rig.broker.fan_out) == 0)
    back = await viewer(rig, clean=False, present=True)
    assert [(await received(back))[1:3] for _ in range(2)] == [(b"1", 1), (b"2", 2)]
    await publish(sender, "test/a", b"live")
    assert (await received(back)).payload == b"live", "its subscription outlived the connection"


async def test_what_was_not_acknowledged_comes_again_with_dup_in_its_order(rig: Rig) -> None:
    client = await viewer(rig, "test/#", qos=2, clean=False)
    sender = await viewer(rig, client_id="sender")
    for number, qos in enumerate((1, 2, 2, 1)):
        await publish(sender, "test/a", b"%d" % number, qos=qos)
        assert (await received(client)).packet_id == number + 1
    client.send(puback(4), frames.PUBREC_HEAD + b"\x00\x02")
    assert await client.packet() == (0x62, b"\x00\x02")
    client.close()
    back = await viewer(rig, clean=False, present=True)
    assert await received(back) == Received("test/a", b"0", 1, dup=True, packet_id=1)
    assert await back.packet() == (0x62, b"\x00\x02"), "received already: only its release is repeated"
    assert await received(back) == Received("test/a", b"2", 2, dup=True, packet_id=3)
    assert await back.silent()


async def test_qos_2_ids_of_a_lasting_session_are_remembered_over_a_reconnection(rig: Rig) -> None:
    watching = await viewer(rig, "test/#", client_id="watching")
    client = await viewer(rig, clean=False)
    client.send(frames.publish("test/a", b"once", qos=2, packet_id=5))
    assert await client.packet() == (frames.PUBREC, b"\x00\x05")
    client.close()
    back = await viewer(rig, clean=False, present=True)
    back.send(frames.publish("test/a", b"once", qos=2, packet_id=5, dup=True), frames.PUBREL_HEAD + b"\x00\x05")
    assert [header for header, _ in await back.packets(2)] == [frames.PUBREC, frames.PUBCOMP]
    assert (await received(watching)).payload == b"once"
    assert await watching.silent()


async def test_a_clean_session_ends_with_its_connection_and_discards_an_older_lasting_one(rig: Rig) -> None:
    await leave(await viewer(rig, "test/#", clean=False))
    await leave(await viewer(rig, "test/#", clean=True))
    client = await viewer(rig, clean=False, present=False)
    await publish(client, "test/a", b"x")
    assert await client.silent()


async def test_what_waits_for_an_absent_viewer_is_bounded_and_the_newest_stays(tmp_path: Path) -> None:
    async with running(tmp_path, viewers=VIEWERS, attached=AttachedLimits(queued_messages=30)) as rig:
        await leave(await viewer(rig, "test/#", clean=False))
        sender = await viewer(rig, client_id="sender")
        for number in range(100):
            await publish(sender, "test/a", b"%d" % number)
        await until(lambda: attached(rig).dropped == 70)
        back = await viewer(rig, clean=False, present=True)
        got = []
        for _ in range(30):
            message = await received(back)
            got.append(message.payload)
            back.send(puback(message.packet_id or 0))
        assert got == [b"%d" % number for number in range(70, 100)]


async def test_a_viewer_that_stays_away_is_forgotten_by_age_and_by_number(tmp_path: Path) -> None:
    async with running(tmp_path, viewers=VIEWERS, attached=AttachedLimits(absent=2)) as rig:
        for name in ("1", "2", "3"):
            await leave(await viewer(rig, "test/#", client_id=name, clean=False))
        await until(lambda: len(attached(rig)) == 2)
        await viewer(rig, client_id="1", clean=False, present=False)
        await viewer(rig, client_id="2", clean=False, present=True)
        await leave(await viewer(rig, client_id="3", clean=False, present=True))
        assert len(attached(rig)) == 3, "who has come back is not away"
    async with running(tmp_path, viewers=VIEWERS, attached=AttachedLimits(session_expiry_s=0.05)) as rig:
        await leave(await viewer(rig, client_id="back", clean=False))
        await viewer(rig, client_id="back", clean=False, present=True)
        expiry = attached(rig)._states["scada", "back"].expiry
        assert expiry is not None
        assert expiry.cancelled()
        await leave(await viewer(rig, TOPIC, clean=False))
        await until(lambda: len(attached(rig)) == 1)
        assert rig.broker.plugin is not None
        assert len(rig.broker.plugin.watched) == 0
        await until(lambda: len(rig.broker.amqtt.sessions) == 2)


# --- slow and many ------------------------------------------------------------------------------------------------


async def test_a_viewer_that_does_not_read_is_dropped_and_slows_nobody(tmp_path: Path) -> None:
    async with running(tmp_path, viewers=VIEWERS, attached=AttachedLimits(queued_messages=50)) as rig:
        slow = await viewer(rig, "telemetry/#", client_id="slow", qos=0)
        slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
        quick = await viewer(rig, "telemetry/#", client_id="quick", qos=0)
        device = await rig.login("press-07")
        payload = b'"' + b"x" * 200_000 + b'"'
        for number in range(1, 121):
            device.send(frames.publish(TOPIC, payload, qos=1, packet_id=number))
            assert await device.packet() == (frames.PUBACK, number.to_bytes(2, "big"))
            assert (await received(quick)).payload == payload
        state = attached(rig)._states["scada", "slow"]
        assert state.outbound.dropped > 0
        assert len(state.outbound) <= 50
        listener = rig.broker.listener
        now = listener.time()
        listener.time = lambda: now + SLOW_READER_S + 1  # type: ignore[method-assign]
        listener.sweep()
        assert ("scada", "slow") not in attached(rig)._states
        assert await quick.silent()


async def test_a_viewer_that_reads_again_in_time_gets_the_newest_of_what_it_missed(tmp_path: Path) -> None:
    async with running(tmp_path, viewers=VIEWERS, attached=AttachedLimits(queued_messages=20)) as rig:
        slow = await viewer(rig, "test/#", client_id="slow", qos=0)
        slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
        sender = await viewer(rig, client_id="sender")
        for number in range(100):
            await publish(sender, "test/a", b"%03d" % number + b"x" * 200_000)
        state = attached(rig)._states["scada", "slow"]
        await until(lambda: state.outbound.dropped > 0 and len(rig.broker.fan_out) == 0)
        slow.reader._transport.resume_reading()  # type: ignore[attr-defined]
        got: list[bytes] = []
        while b"099" not in got:  # the newest comes in any case; others may be dropped until it has passed amqtt
            got.append((await received(slow)).payload[:3])
        assert got == sorted(got)
        assert len(got) == 100 - state.outbound.dropped
        assert got[-20:] == [b"%03d" % number for number in range(80, 100)]


async def test_at_most_twenty_messages_are_unacknowledged_and_the_rest_follows_in_order(rig: Rig) -> None:
    client, sender = await viewer(rig, "test/#"), await viewer(rig, client_id="sender")
    for number in range(50):
        await publish(sender, "test/a", b"%d" % number)
    messages = [await received(client) for _ in range(20)]
    assert await client.silent()
    for number in range(50):
        client.send(puback(messages[number].packet_id or 0))
        if number < 30:
            messages.append(await received(client))
    assert [message.payload for message in messages] == [b"%d" % number for number in range(50)]
    assert await client.silent()


async def test_a_viewer_that_publishes_faster_than_amqtt_takes_is_held_up_and_loses_nothing(rig: Rig) -> None:
    sender, watching = await viewer(rig, client_id="sender"), await viewer(rig, "test/#", client_id="watching", qos=0)
    total = 2000
    sender.send(*(frames.publish("test/a", b"%d" % number) for number in range(total)), b"\xc0\x00")
    most = 0
    for number in range(total):
        assert (await received(watching)).payload == b"%d" % number
        most = max(most, len(rig.broker.fan_out))
    assert most <= 64
    assert await sender.packet() == (frames.PINGRESP, b"")


async def test_two_hundred_viewers_come_and_go_and_leave_nothing_behind(rig: Rig) -> None:
    async def visit(number: int) -> None:
        client = await rig.client()
        client.send(connect(f"v{number % 7}", "scada", b"look-only", clean=number % 3 != 0))
        if number % 5:
            client.send(subscribe(1, "telemetry/#", f"test/{number}"))
        if number % 2:
            client.send(DISCONNECT)
            await client.end()
        else:
            await client.packet()
        client.close()

    await visit(1)
    await until(lambda: len(rig.broker.amqtt.sessions) == 1)
    gc.collect()
    before = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    for number in range(200):
        await visit(number)
    for number in range(7):
        await leave(await viewer(rig, client_id=f"v{number}"))
    await until(lambda: len(rig.broker.amqtt.sessions) == 1 and not attached(rig)._attachments)
    await until(lambda: (len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))) == before)
    assert len(attached(rig)) == 0
    assert set(rig.broker.amqtt.subscriptions) == {"$appliance/fence"}
    assert rig.broker.plugin is not None
    assert len(rig.broker.plugin.watched) == 0
    assert rig.broker.listener.connections == 0
