"""QoS 2 from devices: a message is stored once, however often it is sent, over connections and restarts (§4.3.3)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.broker import frames
from appliance.broker.exchanges import MOST_QOS2_OPEN
from appliance.contract.odoo import DeviceConfig
from appliance.store import packet_ids
from appliance.store.device_rows import Claim
from appliance.store.packet_ids import PacketIds
from tests.broker.rig import Client, Rig, running

TOPIC = "telemetry/press-07/data"
FIRST, OTHER = b'{"first": 1}', b'{"other": 2}'


def publish(packet_id: int, payload: bytes = FIRST, *, dup: bool = False) -> bytes:
    return frames.publish(TOPIC, payload, qos=2, packet_id=packet_id, dup=dup)


def pubrel(packet_id: int) -> bytes:
    return frames.PUBREL_HEAD + packet_id.to_bytes(2, "big")


async def received(client: Client, *packets: bytes) -> None:
    """Send, and get a PUBREC for each."""
    client.send(*packets)
    assert {header for header, _ in await client.packets(len(packets))} == {frames.PUBREC}


async def released(client: Client, packet_id: int) -> None:
    client.send(pubrel(packet_id))
    assert await client.packet() == (frames.PUBCOMP, packet_id.to_bytes(2, "big"))


async def stored(rig: Rig) -> list[bytes]:
    return [message.payload for message in (await rig.buffer.take()).messages]


async def open_ids(rig: Rig) -> list[tuple[str, int]]:
    rows = await rig.database.run(
        lambda connection: connection.execute("SELECT device, packet_id FROM qos2_open ORDER BY 1, 2").fetchall()
    )
    assert rig.broker._packet_ids.total == len(rows), "memory must count what the disk holds"
    return rows


async def test_what_was_sent_before_a_restart_is_no_new_message_after_it(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        client = await rig.login("press-07", clean=False)
        await received(client, publish(1))
        assert await open_ids(rig) == [("press-07", 1)]
    async with running(tmp_path) as rig:
        assert await open_ids(rig) == [("press-07", 1)]
        client = await rig.login("press-07", clean=False)
        await received(client, publish(1, dup=True), publish(1, dup=True))
        assert await stored(rig) == [FIRST]
        await released(client, 1)
        assert await open_ids(rig) == []
        await received(client, publish(1, dup=True))
        assert await stored(rig) == [FIRST, FIRST], "after its release the id stands for another message"


@pytest.mark.parametrize(("payload", "dup"), [(FIRST, False), (OTHER, False), (OTHER, True)])
async def test_who_begins_anew_after_a_restart_may_use_the_id_for_another_message(
    tmp_path: Path, payload: bytes, dup: bool
) -> None:
    """The client was told that its session is not present, so it may have forgotten what it sent."""
    async with running(tmp_path) as rig:
        await received(await rig.login("press-07", clean=False), publish(1))
    async with running(tmp_path) as rig:
        client = await rig.login("press-07", clean=False)
        await received(client, publish(1, payload, dup=dup))
        assert await stored(rig) == [FIRST, payload]
        assert await open_ids(rig) == [("press-07", 1)]
    async with running(tmp_path) as rig:
        client = await rig.login("press-07", clean=False)
        await received(client, publish(1, payload, dup=True))
        assert len(await stored(rig)) == 2, "and is held against that one from then on"


async def test_within_a_session_the_id_alone_decides(rig: Rig) -> None:
    client = await rig.login("press-07", clean=False)
    await received(client, publish(1), publish(1, OTHER))
    assert await stored(rig) == [FIRST]


async def test_pubcomp_waits_until_the_id_is_gone_from_the_disk(rig: Rig) -> None:
    client = await rig.login("press-07", clean=False)
    await received(client, publish(1))
    held, entered = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(connection: object) -> None:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(held.wait(), loop).result()

    holding = rig.database.submit(hold)
    await entered.wait()
    client.send(pubrel(1))
    assert await client.silent(), "PUBCOMP before the commit"
    client.close()
    again = await rig.login("press-07", clean=False)
    again.send(pubrel(1))
    assert await again.silent(), "nor for the repeated PUBREL, although memory knows the id no more"
    held.set()
    await holding
    assert await again.packet() == (frames.PUBCOMP, b"\0\1")
    assert await open_ids(rig) == []


async def test_acknowledgements_of_publishes_and_releases_leave_in_order(rig: Rig) -> None:
    client = await rig.login("press-07", clean=False)
    client.send(publish(1), pubrel(1), publish(2), publish(1, OTHER), pubrel(9))
    assert await client.packets(5) == [
        (frames.PUBREC, b"\0\1"),
        (frames.PUBCOMP, b"\0\1"),
        (frames.PUBREC, b"\0\2"),
        (frames.PUBREC, b"\0\1"),
        (frames.PUBCOMP, b"\0\x09"),
    ]
    assert await stored(rig) == [FIRST, FIRST, OTHER]
    assert await open_ids(rig) == [("press-07", 1), ("press-07", 2)]


async def test_a_clean_session_clears_what_was_open_and_writes_nothing_itself(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await received(await rig.login("press-07", clean=False), publish(1), publish(2))
        client = await rig.login("press-07", clean=True)
        assert await open_ids(rig) == []
        await received(client, publish(1))
        assert len(await stored(rig)) == 3
        assert await open_ids(rig) == []
        await released(client, 1)
        again = await rig.login("press-07", clean=False)
        await received(again, publish(5))
    async with running(tmp_path) as rig:
        await rig.login("press-07", clean=True)
        assert await open_ids(rig) == [], "also what was open before a restart"


@pytest.mark.parametrize("restart", [False, True])
async def test_a_device_that_is_removed_or_changes_hands_leaves_nothing_open(tmp_path: Path, restart: bool) -> None:
    def claim(device_id: str, serial: str) -> Claim:
        return Claim(
            serial=serial, token_digest=serial.encode(), request_id="r", config=DeviceConfig(device_id=device_id)
        )

    async def change(rig: Rig) -> None:
        await rig.registry.pair(claim("press-09", "SN-press-07"))  # press-07 is removed
        await rig.registry.pair(claim("press-08", "SN-of-another-machine"))
        await rig.login("press-08", clean=False)
        assert await open_ids(rig) == []

    async with running(tmp_path) as rig:
        for device in ("press-07", "press-08"):
            client = await rig.login(device, clean=False)
            await received(client, frames.publish(f"telemetry/{device}/data", FIRST, qos=2, packet_id=1))
        if not restart:
            await change(rig)
    if restart:
        async with running(tmp_path) as rig:
            await change(rig)


async def test_more_than_a_hundred_open_messages_end_the_connection(rig: Rig) -> None:
    client = await rig.login("press-07", clean=False)
    for packet_id in range(1, MOST_QOS2_OPEN + 1):
        await received(client, publish(packet_id))
    client.send(publish(101))
    assert await client.end() == b""
    assert len(await stored(rig)) == MOST_QOS2_OPEN
    assert len(await open_ids(rig)) == MOST_QOS2_OPEN


async def test_all_devices_together_have_a_bound_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_ids, "MOST_OPEN", 3)
    client = await rig.login("press-07", clean=False)
    await received(client, publish(1), publish(2), publish(3))
    other = await rig.login("press-08", clean=False)
    other.send(frames.publish("telemetry/press-08/data", FIRST, qos=2, packet_id=1))
    assert await other.end() == b""
    await released(client, 2)
    other = await rig.login("press-08", clean=False)
    await received(other, frames.publish("telemetry/press-08/data", FIRST, qos=2, packet_id=1))


async def test_an_accept_that_fails_leaves_neither_an_open_id_nor_a_count(rig: Rig) -> None:
    client = await rig.login("press-07", clean=False)
    session = rig.broker.listener._devices["press-07"]
    [route] = [route for route in session._routes.values() if route.topic == TOPIC]
    accept = route.accept

    def fail(*_: object) -> None:
        raise OverflowError("a fault of ours")

    route.accept = fail  # type: ignore[assignment]
    client.send(publish(1))
    assert await client.end() == b""
    route.accept = accept
    assert rig.broker.listener.unacked_bytes == 0
    assert rig.database._writer.joined == {}
    client = await rig.login("press-07", clean=False)
    await received(client, publish(1, dup=True))
    assert await stored(rig) == [FIRST]
    assert rig.database._writer.joined == {}


async def test_ids_are_loaded_in_pages_without_gap_or_repeat(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_ids, "LOAD_ROWS", 7)
    for device in ("press-07", "press-08", "press-09"):
        await rig.pair(device)
        await rig.database.run(
            lambda connection, device=device: connection.executemany(
                "INSERT INTO qos2_open VALUES (?, ?, x'00')", [(device, number) for number in range(1, 11)]
            )
        )
    fresh = PacketIds(rig.database)
    await fresh.load()
    assert fresh.total == 30
    assert {device: len(fresh.found(device)) for device in ("press-07", "press-08", "press-09")} == {
        "press-07": 10,
        "press-08": 10,
        "press-09": 10,
    }
