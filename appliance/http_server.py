"""The HTTP server as the appliance runs it: uvicorn with bounds on what a stranger can make it hold."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from appliance.broker.connection import HEADER_BYTES
from appliance.certificates import Certificates
from appliance.settings import Settings
from appliance.socket_door import BoundedSocket, SocketServer, UpgradingHttp

STOP_HTTP_WITHIN_S = 1
"""Longer than any request of the API takes; an idle client that keeps its connection waits for nothing."""
HTTP_CONNECTIONS = 512
"""At a time, WebSockets not counted; one more is answered 503."""
WEBSOCKET_PING_S = 30.0
"""How often a WebSocket is tried, and how long its answer may take. MQTT's own keep-alive may be off."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket for it. ``OSError`` if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=512)


def http_server(web: ASGIApp, *, settings: Settings, tls: Certificates | None) -> SocketServer:
    """A server for ``web``, not started yet; HTTPS with ``tls``."""
    return SocketServer(
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
