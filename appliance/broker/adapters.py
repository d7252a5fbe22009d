"""amqtt's side of an attached client: a session inside amqtt that has no socket.

amqtt reads and writes through two adapters, its public seam for external listeners. It gets a CONNECT of ours, then
SUBSCRIBE, UNSUBSCRIBE and at the end DISCONNECT. **Never end of file**: if that comes before amqtt's handler has
started, a task and its session hang for ever.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.mqtt.connect import ConnectPacket, ConnectPayload, ConnectVariableHeader
from amqtt.mqtt.disconnect import DisconnectPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

from appliance.broker import frames

log = logging.getLogger(__name__)

EXTERNAL_LISTENER = "default"
"""The name of the only listener in amqtt's configuration; it is of the type ``external``."""
ANSWER_WITHIN_S = 30.0
"""How long amqtt may take for SUBACK or UNSUBACK; it needs a few turns of the event loop."""
END_WITHIN_S = 10.0
_CLEAN_SESSION = 0x02
_PACKET_ID = 1
"""One request at a time is open, so that its answer is known without looking."""

OnEnd = Callable[[], None]
OnPublish = Callable[[str, bytes], None]
OnAnswer = Callable[[bytes], None]
"""Gets the return codes of a SUBACK, or nothing of an UNSUBACK."""


class Attachment:
    """One session inside amqtt, from its creation until :meth:`detach`. All of it runs on the event loop.

    ``client_id`` must be unique for ever: what amqtt still knows of an earlier session is then never met again.
    ``on_publish`` gets topic and payload of every PUBLISH, ``on_end`` is called if amqtt ends the session by itself or
    does not answer. Neither may raise.
    """

    def __init__(self, *, amqtt: Broker, client_id: str, address: str, on_publish: OnPublish, on_end: OnEnd) -> None:
        self._amqtt = amqtt
        self._client_id = client_id
        self._on_publish = on_publish
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._reader = _Reader()
        self._answered: OnAnswer | None = None
        self._unsubscribing: Sequence[str] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._detached = False
        # no will, no keep-alive: the listener has both; clean: what outlives a connection is kept by us, bounded
        connect = ConnectPacket(None, ConnectVariableHeader(_CLEAN_SESSION, 0), ConnectPayload(client_id))
        self._reader.feed(connect.to_bytes())
        self._task = self._loop.create_task(
            amqtt.external_connected(self._reader, _Writer(self._written, address), EXTERNAL_LISTENER),
            name=f"amqtt session {client_id}",
        )
        self._task.add_done_callback(self._done)

    @property
    def busy(self) -> bool:
        """Whether amqtt has not answered the last request yet."""
        return self._answered is not None

    def subscribe(self, filters: Sequence[str], answered: OnAnswer) -> None:
        """Ask for these filters; ``answered`` gets a return code for each. Not while :attr:`busy`."""
        # QoS 0 whatever the client wanted: its session in the listener sees to that
        packet = SubscribePacket.build([(each, 0) for each in filters], _PACKET_ID)
        self._ask(packet.to_bytes(), answered)

    def unsubscribe(self, filters: Sequence[str], answered: OnAnswer) -> None:
        """Give up these filters. Not while :attr:`busy`."""
        self._unsubscribing = filters
        self._ask(UnsubscribePacket.build(list(filters), _PACKET_ID).to_bytes(), answered)

    def detach(self) -> None:
        """End the session; nothing is called back any more. :meth:`ended` waits for it."""
        if not self._detached:
            self._detached = True
            self._answered = None
            self._reader.feed(DisconnectPacket().to_bytes())
            self._set_timer(END_WITHIN_S, self._give_up)

    async def ended(self) -> None:
        """Wait until amqtt has let go of it, which :meth:`detach` bounds."""
        await asyncio.wait([self._task])

    def add_done_callback(self, call: Callable[[Attachment], None]) -> None:
        """Call when amqtt has let go of it."""
        self._task.add_done_callback(lambda task: call(self))

    # --- from amqtt ------------------------------------------------------------------------------------------

    def _written(self, data: bytes) -> None:
        if self._detached:
            return
        for header, start, end in frames.split(data):
            kind = header & 0xF0
            if kind == frames.PUBLISH:
                name_start = start + 2
                name_end = name_start + (data[start] << 8 | data[start + 1])
                body = name_end + 2 if header & 0x06 else name_end
                self._on_publish(data[name_start:name_end].decode(), data[body:end])
            elif kind == frames.SUBACK:
                self._answer(data[start + 2 : end])
            elif kind == frames.UNSUBACK:
                self._forget_empty()
                self._answer(b"")

    def _forget_empty(self) -> None:
        """amqtt keeps the name of every filter that anybody ever held; it walks them all for each message."""
        subscriptions = self._amqtt.subscriptions
        for each in self._unsubscribing:
            if each in subscriptions and not subscriptions[each]:
                del subscriptions[each]

    # --- requests --------------------------------------------------------------------------------------------

    def _ask(self, packet: bytes, answered: OnAnswer) -> None:
        self._answered = answered
        self._set_timer(ANSWER_WITHIN_S, self._unanswered)
        self._reader.feed(packet)

    def _answer(self, codes: bytes) -> None:
        # not inside amqtt's own step: the answer may lead to the next request
        self._loop.call_soon(self._take_answer, codes)

    def _take_answer(self, codes: bytes) -> None:
        answered, self._answered = self._answered, None
        if answered is not None and self._timer is not None:
            self._timer.cancel()
            answered(codes)

    def _unanswered(self) -> None:
        log.error("amqtt did not answer %s for %d s", self._client_id, ANSWER_WITHIN_S)
        self._on_end()

    # --- its end ---------------------------------------------------------------------------------------------

    def _set_timer(self, delay_s: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, call)

    def _give_up(self) -> None:
        log.error("amqtt did not end its session %s within %d s", self._client_id, END_WITHIN_S)
        self._task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("amqtt's session %s failed", self._client_id, exc_info=error)
        if not self._detached:
            self._detached = True
            self._on_end()


class _Reader(ReaderAdapter):  # type: ignore[misc]  # amqtt ships no types
    """What amqtt reads; it never ends."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._arrived = asyncio.Event()

    def feed(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    async def read(self, n: int = -1) -> bytes:
        while len(self._buffer) < max(n, 1):
            self._arrived.clear()
            await self._arrived.wait()
        size = len(self._buffer) if n < 0 else n
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def feed_eof(self) -> None:
        """amqtt's way to end a session; ours is DISCONNECT."""


class _Writer(WriterAdapter):  # type: ignore[misc]
    """What amqtt writes to, one whole packet at a time. Nothing here suspends, so amqtt's order is kept."""

    def __init__(self, written: Callable[[bytes], None], address: str) -> None:
        self._write = written
        self._address = address

    def write(self, data: bytes) -> None:
        self._write(data)

    async def drain(self) -> None:
        """Who does not read is the listener's care."""

    def get_peer_info(self) -> tuple[str, int]:
        return self._address, 0

    def get_ssl_info(self) -> ssl.SSLObject | None:
        return None

    async def close(self) -> None:
        """There is no socket."""
