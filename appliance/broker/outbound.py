"""What goes out to one attached client: its packet ids, its window, and a bounded queue behind the window."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.broker import frames

if TYPE_CHECKING:
    from appliance.broker.connection import Connection

MOST_IN_FLIGHT = 20
OVERHEAD_BYTES = 200
"""What a queued message costs beside its topic and payload."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message on its way to a client; ``qos`` is the lower of the publisher's and the subscription's."""

    topic: str
    payload: bytes
    qos: int
    retain: bool = False

    @property
    def size(self) -> int:
        """Bytes it takes in the queue."""
        return len(self.topic) + len(self.payload) + OVERHEAD_BYTES


@dataclass(slots=True)
class _Sent:
    """Not acknowledged. ``message`` is ``None`` once a QoS 2 message was received: then PUBREL is under way."""

    message: Message | None


class Outbound:
    """Sends messages in their order, and keeps what is not acknowledged until it is, over several connections.

    QoS 1 and 2 need a place in the window of 20. Behind it, and while the client does not read, ``most_messages`` and
    ``most_bytes`` wait; beyond that the oldest goes, whatever its QoS, and is counted: who looks on wants the newest
    readings. While the client is away only QoS 1 and 2 are kept (§4.1). ``also_taken`` are packet ids that are on their
    way over the same connection and not from here.
    """

    def __init__(self, *, most_messages: int, most_bytes: int, also_taken: Container[int] = ()) -> None:
        self.dropped = 0
        """Messages that had to make room."""
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._also_taken = also_taken
        self._connection: Connection | None = None
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        self._in_flight: OrderedDict[int, _Sent] = OrderedDict()
        self._next_packet_id = 1

    def __len__(self) -> int:
        """Messages that wait behind the window."""
        return len(self._queue)

    def __contains__(self, packet_id: int) -> bool:
        """Whether this packet id is on its way."""
        return packet_id in self._in_flight

    # --- connections -----------------------------------------------------------------------------------------

    def resume(self, connection: Connection) -> None:
        """Go on over this connection: first what was not acknowledged, in its order and with DUP (§4.4)."""
        self._connection = connection
        for packet_id, sent in self._in_flight.items():
            if sent.message is None:
                connection.write(_with_id(frames.PUBREL_HEAD, packet_id))
            else:
                connection.write(_publish(sent.message, packet_id, dup=True))
        self.flush()

    def disconnected(self) -> None:
        """The client has gone; what it may get on its return stays."""
        self._connection = None
        self._queue = deque(message for message in self._queue if message.qos)
        self._queued_bytes = sum(message.size for message in self._queue)

    # --- messages --------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send it, or queue it behind others."""
        if not self._queue and self._may_write(message):
            self._write(message)
        elif self._connection is not None or message.qos:
            self._queue.append(message)
            self._queued_bytes += message.size
            while len(self._queue) > self._most_messages or self._queued_bytes > self._most_bytes:
                self._queued_bytes -= self._queue.popleft().size
                self.dropped += 1

    def flush(self) -> None:
        """Send what waits, as far as the window and the client's reading allow."""
        while self._queue and self._may_write(self._queue[0]):
            message = self._queue.popleft()
            self._queued_bytes -= message.size
            self._write(message)

    def keep(self, wanted: Callable[[Message], bool]) -> None:
        """Drop what is not wanted any more, also where it was written and not acknowledged; not counted."""
        self._queue = deque(message for message in self._queue if wanted(message))
        self._queued_bytes = sum(message.size for message in self._queue)
        for packet_id, sent in list(self._in_flight.items()):
            if sent.message is not None and not wanted(sent.message):
                del self._in_flight[packet_id]
        self.flush()

    def acknowledged(self, packet_id: int) -> None:
        """PUBACK came."""
        sent = self._in_flight.get(packet_id)
        if sent is not None and sent.message is not None and sent.message.qos == 1:
            del self._in_flight[packet_id]
            self.flush()

    def received(self, packet_id: int) -> None:
        """PUBREC came. Answered even if nothing is known of it, or the client would wait for ever."""
        sent = self._in_flight.get(packet_id)
        if sent is not None and sent.message is not None and sent.message.qos == 2:
            sent.message = None
        if self._connection is not None:
            self._connection.write(_with_id(frames.PUBREL_HEAD, packet_id))

    def completed(self, packet_id: int) -> None:
        """PUBCOMP came."""
        sent = self._in_flight.get(packet_id)
        if sent is not None and sent.message is None:
            del self._in_flight[packet_id]
            self.flush()

    def _may_write(self, message: Message) -> bool:
        return (
            self._connection is not None
            and not self._connection.writing_paused
            and (not message.qos or len(self._in_flight) < MOST_IN_FLIGHT)
        )

    def _write(self, message: Message) -> None:
        packet_id = 0
        if message.qos:
            packet_id = self._free_packet_id()
            self._in_flight[packet_id] = _Sent(message)
        if self._connection is not None:
            self._connection.write(_publish(message, packet_id))

    def _free_packet_id(self) -> int:
        packet_id = self._next_packet_id
        while packet_id in self._in_flight or packet_id in self._also_taken:
            packet_id = packet_id % 0xFFFF + 1
        self._next_packet_id = packet_id % 0xFFFF + 1
        return packet_id


def _publish(message: Message, packet_id: int, *, dup: bool = False) -> bytes:
    return frames.publish(
        message.topic, message.payload, qos=message.qos, packet_id=packet_id, dup=dup, retain=message.retain
    )


def _with_id(head: bytes, packet_id: int) -> bytes:
    return head + packet_id.to_bytes(2, "big")
