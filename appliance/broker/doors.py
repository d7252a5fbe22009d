"""The listening sockets, plain and with TLS."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

from appliance.broker.seams import Endpoint
from appliance.broker.tls_door import TlsDoor

BACKLOG = 4096

_QUEUE_AT = 24
"""Where Linux's ``tcp_info`` of a listening socket holds how many connections nobody has accepted yet."""


class _Watched:
    """A listening socket, as the kernel sees it."""

    def __init__(self, listening: socket.socket, accepted: Callable[[], int]) -> None:
        self._listening = listening
        self._accepted = accepted
        self._accepted_before = -1
        """As of the last look, if somebody waited then."""

    def stuck(self) -> str | None:
        info = self._listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUE_AT + 4)
        (waiting,) = struct.unpack_from("I", info, _QUEUE_AT)
        accepted, before = self._accepted(), self._accepted_before
        self._accepted_before = accepted if waiting else -1
        if not waiting or accepted != before:
            return None
        return f"nobody is accepted on port {self._listening.getsockname()[1]}, and {waiting} wait"


class Doors:
    """Each socket that is accepted becomes a protocol of ``factory``."""

    def __init__(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self._factory = factory
        self._servers: list[asyncio.Server] = []
        self._with_tls: list[TlsDoor] = []
        self._watched: list[_Watched] = []

    async def open(self, endpoint: Endpoint) -> int:
        """Listen there; returns the port. ``OSError`` if it cannot be had."""
        if endpoint.tls is not None:
            door = TlsDoor(
                host=endpoint.host,
                port=endpoint.port,
                context=endpoint.tls,
                factory=self._factory,
                backlog=BACKLOG,
            )
            self._with_tls.append(door)
            listening = door.socket
            self._watched.append(_Watched(listening, lambda: door.accepted))
        else:
            loop = asyncio.get_running_loop()
            accepted = 0

            def factory() -> asyncio.Protocol:
                nonlocal accepted
                accepted += 1
                return self._factory()

            server = await loop.create_server(factory, endpoint.host, endpoint.port, backlog=BACKLOG)
            self._servers.append(server)
            listening = server.sockets[0]
            self._watched.append(_Watched(listening, lambda: accepted))
        # inherited by what is accepted: a client without keep-alive that was unplugged is found out too
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return int(listening.getsockname()[1])

    def shut(self) -> str | None:
        """Which door has let nobody in since the last time this was asked, although somebody stood before it both
        times."""
        found = [watched.stuck() for watched in self._watched]
        return next((port for port in found if port), None)

    def sweep(self) -> None:
        """Once a second: end handshakes that take too long."""
        for door in self._with_tls:
            door.sweep()

    async def close(self) -> None:
        """Accept nobody any more."""
        self._watched.clear()
        for server in self._servers:
            server.close()
        for door in self._with_tls:
            await door.close()
        self._with_tls.clear()

    async def wait_closed(self) -> None:
        """After :meth:`close`, once every connection has ended."""
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
