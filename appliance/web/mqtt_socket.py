"""MQTT over WebSocket (MQTT 3.1.1 §6): the frames become a stream of bytes, as a TCP connection carries it.

Frames and packets need not align (MQTT-6.0.0-2). Who is let in is not decided here: whoever connects gets what a TCP
client gets, and needs the same login. There is no check of ``Origin``: a web page of anybody may connect, but no
browser adds a login by itself, as it would a cookie, so the page has to know one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from appliance.contract.presence import OfflineCode
from appliance.contract.problems import Problem
from appliance.web.problems import problem_response

PATH = "/mqtt"
SUBPROTOCOL = "mqtt"
FRAME_BYTES = 64 * 1024
"""What waits is joined to frames of about this size; only a single larger write makes a larger one."""

NORMAL, GOING_AWAY, NOT_BINARY = 1000, 1001, 1003
_REASONS = {
    1002: ("protocol error: malformed WebSocket frames", OfflineCode.PROTOCOL_ERROR),
    1007: ("protocol error: malformed WebSocket frames", OfflineCode.PROTOCOL_ERROR),
    1009: ("protocol error: a WebSocket message is too large", OfflineCode.PROTOCOL_ERROR),
    1011: ("keep-alive timed out", OfflineCode.KEEP_ALIVE),
}
"""Why the server itself ended a WebSocket, by the status code (RFC 6455 §7.4.1)."""


class StreamConnection(Protocol):
    """What is at the appliance's end of a socket: an asyncio protocol that can be told to end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""

    def eof_received(self) -> None:
        """The client is gone."""

    def connection_lost(self, error: Exception | None) -> None:
        """The transport is closed; nothing comes after it."""

    def pause_writing(self) -> None:
        """What was written waits for the client."""

    def resume_writing(self) -> None:
        """The client has read what it was sent."""

    def close(self, reason: str, code: OfflineCode) -> None:
        """End, and say why to those who ask."""

    def stop(self) -> None:
        """The appliance stops."""


class MqttSockets:
    """The WebSockets that are open. ``open_connection`` makes the other end of a new one."""

    def __init__(self, *, open_connection: Callable[[], StreamConnection]) -> None:
        self._open_connection = open_connection
        self._open: set[_Socket] = set()
        self._stopped = False

    async def endpoint(self, websocket: WebSocket) -> None:
        """Serve one client until it or its connection ends. The handshake is refused with 400 without the
        sub-protocol ``mqtt`` (MQTT-6.0.0-3), and with 503 after :meth:`stop`."""
        if self._stopped:
            problem = Problem(503, "pending", "the appliance stops", retry_after_s=1)
        elif SUBPROTOCOL not in websocket.scope["subprotocols"]:
            problem = Problem(400, "bad_request", f'offer the WebSocket sub-protocol "{SUBPROTOCOL}"')
        else:
            await websocket.accept(subprotocol=SUBPROTOCOL)
            socket = _Socket(websocket, self._open_connection())
            self._open.add(socket)
            try:
                await socket.run()
            finally:
                self._open.discard(socket)
            return
        await websocket.send_denial_response(problem_response(problem))

    async def no_socket(self, _: Request) -> Response:
        """The answer to a plain request."""
        problem = Problem(426, "bad_request", "this is for MQTT over WebSocket, not for plain requests")
        return problem_response(problem, {"Upgrade": "websocket", "Connection": "Upgrade"})

    def stop(self) -> None:
        """Close every socket after what was written, and let nobody in any more."""
        self._stopped = True
        for socket in list(self._open):
            socket.stop()


class _Socket(asyncio.Transport):
    """One WebSocket, as a transport for its connection."""

    def __init__(self, websocket: WebSocket, connection: StreamConnection) -> None:
        client = websocket.client
        super().__init__({"peername": (client.host, client.port) if client else None})
        self._name = f"WebSocket of {client.host}:{client.port}" if client else "WebSocket"
        self._websocket = websocket
        self._connection = connection
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._high = FRAME_BYTES
        self._low = FRAME_BYTES // 4
        self._writing_paused = False
        self._code = NORMAL
        self._closing = False
        self._aborted = asyncio.Event()
        self._work = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()

    async def run(self) -> None:
        """Carry bytes both ways until either end has had enough."""
        tasks = [
            asyncio.create_task(self._receive(), name=f"{self._name}, receiving"),
            asyncio.create_task(self._send(), name=f"{self._name}, sending"),
            asyncio.create_task(self._aborted.wait(), name=f"{self._name}, until aborted"),
        ]
        try:
            self._connection.connection_made(self)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._closing = True
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            self._connection.connection_lost(None)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def stop(self) -> None:
        """See :meth:`MqttSockets.stop`."""
        self._code = GOING_AWAY
        self._connection.stop()

    async def _receive(self) -> None:
        while True:
            await self._reading.wait()
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                reason = _REASONS.get(message.get("code", 0))
                if reason is None:
                    self._connection.eof_received()
                else:
                    self._connection.close(*reason)
                return
            data = message.get("bytes")
            if data is None:
                self._code = NOT_BINARY
                text = "protocol error: a WebSocket frame that is not binary"  # MQTT-6.0.0-1
                self._connection.close(text, OfflineCode.PROTOCOL_ERROR)
            elif data:
                self._connection.data_received(data)

    async def _send(self) -> None:
        try:
            while True:
                while self._buffer:
                    data = self._next_frame()
                    await self._websocket.send_bytes(data)
                    self._sent(len(data))
                if self._closing:
                    await self._websocket.close(self._code)
                    return
                self._work.clear()
                await self._work.wait()
        except WebSocketDisconnect:
            self._connection.eof_received()

    def _next_frame(self) -> bytes:
        first = self._buffer.popleft()
        size = len(first)
        pieces = [first]
        while self._buffer and size + len(self._buffer[0]) <= FRAME_BYTES:
            size += len(self._buffer[0])
            pieces.append(self._buffer.popleft())
        return b"".join(pieces)

    def _sent(self, size: int) -> None:
        self._buffered -= size
        if self._writing_paused and self._buffered <= self._low:
            self._writing_paused = False
            self._connection.resume_writing()

    # --- asyncio.Transport -----------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send as soon as the client takes it; beyond the buffer's limit the connection is told to pause."""
        if self._closing:
            return
        self._buffer.append(bytes(data))
        self._buffered += len(data)
        self._work.set()
        if self._buffered > self._high and not self._writing_paused:
            self._writing_paused = True
            self._connection.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio; in bytes."""
        self._high = FRAME_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """Bytes that the server has not taken yet; what it has taken is bounded by its own limit."""
        return self._buffered

    def pause_reading(self) -> None:
        """Take no more from the server, which in turn lets TCP push back."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Take what comes again."""
        self._reading.set()

    def is_reading(self) -> bool:
        """Whether what comes is taken."""
        return self._reading.is_set()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be after what was written."""
        return self._closing

    def close(self) -> None:
        """Close after what was written."""
        self._closing = True
        self._work.set()

    def abort(self) -> None:
        """Close at once; the server drops a WebSocket whose endpoint has returned without closing it."""
        self._closing = True
        self._aborted.set()
