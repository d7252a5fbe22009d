"""The HTTP server's own bounds: what strangers may cost before any route hears of them.

uvicorn bounds neither how long a request's head may take nor how long it may be, so a few hundred silent sockets would
use up ``limit_concurrency`` for ever, and one endless header all memory. Where the places become few, whoever has let
the server wait longest has to go: silent sockets of many addresses keep nobody out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from appliance.services.limits import address_key

MOST_PER_ADDRESS = 128
"""Connections at a time; not on the loopback interface, where a proxy speaks for everybody."""


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the appliance stops as a whole."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the appliance."""
        yield


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with an end to everything that has none there."""

    idle_s = 15.0
    """How long a connection may take for the head of a request, or do nothing."""
    request_s = 90.0
    """How long a request may take, from its head to the last byte of its answer; longer than any route needs."""
    slow_paths: tuple[str, ...] = ("/firmware/",)
    """Of answers that may be long: there ``request_s`` is how long a client may go without taking any of it."""
    slow_buffer_bytes = 128 * 1024
    """What the kernel holds of such an answer: without a bound it is megabytes, and nobody sees a slow client read."""
    most_head_bytes = 32 * 1024
    """Of a request's head, or of anything else that is no body."""
    most_pipelined = 8
    """Requests of a connection that wait for the answer to another; uvicorn reads on, however many there are."""
    most_connections = 480
    """At a time; one more, and of those that wait for their client the oldest has to go. Below ``limit_concurrency``,
    from which on uvicorn answers 503 to everybody."""
    _unread = 0
    _since = 0.0
    _slow = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count, and begin to wait."""
        super().connection_made(transport)
        self._give(self.idle_s)
        address = self.client[0] if self.client else ""
        others = (each.client[0] for each in self.connections if isinstance(each, HttpToolsProtocol) and each.client)
        self._since = self.loop.time()
        if is_crowded(address, others):
            transport.abort()
        elif len(self.connections) > self.most_connections:
            self._make_room()

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing goes on here before the client sends or reads something."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused

    def _make_room(self) -> None:
        waiting = (
            each
            for each in self.connections
            if isinstance(each, BoundedHttp) and each is not self and each.waits_for_client
        )
        oldest = min((each for each in waiting if not each.transport.is_closing()), key=_waits_since, default=None)
        if oldest is not None:
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._give(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What is not read as a head or as a body in time is too much."""
        self._unread += len(data)
        super().data_received(data)
        if self._unread > self.most_head_bytes and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        """A head was read."""
        self._unread = 0
        if len(self.pipeline) >= self.most_pipelined:
            # the parser makes an error of its own of it, and stops at once
            raise ValueError("too many requests wait for an answer")
        super().on_headers_complete()
        self._since = self.loop.time()

    def on_body(self, body: bytes) -> None:
        """A piece of a body was read."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request was read."""
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request was answered; the next one may begin at once."""
        self._slow = False
        self._give(self.idle_s)
        self._since = self.loop.time()
        super().on_response_complete()

    def resume_writing(self) -> None:
        """The client has taken what was written."""
        super().resume_writing()
        self._since = self.loop.time()
        if self._slow and not self.transport.is_closing():
            self._give(self.request_s)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Callable[..., Any]) -> None:
        self._give(self.request_s)
        self._slow = cycle.scope["path"].startswith(self.slow_paths)
        if self._slow:
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, self.slow_buffer_bytes
            )
        super()._start_asgi_task(cycle, app)

    def _give(self, time_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if time_s is None else self.loop.call_later(time_s, self.transport.abort)


def _waits_since(connection: BoundedHttp) -> float:
    return connection._since


def is_crowded(address: str, connected: Iterable[str]) -> bool:
    """Whether one more connection of this address is too much; ``connected`` are the addresses of all, it included."""
    try:
        if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            return False
    except ValueError:
        return False
    key = address_key(address)
    return sum(each == address or address_key(each) == key for each in connected) > MOST_PER_ADDRESS
