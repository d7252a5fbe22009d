"""One client's socket: cuts the stream into packets, and hands CONNECT to the listener and the rest to the session."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from appliance.broker.frames import CONNECT, ProtocolError, Will
from appliance.contract.presence import OfflineCode

if TYPE_CHECKING:
    from appliance.broker.listener import Listener
    from appliance.broker.session import Session

CONNECT_BYTES = 16 * 1024
"""Largest CONNECT: what a client may make us keep before we know it."""
CROWDED_CONNECT_BYTES = 1024
"""The same of a CONNECT that comes in pieces while very many clients have not logged in."""
SLOW_READER_S = 10.0
"""How long a client may leave unread what it is sent."""
HEADER_BYTES = 5 + 2 + 65535 + 2
"""What a PUBLISH may add to its payload at most."""


class Connection(asyncio.Protocol):
    """A socket, before and after its login. All of it runs on the event loop."""

    __slots__ = (
        "_limit",
        "_listener",
        "_need",
        "_tail",
        "_transport",
        "address",
        "born_at",
        "closed",
        "ended_by",
        "keep_alive_s",
        "last_received_at",
        "lifetime_s",
        "reading_paused",
        "session",
        "will",
        "writing_paused",
        "writing_paused_at",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport
        self._tail = bytearray()
        self._need = 0
        self._limit = CONNECT_BYTES
        self.address = ""
        self.born_at = 0.0
        self.closed = False
        self.ended_by = OfflineCode.ENDED
        """Why it ended, once it has."""
        self.keep_alive_s = 0.0
        """Seconds of silence after which the connection ends; 0: never."""
        self.last_received_at = 0.0
        self.lifetime_s = 0.0
        """Seconds after which it ends in any case; 0: never."""
        self.reading_paused = False
        self.session: Session | None = None
        self.will: Will | None = None
        self.writing_paused = False
        self.writing_paused_at = 0.0

    # --- asyncio.Protocol ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected; nothing is known of it."""
        self._transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else "?"
        self.born_at = self.last_received_at = self._listener.time()
        self._transport.set_write_buffer_limits(high=self._listener.limits.send_buffer_bytes)
        self._listener.opened(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of any number of packets."""
        if self.closed:
            return  # with TLS what was under way may still come
        self.last_received_at = self._listener.time()
        if self._tail:
            self._tail += data
            if len(self._tail) < self._need:
                return
            data = bytes(self._tail)
            self._tail = bytearray()
        try:
            self._packets(data)
        except ProtocolError as error:
            if error.reply:
                self.write(error.reply)
            self.close(f"protocol error: {error}", OfflineCode.PROTOCOL_ERROR)
        except Exception:
            self._listener.failed(self)

    def _packets(self, data: bytes) -> None:
        position, size, need = 0, len(data), 0
        if self.session is None and data[0] != CONNECT:
            raise ProtocolError("the first packet is not CONNECT")
        while size - position >= 2:
            length = data[position + 1]
            start = position + 2
            if length > 127:
                decoded = _length(data, position + 1, size)
                if decoded is None:
                    break
                length, start = decoded
            end = start + length
            if length > self._limit:
                raise ProtocolError(f"a packet of {length} bytes is too large")
            if end > size:
                need = end - position
                break
            session = self.session
            if session is not None:
                session.frame(data[position], data, start, end)
            else:
                self._listener.connect(self, data, start, end)
            if self.closed:
                return
            position = end
        if position < size:
            if self.session is None and size - position > CROWDED_CONNECT_BYTES and self._listener.crowded:
                raise ProtocolError("a CONNECT in pieces while too many have not logged in")
            self._tail = bytearray(data[position:])
            self._need = need or size - position + 1

    def eof_received(self) -> None:
        """The client closed its side; without DISCONNECT that is a lost connection."""
        self.close("the connection was lost", OfflineCode.CONNECTION_LOST)

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        if not self.closed:
            self._end("the connection was lost", OfflineCode.CONNECTION_LOST, graceful=False)
        self._listener.gone(self)

    def pause_writing(self) -> None:
        """The client does not read; its sweep decides for how long that is borne."""
        self.writing_paused = True
        self.writing_paused_at = self._listener.time()
        self.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.writing_paused = False
        if self.session is not None:
            self.session.writable()
        else:
            self.resume_reading()

    # --- for sessions and the listener -----------------------------------------------------------------------

    def logged_in(
        self, session: Session, *, keep_alive_s: float = 0.0, will: Will | None = None, lifetime_s: float = 0.0
    ) -> None:
        """From here on ``session`` gets the packets; they may not be larger than CONNECT until :meth:`allow`."""
        self.session = session
        self.keep_alive_s = keep_alive_s
        self.will = will
        self.lifetime_s = lifetime_s

    def allow(self, payload_bytes: int) -> None:
        """From here on payloads of this size may come."""
        self._limit = payload_bytes + HEADER_BYTES

    def write(self, data: bytes) -> None:
        """Send; nothing happens once the connection has ended."""
        if not self.closed:
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Let TCP push back."""
        if not self.reading_paused and not self.closed:
            self.reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on. The time not read does not count as silence."""
        if self.reading_paused and not self.writing_paused and not self.closed:
            self.reading_paused = False
            self.last_received_at = self._listener.time()
            self._transport.resume_reading()

    def close(self, reason: str, code: OfflineCode = OfflineCode.ENDED, *, graceful: bool = False) -> None:
        """End the connection after what was written; who does not read is cut off by the sweep."""
        if not self.closed:
            self._end(reason, code, graceful=graceful)
            self._transport.close()

    def stop(self) -> None:
        """End the connection because the appliance stops, which is no reason for a will."""
        self.will = None
        self.close("the appliance was stopped", OfflineCode.APPLIANCE_STOPPED)

    def abort(self, reason: str, code: OfflineCode = OfflineCode.ENDED) -> None:
        """End the connection at once."""
        if not self.closed:
            self._end(reason, code, graceful=False)
            self._transport.abort()

    def cut(self) -> None:
        """Cut off a closed connection that cannot get rid of its last bytes."""
        # asyncio 3.11.2 has no TLS left to end once its transport is closing; uvloop has
        with suppress(AttributeError):
            self._transport.abort()

    def end_if_due(self, now: float) -> None:
        """End a logged-in connection that has been silent or has not read for too long, or has had its time."""
        if self.writing_paused and now - self.writing_paused_at > SLOW_READER_S:
            self.abort("it does not read what it is sent", OfflineCode.TOO_SLOW)
        elif self.reading_paused:
            return  # who is not read cannot be heard
        elif self.keep_alive_s and now - self.last_received_at > self.keep_alive_s:
            self.abort("keep-alive timed out", OfflineCode.KEEP_ALIVE)
        elif self.lifetime_s and now - self.born_at > self.lifetime_s:
            self.close("an unpaired connection ends after a minute")

    def _end(self, reason: str, code: OfflineCode, *, graceful: bool) -> None:
        self.closed = True
        self.ended_by = code
        will, self.will = self.will, None
        session, self.session = self.session, None
        self._tail = bytearray()
        try:
            self._listener.closed(self, session, None if graceful else will, reason)
        finally:
            if session is not None:
                session.lost(reason, graceful=graceful)


def _length(data: bytes, position: int, size: int) -> tuple[int, int] | None:
    """The remaining length and where the body starts (§2.2.3); ``None`` if its bytes have not all come."""
    length, shift = 0, 0
    for index in range(position, min(position + 4, size)):
        length |= (data[index] & 0x7F) << shift
        if not data[index] & 0x80:
            return length, index + 1
        shift += 7
    if size - position >= 4:
        raise ProtocolError("a malformed remaining length")
    return None
