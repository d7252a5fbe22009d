"""Every packet malformed in every field, for every kind of session: it closes, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from appliance.broker import frames
from appliance.broker.listener import Limits
from appliance.contract.presence import OfflineCode
from tests.broker.malformed import Case, after_login, before_login, cut_off
from tests.broker.rig import Client, Rig, connect, running
from tests.broker.viewers import viewer

Login = Callable[[Rig], Awaitable[Client]]
LOCAL = {"publish": ["cell/line"], "subscribe": ["cell/#"]}


async def native(rig: Rig) -> Client:
    return await rig.login("press-07")


async def lasting(rig: Rig) -> Client:
    return await rig.login("press-06", clean=False)


async def local(rig: Rig) -> Client:
    return await rig.login("mixer", local_topics=LOCAL)


async def unpaired(rig: Rig) -> Client:
    client = await rig.client()
    client.send(connect("SN-new"))
    assert await client.packet() == (frames.CONNACK, b"\0\0")
    return client


SESSIONS: dict[str, tuple[Login, str]] = {
    "native": (native, "telemetry/press-07/data"),
    "native, lasting": (lasting, "telemetry/press-06/data"),
    "local topics": (local, "cell/line"),
    "unpaired": (unpaired, "iiot/config/request"),
    "viewer": (viewer, "test/x"),
}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    limits = Limits(unpaired_per_address=1000)
    async with running(tmp_path, viewers={"scada": "look-only"}, limits=limits) as rig:
        yield rig


class Onlookers:
    """A device and a viewer that are connected all the time, and must notice nothing."""

    def __init__(self, device: Client, viewing: Client) -> None:
        self._clients = device, viewing

    @classmethod
    async def of(cls, rig: Rig) -> Onlookers:
        return cls(await rig.login("press-99"), await viewer(rig, "#", client_id="onlooker"))

    async def have_noticed_nothing(self) -> bool:
        return all([await client.silent() for client in self._clients])


async def ends(client: Client, case: Case) -> str | None:
    """What is wrong with how the appliance ended the connection, if anything is."""
    try:
        answer = await client.end()
    except TimeoutError:
        return f"{case.name}: the connection stays open"
    return None if answer == case.answer else f"{case.name}: answered with {answer!r}"


async def all_end(rig: Rig, cases: list[Case], send: Callable[[Case], Awaitable[Client]]) -> None:
    """Send each over a connection of its own."""
    onlookers = await Onlookers.of(rig)
    wrong = []
    for number, case in enumerate(cases):
        fault = await ends(await send(case), case)
        if fault is not None:
            wrong.append(fault)
        if number % 100 == 0:
            assert await onlookers.have_noticed_nothing(), case.name
    assert wrong == [], "\n".join(wrong)
    assert await onlookers.have_noticed_nothing()
    assert rig.broker.listener.connections == 2
    assert rig.buffer.backlog().last_seq == 0, "something of it was stored"
    assert rig.asked == []


async def test_whatever_is_no_proper_connect_is_closed_as_the_specification_says(rig: Rig) -> None:
    async def send(case: Case) -> Client:
        client = await rig.client()
        client.send(case.sent)
        return client

    await all_end(rig, before_login(), send)
    assert set(rig.logged_in) == {("press-99", 1)}


@pytest.mark.parametrize("kind", SESSIONS)
async def test_every_malformed_packet_ends_the_connection_that_sent_it(rig: Rig, kind: str) -> None:
    login, topic = SESSIONS[kind]

    async def send(case: Case) -> Client:
        client = await login(rig)
        client.send(case.sent)
        return client

    cases = after_login(topic)
    if kind in ("viewer", "local topics"):
        # amqtt's own session for each is cleared up once a second, and their number is bounded
        cases = [case for number, case in enumerate(cases) if number % 3 != 1 or "flags" not in case.name]
    await all_end(rig, cases, send)
    if kind == "native":
        assert rig.presence.status("press-07").reason_code is OfflineCode.PROTOCOL_ERROR


@pytest.mark.parametrize("kind", SESSIONS)
async def test_a_packet_that_is_cut_off_anywhere_does_nothing(rig: Rig, kind: str) -> None:
    login, topic = SESSIONS[kind]

    async def send(case: Case) -> Client:
        client = await login(rig)
        client.send(case.sent)
        client.writer.write_eof()
        return client

    await all_end(rig, list(cut_off(topic)), send)


async def test_a_connect_that_is_cut_off_anywhere_does_nothing(rig: Rig) -> None:
    async def send(case: Case) -> Client:
        client = await rig.client()
        client.send(case.sent)
        client.writer.write_eof()
        return client

    _, password = await rig.pair("press-07")
    whole = connect("press-07", "press-07", password.encode(), will=("telemetry/press-07/data", b"{}"))
    await all_end(rig, [Case(f"{length} bytes", whole[:length]) for length in range(1, len(whole))], send)


async def test_what_is_sent_with_a_malformed_packet_counts_until_there_and_not_after_it(rig: Rig) -> None:
    client = await native(rig)
    good = [frames.publish("telemetry/press-07/data", b"%d" % number, qos=1, packet_id=number) for number in (1, 2)]
    client.send(good[0], b"\xd0\x00", good[1])
    assert await client.end() in (b"", b"\x40\x02\x00\x01")
    async with asyncio.timeout(5):
        await rig.buffer.wait_for_messages(0)
    assert [message.payload for message in (await rig.buffer.take()).messages] == [b"1"]
