"""The HTTP server as the appliance runs it, over TLS: what silent strangers may cost, and how it stops."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from appliance import certificates, http_server
from appliance.http_server import BehindTlsDoor
from appliance.settings import Settings

WITHIN_S = 20
GET = b"GET / HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n"


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()[:2]})


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificates:
    return certificates.ensure(tmp_path_factory.mktemp("tls"), ["localhost"])


@asynccontextmanager
async def serving(identity: certificates.Certificates | None) -> AsyncIterator[tuple[BehindTlsDoor, int]]:
    server = http_server.http_server(ok, settings=Settings(), tls=identity)
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield server, listening.getsockname()[1]
    finally:
        server.should_exit = True
        async with asyncio.timeout(WITHIN_S):
            await running


async def ask(port: int, identity: certificates.Certificates) -> bytes:
    context = ssl.create_default_context(cadata=identity.ca_pem)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        async with asyncio.timeout(WITHIN_S):
            writer.write(GET)
            return await reader.read()
    finally:
        writer.close()


async def silent(port: int, count: int) -> list[asyncio.StreamWriter]:
    return [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(count)]


async def test_requests_are_served_over_tls_and_without(identity: certificates.Certificates) -> None:
    async with serving(identity) as (_, port):
        answers = await asyncio.gather(*(ask(port, identity) for _ in range(50)))
        assert all(b"200 OK" in answer for answer in answers)
    async with serving(None) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        assert b"200 OK" in await reader.read()
        writer.close()


async def test_sockets_that_never_shake_hands_keep_nobody_out(
    identity: certificates.Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MOST_HANDSHAKES", 4)
    monkeypatch.setattr("appliance.broker.tls_door.HANDSHAKE_WHILE_OTHERS_WAIT_S", 0.0)
    async with serving(identity) as (server, port):
        strangers = await silent(port, 40)
        assert b"200 OK" in await ask(port, identity)
        assert len(server.server_state.connections) <= 1
        for each in strangers:
            each.close()


async def test_strangers_beyond_what_may_wait_are_turned_away(
    identity: certificates.Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MOST_HANDSHAKES", 1)
    monkeypatch.setattr(http_server, "MOST_WAITING", 2)
    async with serving(identity) as (server, port):
        strangers = await silent(port, 30)
        async with asyncio.timeout(WITHIN_S):
            while server._door is None or server._door.pending < 3:
                await asyncio.sleep(0.01)
        assert server._door.pending == 3
        for each in strangers:
            each.close()


async def test_a_stop_does_not_wait_for_handshakes(identity: certificates.Certificates) -> None:
    async with serving(identity) as (server, port):
        strangers = await silent(port, 5)
        async with asyncio.timeout(WITHIN_S):
            while server._door is None or server._door.pending < 5:
                await asyncio.sleep(0.01)
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < 2
    for each in strangers:
        each.close()
