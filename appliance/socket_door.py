"""The WebSocket server's own bounds: what strangers may cost before anybody hears of them, and when a peer that does
nothing is given up. uvicorn bounds the size of a message, but neither how many sockets there are, nor how long the last
bytes of one may take.

WebSockets live for months, HTTP requests for seconds: they are not counted together.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame
from websockets.protocol import State

from appliance.http_door import BoundedHttp, Server

MOST_UNANSWERED = 256
"""Sockets at a time to which nothing has been sent yet; one more, and the oldest has to go."""
MOST_UNANSWERED_BYTES = 64 * 1024
"""What such a socket may send without making up a message."""
MOST_FRAGMENTS = 1024
"""Of a message; fragments may be empty, so the limit of its size does not bound them."""
CLOSE_WITHIN_S = 10.0
"""How long the last bytes and the closing handshake may take."""
STOP_WITHIN_S = 0.5
"""The same when the server stops."""
STOPPED_WITHIN_S = 1.0


class SocketState(ServerState):
    """What all connections of a server share, WebSockets apart from HTTP."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: set[BoundedSocket] = set()
        self.socket_tasks: set[asyncio.Task[None]] = set()
        self.unanswered: dict[BoundedSocket, None] = {}
        """The oldest first."""


class SocketServer(Server):
    """A server whose WebSockets do not use up its ``limit_concurrency``, and end in time when it stops."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state: SocketState = SocketState()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open, WebSockets with status 1012."""
        state = self.server_state
        for each in list(state.sockets):
            each.shutdown()
        await super().shutdown(sockets)
        for each in list(state.sockets):
            # asyncio 3.11.2 has no TLS left to end once its transport is closing; uvloop has
            with suppress(AttributeError):
                each.transport.abort()
        if state.socket_tasks:
            await asyncio.wait(state.socket_tasks, timeout=STOPPED_WITHIN_S)


class UpgradingHttp(BoundedHttp):
    """HTTP whose clocks stop when it becomes a WebSocket."""

    def handle_websocket_upgrade(self) -> None:
        """The head of the handshake was read."""
        self._give(None)
        super().handle_websocket_upgrade()


class BoundedSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with an end to everything that has none there. For a server with a :class:`SocketState`."""

    _cut: asyncio.TimerHandle | None = None
    _lost = False
    _heard_at = 0.0
    _unanswered_bytes = 0

    def __init__(self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        if not isinstance(server_state, SocketState):
            raise TypeError("for a SocketServer")
        self._state = server_state
        self.connections = server_state.sockets  # type: ignore[assignment]  # a set of these alone
        self.tasks = server_state.socket_tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count; where too many have not been answered, the oldest of them has to go."""
        super().connection_made(transport)
        unanswered = self._state.unanswered
        unanswered[self] = None
        if len(unanswered) > MOST_UNANSWERED:
            oldest = next(iter(unanswered))
            del unanswered[oldest]
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._state.unanswered.pop(self, None)
        self._lost = True
        if self._cut is not None:
            self._cut.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A stranger may send a message, but not an endless one."""
        self._heard_at = self.loop.time()
        super().data_received(data)
        if not self.handshake_initiated:
            self.transport.abort()  # the head comes in one piece, and was none for a WebSocket
        elif self in self._state.unanswered:
            self._unanswered_bytes += len(data)
            # reading is paused while a message waits for the application: its answer may be on the way
            if self._unanswered_bytes > MOST_UNANSWERED_BYTES and not self.read_paused:
                self.transport.abort()

    async def receive(self) -> Any:
        """What the application takes was heard, however long ago it came."""
        message = await super().receive()
        self._heard_at = self.loop.time()
        return message

    async def send(self, message: Any) -> None:
        """Whoever is answered is no stranger any more."""
        try:
            await super().send(message)
        except RuntimeError:
            if not self.close_sent:
                raise
            raise ClientDisconnected from None  # the server has ended it meanwhile
        if message["type"] == "websocket.send":
            self._state.unanswered.pop(self, None)

    def handle_ping(self) -> None:
        """Answer, but not somebody who does not read the answers."""
        pongs = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(pongs)

    def handle_cont(self, event: Frame) -> None:
        """One more fragment of a message."""
        super().handle_cont(event)
        if len(self.frames) > MOST_FRAGMENTS and not self.close_sent:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """What came are no frames, or too large a message."""
        super().handle_parser_exception()
        self._close_within(CLOSE_WITHIN_S)

    def handle_close(self, event: Frame) -> None:
        """The client has closed its side."""
        super().handle_close(event)
        self._close_within(CLOSE_WITHIN_S)

    def keepalive_timeout(self) -> None:
        """No pong in time. A peer that is not read cannot be heard, and one that sends anything is alive."""
        if self.read_paused or self._heard_at > self.ping_sent_at:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": int(CloseCode.INTERNAL_ERROR)})
        super().keepalive_timeout()
        self._close_within(CLOSE_WITHIN_S)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The application has returned; without closing, it wants the client gone at once."""
        super().on_task_complete(task)
        if self.conn.state is State.OPEN:
            self.transport.abort()
        else:
            self._close_within(CLOSE_WITHIN_S)

    def shutdown(self) -> None:
        """The server stops."""
        if not self.transport.is_closing():
            super().shutdown()
        self._close_within(STOP_WITHIN_S)

    def _close_within(self, time_s: float) -> None:
        if self._cut is not None:
            self._cut.cancel()
        if self._lost:
            return  # a timer would only keep what has ended for a while: much, where thousands come and go
        self._cut = self.loop.call_later(time_s, self.transport.abort)
