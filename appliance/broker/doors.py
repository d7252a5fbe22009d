"""The listening sockets, plain and with TLS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from appliance.broker.seams import Endpoint
from appliance.broker.tls_door import TlsDoor

BACKLOG = 4096


class Doors:
    """Each socket that is accepted becomes a protocol of ``factory``."""

    def __init__(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self._factory = factory
        self._servers: list[asyncio.Server] = []
        self._with_tls: list[TlsDoor] = []

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
        else:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(self._factory, endpoint.host, endpoint.port, backlog=BACKLOG)
            self._servers.append(server)
            listening = server.sockets[0]
        # inherited by what is accepted: a client without keep-alive that was unplugged is found out too
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return int(listening.getsockname()[1])

    def sweep(self) -> None:
        """Once a second: end handshakes that take too long."""
        for door in self._with_tls:
            door.sweep()

    async def close(self) -> None:
        """Accept nobody any more."""
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
