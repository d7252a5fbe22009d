"""One attached client: what it sends, what it holds, and what it gets."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from appliance.broker import frames
from appliance.broker.attached_state import MOST_FILTER_BYTES, MOST_FILTER_LEVELS, AttachedState, Untaken
from appliance.broker.exchanges import MOST_QOS2_OPEN
from appliance.broker.frames import ProtocolError, Will
from appliance.broker.session import Session
from appliance.contract.presence import OfflineCode

if TYPE_CHECKING:
    from appliance.broker.attached import AttachedClients
    from appliance.broker.connection import Connection


class AttachedSession(Session):
    """A viewer's connection."""

    def __init__(self, connection: Connection, clients: AttachedClients, state: AttachedState) -> None:
        super().__init__(connection)
        self.state = state
        self._clients = clients
        self._held_back: deque[tuple[int, bytes, int, int]] = deque()
        """Packets that have to wait. Reading stops with the first, so they come from one read of the socket."""
        self._untaken = Untaken()

    # --- from the client -------------------------------------------------------------------------------------

    def frame(self, header: int, data: bytes, start: int, end: int) -> None:
        """See :class:`Session`."""
        if self._blocked:
            self._held_back.append((header, data, start, end))
            self.connection.pause_reading()
        else:
            self._handle(header, data, start, end)

    @property
    def _blocked(self) -> bool:
        """Whether the next packet has to wait: amqtt owes an answer (PUBLISH or DISCONNECT would overtake SUBSCRIBE
        inside it), or too much of what this client published is still to be taken."""
        return self.state.attachment.busy or self._untaken.full

    def go_on(self) -> None:
        """What the next packet had to wait for may have come."""
        try:
            while self._held_back and not self._blocked and not self.connection.closed:
                self._handle(*self._held_back.popleft())
        except ProtocolError as error:
            self.connection.close(f"protocol error: {error}", OfflineCode.PROTOCOL_ERROR)
        if not self._held_back and not self._blocked:
            self.connection.resume_reading()

    def writable(self) -> None:
        """See :class:`Session`."""
        self.state.outbound.flush()
        self.go_on()

    def _handle(self, header: int, data: bytes, start: int, end: int) -> None:
        outbound = self.state.outbound
        if header & 0xF0 == frames.PUBLISH:
            self._publish(header, data, start, end)
            return
        kind = frames.check_flags(header, start, end)
        if kind == frames.PUBACK:
            outbound.acknowledged(frames.parse_packet_id(data, start, end))
        elif kind == frames.PUBREC:
            outbound.received(frames.parse_packet_id(data, start, end))
        elif kind == frames.PUBCOMP:
            outbound.completed(frames.parse_packet_id(data, start, end))
        elif kind == frames.PUBREL:
            packet_id = frames.parse_packet_id(data, start, end).to_bytes(2, "big")
            self.state.qos2_open.discard(packet_id)
            self.connection.write(frames.PUBCOMP_HEAD + packet_id)
        elif kind == frames.SUBSCRIBE:
            self._subscribe(*frames.parse_subscribe(data, start, end))
        elif kind == frames.UNSUBSCRIBE:
            self._unsubscribe(*frames.parse_unsubscribe(data, start, end))
        elif kind == frames.PINGREQ:
            self.connection.write(frames.PINGRESP_FRAME)
        elif kind == frames.DISCONNECT:
            self.connection.close("closed by the client", graceful=True)
        else:
            raise ProtocolError("a packet that a client must not send here")

    def _publish(self, header: int, data: bytes, start: int, end: int) -> None:
        topic, payload, ack = frames.parse_publish(header, data, start, end)
        if len(payload) > self._clients.limits.payload_bytes:
            raise ProtocolError(f"a payload of {len(payload)} bytes is too large")
        qos = header >> 1 & 3
        if self._clients.may_publish(self.state, topic) and not (qos == 2 and self._is_open(ack[2:])):
            if header & 1:
                self._clients.retained.put(topic, payload, qos)
            size = len(topic) + len(payload)
            self._untaken.add(size)
            self._clients.fan_out.publish(topic, payload, qos, partial(self._taken, size))
        if ack:
            self.connection.write(ack)

    def _is_open(self, packet_id: bytes) -> bool:
        """QoS 2: whether this PUBLISH repeats one that has not been released (§4.3.3)."""
        still_open = self.state.qos2_open
        if packet_id in still_open:
            return True
        if len(still_open) >= MOST_QOS2_OPEN:
            raise ProtocolError(f"more than {MOST_QOS2_OPEN} QoS 2 messages without PUBREL")
        still_open.add(packet_id)
        return False

    def _taken(self, size: int) -> None:
        if self._untaken.taken(size):
            self.go_on()

    # --- subscriptions ---------------------------------------------------------------------------------------

    def _subscribe(self, packet_id: int, filters: list[tuple[str, int]]) -> None:
        subscriptions, plugin = self.state.subscriptions, self._clients.plugin
        new: list[str] = []
        refused: set[str] = set()
        for topic_filter, _ in filters:
            if topic_filter in subscriptions or topic_filter in new:
                continue
            if self._is_too_much(topic_filter, len(new)) or not plugin.viewer_may_subscribe(topic_filter):
                refused.add(topic_filter)
            else:
                new.append(topic_filter)
        if new:
            self.state.attachment.subscribe(new, partial(self._subscribed, packet_id, filters, new, refused))
        else:
            # amqtt holds the others already, and a changed QoS is our affair alone
            self._suback(packet_id, filters, refused)

    def _is_too_much(self, topic_filter: str, more: int) -> bool:
        limits, watched = self._clients.limits, self._clients.plugin.watched
        if topic_filter.count("/") >= MOST_FILTER_LEVELS or len(topic_filter.encode()) > MOST_FILTER_BYTES:
            return True
        if len(self.state.subscriptions) + more >= limits.subscriptions:
            return True
        return len(watched) + more >= limits.filters and topic_filter not in watched

    def _subscribed(
        self, packet_id: int, filters: list[tuple[str, int]], new: Sequence[str], refused: set[str], answer: bytes
    ) -> None:
        codes = dict(zip(new, answer, strict=False))
        refused |= {each for each in new if codes.get(each, frames.REFUSED_FILTER) == frames.REFUSED_FILTER}
        self._suback(packet_id, filters, refused)
        self._answered()

    def _suback(self, packet_id: int, filters: list[tuple[str, int]], refused: set[str]) -> None:
        granted = {each: qos for each, qos in filters if each not in refused}
        self._clients.plugin.watch(each for each in granted if each not in self.state.subscriptions)
        self.state.subscribe(granted, self._clients.fan_out.number)
        self.connection.write(
            frames.suback(packet_id, [frames.REFUSED_FILTER if each in refused else qos for each, qos in filters])
        )
        self._send_retained(granted)

    def _send_retained(self, granted: dict[str, int]) -> None:
        for message in self._clients.retained.wanted(granted):
            self.state.outbound.send(message)

    def _unsubscribe(self, packet_id: int, filters: list[str]) -> None:
        held = self.state.unsubscribe(filters)
        self._clients.plugin.unwatch(held)
        if held:
            self.state.attachment.unsubscribe(held, partial(self._unsubscribed, packet_id))
        else:
            self.connection.write(frames.unsuback(packet_id))

    def _unsubscribed(self, packet_id: int, _: bytes) -> None:
        self.connection.write(frames.unsuback(packet_id))
        self._answered()

    def _answered(self) -> None:
        # the client may have come back on another connection meanwhile
        if self.state.session is not None:
            self.state.session.go_on()

    # --- its end ---------------------------------------------------------------------------------------------

    def lost(self, reason: str, *, graceful: bool) -> None:
        """See :class:`Session`."""
        self._held_back.clear()
        self._clients.lost(self, reason)

    def permits_will(self, will: Will) -> bool:
        """Whether a viewer may leave this will; if not it is counted and dropped."""
        return self._clients.may_publish(self.state, will.topic)

    def publish_will(self, will: Will) -> None:
        """The connection was lost."""
        self._clients.publish_will(will)
