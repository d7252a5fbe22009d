"""What the HTTP server bears of strangers, on a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn

from appliance.http_door import MOST_PER_ADDRESS, BoundedHttp, Server, is_crowded

GET = b"GET / HTTP/1.1\r\nHost: box\r\n"


class _Impatient(BoundedHttp):
    idle_s = 0.1
    request_s = 0.1


async def _ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def _never(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def door(app: Any, protocol: type[BoundedHttp]) -> AsyncIterator[int]:
    """The port of a server with this protocol."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=protocol, loop="none", lifespan="off", ws="none", log_config=None)
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def until_closed(port: int, *pieces: bytes) -> bytes:
    """Send the pieces, then read until the server has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                return await reader.read()
            except ConnectionError:
                return b""
    finally:
        writer.close()


@pytest.mark.parametrize("head", [b"", GET, GET + b"\r\n" + GET])
async def test_who_does_not_finish_a_request_is_cut_off(head: bytes) -> None:
    async with door(_ok, _Impatient) as port:
        assert (await until_closed(port, head)).endswith(b"ok" if b"\r\n\r\n" in head else b"")


async def test_a_request_that_has_no_end_is_cut_off() -> None:
    async with door(_never, _Impatient) as port:
        assert await until_closed(port, b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 9\r\n\r\n") == b""


@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        GET + b"X-Endless: ",
        b"POST / HTTP/1.1\r\nHost: box\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: ",
    ],
)
async def test_a_head_or_a_trailer_without_end_is_refused(start: bytes) -> None:
    async with door(_never, BoundedHttp) as port:
        await until_closed(port, start, *[b"a" * 65_536] * 200)


async def test_who_does_not_wait_for_answers_is_cut_off_before_the_requests_pile_up() -> None:
    begun, go_on = 0, asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal begun
        begun += 1
        await go_on.wait()
        await _ok(scope, receive, send)

    async with door(slow, BoundedHttp) as port:
        await until_closed(port, (GET + b"\r\n") * 2000)
        go_on.set()
    assert begun == 1


async def test_a_few_requests_at_once_are_answered_in_turn() -> None:
    last = b"GET / HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n"
    async with door(_ok, BoundedHttp) as port:
        assert (await until_closed(port, (GET + b"\r\n") * 5 + last)).count(b"200 OK") == 6


async def test_large_bodies_and_many_requests_on_one_connection_are_served() -> None:
    post = b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 500000\r\n\r\n" + b"b" * 500_000
    last = b"GET / HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n"
    async with door(_ok, BoundedHttp) as port:
        assert (await until_closed(port, post, post, GET + b"\r\n", last)).count(b"200 OK") == 4


def test_one_address_may_not_take_all_places_but_a_proxy_may() -> None:
    for address, neighbour in (("192.0.2.7", "192.0.2.7"), ("2001:db8::1", "2001:db8::2")):
        assert not is_crowded(address, [neighbour] * MOST_PER_ADDRESS)
        assert is_crowded(address, [neighbour] * (MOST_PER_ADDRESS + 1))
    assert not is_crowded("192.0.2.7", ["192.0.2.8"] * 500)
    assert not is_crowded("127.0.0.1", ["127.0.0.1"] * 500)


class _Few(BoundedHttp):
    most_connections = 4


async def sockets(port: int, count: int, first: bytes = b"") -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    found = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        await writer.drain()
        found.append((reader, writer))
    return found


@pytest.mark.parametrize(
    "start", [b"", GET, GET + b"\r\n", b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 9\r\n\r\n123"]
)
async def test_who_lets_the_server_wait_longest_makes_room_for_others(start: bytes) -> None:
    """Silent, in the middle of a head, idle after an answer, in the middle of a body."""

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass
        await _ok(scope, receive, send)

    async with door(reading, _Few) as port:
        silent = await sockets(port, 12, start)
        last = b"GET / HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n"
        assert (await until_closed(port, last)).endswith(b"ok")
        for reader, _ in silent[:8]:  # those that came first have gone
            async with asyncio.timeout(5):
                with suppress(ConnectionError):
                    await reader.read()
        for _, writer in silent:
            writer.close()


async def test_a_request_that_is_being_served_keeps_its_place() -> None:
    go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await _ok(scope, receive, send)

    async with door(slow, _Few) as port:
        ((reader, writer),) = await sockets(port, 1, GET + b"\r\n")
        await asyncio.sleep(0)
        others = await sockets(port, 12)
        go_on.set()
        async with asyncio.timeout(5):
            assert b"200 OK" in await reader.readuntil(b"ok")
        for _, each in [*others, (reader, writer)]:
            each.close()


class _Slow(BoundedHttp):
    request_s = 0.4
    slow_buffer_bytes = 4096
    """The kernel makes it a little more."""


_FILE_BYTES = 1 << 20


async def _file(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", str(_FILE_BYTES).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for at in range(0, _FILE_BYTES, 65_536):
        await send({"type": "http.response.body", "body": bytes(65_536), "more_body": at + 65_536 < _FILE_BYTES})


async def _read_slowly(port: int, path: str) -> int:
    """How much arrives at a client that takes more than a second for it, with buffers of a small device."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nHost: box\r\n\r\n".encode())
        got = 0
        with suppress(ConnectionError):
            async with asyncio.timeout(20):
                while got < _FILE_BYTES and (data := await loop.sock_recv(client, 8192)):
                    got += len(data)
                    await asyncio.sleep(0.01)
    return got


async def test_a_long_answer_takes_as_long_as_its_client_goes_on_reading() -> None:
    async with door(_file, _Slow) as port:
        begun = asyncio.get_running_loop().time()
        assert await _read_slowly(port, "/firmware/abc") >= _FILE_BYTES
        assert asyncio.get_running_loop().time() - begun > 2 * _Slow.request_s


class _FewSlow(_Slow):
    most_connections = 4


async def test_a_slow_client_of_a_long_answer_does_not_make_room_for_silent_ones_as_long_as_it_reads() -> None:
    async with door(_file, _FewSlow) as port:
        reading = asyncio.create_task(_read_slowly(port, "/firmware/abc"), name="device")
        others = []
        for _ in range(6):
            await asyncio.sleep(0.15)
            others += await sockets(port, 1)
        assert await reading >= _FILE_BYTES
        for _, writer in others:
            writer.close()


async def test_a_client_that_takes_nothing_of_a_long_answer_is_cut_off() -> None:
    async with door(_file, _Slow) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(b"GET /firmware/abc HTTP/1.1\r\nHost: box\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(1.5 * _Slow.request_s)
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        got = 0
        async with asyncio.timeout(5):
            with suppress(ConnectionError):
                while data := await reader.read(65_536):
                    got += len(data)
        assert got < _FILE_BYTES
        writer.close()
