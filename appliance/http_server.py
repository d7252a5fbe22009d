"""The HTTP server as the appliance runs it: uvicorn with bounds on what a stranger can make it hold."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

from appliance.broker.connection import HEADER_BYTES
from appliance.broker.tls_door import TlsDoor
from appliance.certificates import Certificates
from appliance.settings import Settings
from appliance.socket_door import BoundedSocket, SocketServer, UpgradingHttp

STOP_HTTP_WITHIN_S = 1
"""Longer than any request of the API takes; an idle client that keeps its connection waits for nothing."""
HTTP_CONNECTIONS = 512
"""At a time, WebSockets not counted; one more is answered 503."""
MOST_HANDSHAKES = 128
"""TLS handshakes at a time; further sockets wait as they are."""
MOST_WAITING = 1024
"""Such sockets; one more is closed."""
TICKS_PER_SECOND = 10
WEBSOCKET_PING_S = 30.0
"""How often a WebSocket is tried, and how long its answer may take. MQTT's own keep-alive may be off."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket for it. ``OSError`` if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=512)


class BehindTlsDoor(SocketServer):
    """A server whose TLS handshakes are bounded: uvicorn would let any number of strangers begin one."""

    _door: TlsDoor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; over TLS one at a time has its handshake behind it before it costs a place."""
        if not (self.config.is_ssl and sockets):
            await super().startup(sockets)
            return
        await self.lifespan.startup()
        (listening,) = sockets
        context = self.config.ssl
        if context is None:
            raise RuntimeError("there is no certificate")
        self._door = TlsDoor(
            host="",
            port=0,
            context=context,
            factory=self._protocol,
            backlog=self.config.backlog,
            most_handshakes=MOST_HANDSHAKES,
            most_waiting=MOST_WAITING,
            listening=listening,
        )
        self.servers = []
        self.started = True

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = UpgradingHttp(self.config, self.server_state, self.lifespan.state)
        return protocol

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._door is not None and counter % TICKS_PER_SECOND == 0:
            self._door.sweep()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody any more, then as without TLS."""
        if self._door is not None:
            await self._door.close()
        await super().shutdown(sockets)


def http_server(web: ASGIApp, *, settings: Settings, tls: Certificates | None) -> BehindTlsDoor:
    """A server for ``web``, not started yet; HTTPS with ``tls``."""
    return BehindTlsDoor(
        uvicorn.Config(
            web,
            http=UpgradingHttp,
            ssl_certfile=tls.cert_file if tls else None,
            ssl_keyfile=tls.key_file if tls else None,
            loop="none",
            lifespan="off",
            ws=BoundedSocket,
            # a message holds any packet that may come over TCP
            ws_max_size=settings.mqtt_max_payload_bytes + HEADER_BYTES,
            # readings are small: compressing them costs more memory and time than it saves
            ws_per_message_deflate=False,
            ws_ping_interval=WEBSOCKET_PING_S,
            ws_ping_timeout=WEBSOCKET_PING_S,
            access_log=False,
            log_config=None,
            # below that level there is a line for whatever a stranger sends that is not HTTP
            log_level="error",
            server_header=False,
            # addresses count in rate limits: only a proxy that is there on purpose may name another
            proxy_headers=tls is None,
            limit_concurrency=HTTP_CONNECTIONS,
            timeout_graceful_shutdown=STOP_HTTP_WITHIN_S,
        )
    )
