"""The short sessions of devices that are not paired yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.broker import frames
from appliance.broker.frames import ProtocolError
from appliance.broker.plugin import UnpairedLogin
from appliance.broker.session import Session
from appliance.contract.topics import filter_matches

if TYPE_CHECKING:
    from appliance.broker.connection import Connection
    from appliance.broker.listener import Listener

MOST_CONFIG_REQUESTS = 20
"""On one connection, which lives 60 seconds."""


class UnpairedSession(Session):
    """A device that knows only its serial number: it may ask for its configuration and get the answer."""

    def __init__(self, connection: Connection, listener: Listener, login: UnpairedLogin) -> None:
        super().__init__(connection)
        self.serial = login.serial
        self._listener = listener
        self._answer_topic = listener.answer_topic(login.serial)
        self._granted_qos: int | None = None
        self._next_packet_id = 1
        self._requests = 0

    def frame(self, header: int, data: bytes, start: int, end: int) -> None:
        """See :class:`Session`."""
        if header & 0xF0 == 0x30:
            self._publish(header, data, start, end)
            return
        kind = frames.check_flags(header, start, end)
        if kind == frames.PINGREQ:
            self.connection.write(frames.PINGRESP_FRAME)
        elif kind == frames.SUBSCRIBE:
            self._subscribe(*frames.parse_subscribe(data, start, end))
        elif kind == frames.UNSUBSCRIBE:
            packet_id, _ = frames.parse_unsubscribe(data, start, end)
            self._granted_qos = None
            self.connection.write(frames.unsuback(packet_id))
        elif kind == frames.PUBREL:
            packet_id = frames.parse_packet_id(data, start, end)
            self.connection.write(frames.PUBCOMP_HEAD + packet_id.to_bytes(2, "big"))
        elif kind == frames.DISCONNECT:
            self.connection.close("closed by the device", graceful=True)
        elif kind in (frames.PUBACK, frames.PUBREC, frames.PUBCOMP):
            frames.parse_packet_id(data, start, end)
        else:
            raise ProtocolError("a packet that a client must not send here")

    def _subscribe(self, packet_id: int, filters: list[tuple[str, int]]) -> None:
        codes = []
        for topic_filter, qos in filters:
            if filter_matches(topic_filter, self._answer_topic):
                self._granted_qos = min(qos, 1)
                codes.append(min(qos, 1))
            else:
                codes.append(frames.REFUSED_FILTER)
        self.connection.write(frames.suback(packet_id, codes))

    def _publish(self, header: int, data: bytes, start: int, end: int) -> None:
        topic, payload, ack = frames.parse_publish(header, data, start, end)
        if ack:
            self.connection.write(ack)
        self._requests += 1
        if self._requests > MOST_CONFIG_REQUESTS:
            raise ProtocolError("too many messages on a connection that is not paired")
        if topic == self._listener.config_request_topic:
            self._listener.ask(self, payload)

    def reply(self, payload: bytes) -> None:
        """Send the configuration answer, to this connection alone; nothing happens if it has gone."""
        if self._granted_qos is None or self.connection.closed:
            return
        packet_id, self._next_packet_id = self._next_packet_id, self._next_packet_id % 0xFFFF + 1
        self.connection.write(frames.publish(self._answer_topic, payload, qos=self._granted_qos, packet_id=packet_id))

    def lost(self, reason: str, *, graceful: bool) -> None:
        """See :class:`Session`."""
        self._listener.unpaired_lost(self)
