"""A scripted MQTT 3.1.1 server: it accepts everybody, tells what it got, and misbehaves when told to."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Received:
    """A packet from a client."""

    kind: str
    connection: Connection
    topic: str = ""
    payload: bytes = b""
    mid: int = 0
    qos: int = 0
    dup: bool = False
    filters: list[str] = field(default_factory=list)
    client_id: str = ""
    username: str | None = None
    password: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Connection:
    """One client's connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.client_id = ""
        self._mid = 0

    def send(self, first: int, body: bytes) -> None:
        length, encoded = len(body), bytearray()
        while True:
            length, digit = divmod(length, 128)
            encoded.append(digit | (128 if length else 0))
            if not length:
                break
        self.writer.write(bytes((first,)) + bytes(encoded) + body)

    def publish(self, topic: str, body: Any, *, mid: int | None = None) -> int:
        """QoS 1; ``body`` as JSON unless it is bytes. Returns the packet id."""
        self._mid += 1
        mid = mid or self._mid
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        name = topic.encode()
        self.send(0x32, struct.pack("!H", len(name)) + name + struct.pack("!H", mid) + payload)
        return mid

    def puback(self, mid: int) -> None:
        self.send(0x40, struct.pack("!H", mid))

    def suback(self, mid: int, codes: list[int]) -> None:
        self.send(0x90, struct.pack("!H", mid) + bytes(codes))

    def drop(self) -> None:
        self.writer.transport.abort()


class Peer:
    """``automatic`` names the packets that are answered at once; take one out to answer it in the test."""

    def __init__(self) -> None:
        self.port = 0
        self.automatic = {"connect", "subscribe", "publish"}
        self.connack = 0
        self.configure: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda request: None
        """Answers configuration requests of unpaired clients; ``None``: no answer."""
        self.connections: list[Connection] = []
        self.received: asyncio.Queue[Received] = asyncio.Queue()

    async def expect(self, kind: str, **wanted: Any) -> Received:
        """The next packet of this kind; others before it are skipped."""
        async with asyncio.timeout(10):
            while True:
                packet = await self.received.get()
                if packet.kind == kind and all(getattr(packet, name) == value for name, value in wanted.items()):
                    return packet

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer)
        self.connections.append(connection)
        try:
            while True:
                first, body = await _read_packet(reader)
                self._handle(connection, first, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections.remove(connection)
            writer.close()

    def _handle(self, connection: Connection, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == 1:
            packet = _connect(connection, body)
            connection.client_id = packet.client_id
            if "connect" in self.automatic:
                connection.send(0x20, bytes((0, self.connack)))
        elif kind == 8:
            packet = _subscribe(connection, body)
            if "subscribe" in self.automatic:
                connection.suback(packet.mid, [1] * len(packet.filters))
        elif kind == 3:
            packet = _publish(connection, first, body)
            if packet.topic == "iiot/config/request":
                connection.puback(packet.mid)
                answer = self.configure(packet.json)
                if answer is not None:
                    connection.publish(f"iiot/config/{packet.json['serial']}", answer)
            elif "publish" in self.automatic:
                connection.puback(packet.mid)
        elif kind == 4:
            packet = Received("puback", connection, mid=struct.unpack("!H", body)[0])
        elif kind == 12:
            connection.send(0xD0, b"")
            return
        elif kind == 14:
            packet = Received("disconnect", connection)
        else:
            raise AssertionError(f"packet type {kind}")
        self.received.put_nowait(packet)


@asynccontextmanager
async def peer(tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """A server on a free port of the loopback interface."""
    one = Peer()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, ssl=tls)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        for connection in list(one.connections):
            connection.drop()
        await server.wait_closed()
        while one.connections:
            await asyncio.sleep(0)


async def _read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first = (await reader.readexactly(1))[0]
    length, shift = 0, 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return first, await reader.readexactly(length)


def _text(body: bytes, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("!H", body, position)
    return body[position + 2 : position + 2 + length].decode(), position + 2 + length


def _connect(connection: Connection, body: bytes) -> Received:
    name, position = _text(body, 0)
    level, flags = body[position], body[position + 1]
    assert (name, level) == ("MQTT", 4)
    client_id, position = _text(body, position + 4)
    packet = Received("connect", connection, client_id=client_id)
    if flags & 0x80:
        packet.username, position = _text(body, position)
    if flags & 0x40:
        packet.password, position = _text(body, position)
    return packet


def _subscribe(connection: Connection, body: bytes) -> Received:
    packet = Received("subscribe", connection, mid=struct.unpack_from("!H", body)[0])
    position = 2
    while position < len(body):
        topic_filter, position = _text(body, position)
        packet.filters.append(topic_filter)
        position += 1
    return packet


def _publish(connection: Connection, first: int, body: bytes) -> Received:
    topic, position = _text(body, 0)
    qos = first >> 1 & 3
    mid = 0
    if qos:
        (mid,) = struct.unpack_from("!H", body, position)
        position += 2
    return Received("publish", connection, topic=topic, payload=body[position:], mid=mid, qos=qos, dup=bool(first & 8))
