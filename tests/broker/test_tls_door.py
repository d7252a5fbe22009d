"""What strangers cost before their TLS handshake is done."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from appliance import certificates
from appliance.broker import tls_door
from appliance.broker.tls_door import TlsDoor

WITHIN_S = 10


class Echo(asyncio.Protocol):
    served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)
        self._transport.close()


@pytest.fixture
def identity(tmp_path: Path) -> certificates.Certificates:
    return certificates.ensure(tmp_path, ["localhost", "127.0.0.1"])


@asynccontextmanager
async def door(identity: certificates.Certificates, **bounds: int) -> AsyncIterator[TlsDoor]:
    one = TlsDoor(host="127.0.0.1", port=0, context=identity.server_context(), factory=Echo, backlog=1024, **bounds)
    try:
        yield one
    finally:
        await one.close()
        assert one.pending == 0


async def talk(one: TlsDoor, identity: certificates.Certificates) -> bytes:
    """A client that shakes hands, says something, and hears it again."""
    context = ssl.create_default_context(cadata=identity.ca_pem)
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", one.socket.getsockname()[1], ssl=context, server_hostname="localhost"
        )
        writer.write(b"hello")
        answer = await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return answer


async def silent(one: TlsDoor) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", one.socket.getsockname()[1])
    return writer


async def settled(one: TlsDoor, pending: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while one.pending != pending:
            await asyncio.sleep(0.01)


async def test_a_fleet_that_connects_at_once_is_served_whole_a_few_at_a_time(
    identity: certificates.Certificates,
) -> None:
    async with door(identity, most_handshakes=4) as one:
        answers = await asyncio.gather(*(talk(one, identity) for _ in range(100)))
        assert answers == [b"hello"] * 100


async def test_sockets_that_say_nothing_make_room_when_others_wait(
    identity: certificates.Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door(identity, most_handshakes=4) as one:
        strangers = [await silent(one) for _ in range(10)]
        await settled(one, 10)
        honest = asyncio.create_task(talk(one, identity))
        await settled(one, 11)
        one.sweep()
        assert one.pending == 11, "nobody has kept others waiting for long yet"
        monkeypatch.setattr(tls_door, "HANDSHAKE_WHILE_OTHERS_WAIT_S", -1.0)
        async with asyncio.timeout(WITHIN_S):
            while not honest.done():
                one.sweep()
                await asyncio.sleep(0.02)
        assert honest.result() == b"hello"
        for stranger in strangers:
            stranger.close()


async def test_nobody_is_hurried_while_there_is_room(identity: certificates.Certificates) -> None:
    async with door(identity, most_handshakes=4) as one:
        stranger = await silent(one)
        await settled(one, 1)
        one.sweep()
        await asyncio.sleep(0)
        assert one.pending == 1
        stranger.close()
        await settled(one, 0)


async def test_more_than_may_wait_are_turned_away_at_once(identity: certificates.Certificates) -> None:
    async with door(identity, most_handshakes=1, most_waiting=2) as one:
        strangers = [await silent(one) for _ in range(3)]
        await settled(one, 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", one.socket.getsockname()[1])
        async with asyncio.timeout(WITHIN_S):
            assert await reader.read() == b""
        for each in (writer, *strangers):
            each.close()


async def test_what_is_no_handshake_is_cut_off_and_leaves_nothing(identity: certificates.Certificates) -> None:
    async with door(identity) as one:
        for noise in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + b"\0" * 100,
            b"\x10\x0c\x00\x04MQTT\x04\x02",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.socket.getsockname()[1])
            writer.write(noise)
            writer.write_eof()
            async with asyncio.timeout(WITHIN_S):
                with suppress(ConnectionResetError):
                    await reader.read()
            writer.close()
        await settled(one, 0)
        assert await talk(one, identity) == b"hello"
