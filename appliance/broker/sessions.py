"""The native sessions of paired devices.

Native sessions never touch amqtt. What a device publishes on its own topics goes straight to its service and is
acknowledged after the commit; what the appliance sends goes straight to the device, with the session's own packet ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.broker import frames
from appliance.broker.frames import ProtocolError, Will
from appliance.broker.local_half import LocalHalf
from appliance.broker.plugin import DeviceLogin
from appliance.broker.reach import Reach
from appliance.broker.session import Receipt, Sent, Session, SessionState
from appliance.contract.presence import OfflineCode
from appliance.contract.topics import is_topic_name

if TYPE_CHECKING:
    from appliance.broker.connection import Connection
    from appliance.broker.listener import Listener
    from appliance.broker.local_rights import LocalRights
    from appliance.broker.local_traffic import LocalTraffic

MOST_UNACKED = 64
MOST_UNACKED_BYTES = 64 * 1024
"""What a connection may have in the writer's queue before it is not read any more (architecture, decision 2)."""
MOST_IN_FLIGHT = 20
MOST_SUBSCRIPTIONS = 32


class NativeSession(Session):
    """A paired device. What it does beside its own topics, where its profile grants that, is its ``local`` half's."""

    def __init__(
        self,
        connection: Connection,
        listener: Listener,
        login: DeviceLogin,
        state: SessionState,
        *,
        lasting: bool = False,
    ) -> None:
        super().__init__(connection)
        self.local: LocalHalf | None = None
        self.lasting = lasting
        self.device_id = login.device.device_id
        self.generation = login.generation
        self.unacked = 0
        self.messages = 0
        """In this second; the listener's sweep begins the next."""
        self.acks: list[bytes] = []
        self._unacked_bytes = 0
        self._newest: Receipt | None = None
        """Of those that wait for their commit the one that comes last, if any waits."""
        self._listener = listener
        self._state = state
        state.generation = login.generation
        for sent in state.in_flight.values():
            sent.earlier = True
        self._now_ms = listener.clock.now_ms
        self.renew(login)

    def renew(self, login: DeviceLogin) -> None:
        """Take over the device's topics, also when they change while it is connected."""
        self._reach = Reach(login.device.topics, login.device.earlier)
        self._routes = self._listener.routes(login.device)
        self.local = self._listener.local_half(self, login.device)

    # --- from the device -------------------------------------------------------------------------------------

    def frame(self, header: int, data: bytes, start: int, end: int) -> None:
        """See :class:`Session`."""
        if header & 0xF0 == 0x30:
            self._publish(header, data, start, end)
            return
        kind = frames.check_flags(header, start, end)
        if kind == frames.PUBACK:
            self._acknowledged(frames.parse_packet_id(data, start, end))
        elif kind == frames.PINGREQ:
            self.connection.write(frames.PINGRESP_FRAME)
        elif kind == frames.SUBSCRIBE:
            self._subscribe(*frames.parse_subscribe(data, start, end))
        elif kind == frames.UNSUBSCRIBE:
            packet_id, filters = frames.parse_unsubscribe(data, start, end)
            for topic_filter in filters:
                self._state.subscriptions.pop(topic_filter, None)
            if self.local is not None:
                self.local.unsubscribe(filters)
            self.connection.write(frames.unsuback(packet_id))
        elif kind == frames.PUBREL:
            self._release(frames.parse_packet_id(data, start, end).to_bytes(2, "big"))
        elif kind == frames.DISCONNECT:
            self.connection.close("closed by the device", OfflineCode.CLOSED_BY_DEVICE, graceful=True)
        elif kind in (frames.PUBREC, frames.PUBCOMP):
            packet_id = frames.parse_packet_id(data, start, end)
            if self.local is not None:  # nothing native goes out with QoS 2
                (self.local.received if kind == frames.PUBREC else self.local.completed)(packet_id)
        else:
            raise ProtocolError("a packet that a client must not send here")

    def _publish(self, header: int, data: bytes, start: int, end: int) -> None:
        qos = header >> 1 & 3
        name_start = start + 2
        if end < name_start or qos == 3 or (header & 8 and not qos):
            raise ProtocolError("a malformed PUBLISH")
        name_end = name_start + (data[start] << 8 | data[start + 1])
        ack = b""
        body = name_end
        if qos:
            body += 2
            packet_id = data[name_end:body]
            if packet_id == b"\0\0":
                raise ProtocolError("packet id 0")
            ack = (frames.PUBACK_HEAD if qos == 1 else frames.PUBREC_HEAD) + packet_id
        if body > end:
            raise ProtocolError("a malformed PUBLISH")
        self.messages += 1
        if self.messages >= self._listener.limits.messages_per_s:
            self.connection.pause_reading()
        route = self._routes.get(data[name_start:name_end])
        if route is None:
            self._other_topic(header, frames.decode_text(data[name_start:name_end]), data[body:end], ack)
            return
        payload = data[body:end]
        if len(payload) > self._listener.limits.payload_bytes:
            raise ProtocolError(f"a payload of {len(payload)} bytes is too large")
        echo = (route.topic, payload, qos) if self._listener.is_watched(route) else None
        receipt = Receipt(self, ack, len(payload), echo)
        if qos == 2 and not self._state.exchanges.begin(
            receipt, ack[2:], data[name_start:name_end] + payload, dup=bool(header & 8)
        ):
            self._repeat(ack)
            return
        self._newest = receipt
        self.unacked += 1
        self._unacked_bytes += len(payload)
        listener = self._listener
        listener.unacked_bytes += len(payload)
        try:
            route.accept(self.device_id, payload, self._now_ms(), receipt)
        except BaseException:
            self._undo(receipt)
            raise
        if (
            self.unacked >= MOST_UNACKED
            or self._unacked_bytes >= MOST_UNACKED_BYTES
            or listener.unacked_bytes >= listener.limits.unacked_bytes
        ):
            self.connection.pause_reading()

    def _other_topic(self, header: int, topic: str, payload: bytes, ack: bytes) -> None:
        """A topic that is not the device's own: a local one, or else acknowledged and dropped."""
        if not is_topic_name(topic):
            raise ProtocolError("a PUBLISH whose topic is no valid name")
        if self.local is None or not self.local.rights.may_publish(topic):
            self._listener.refused(self.device_id, "not a topic of this device", topic)
        elif len(payload) > self._listener.limits.payload_bytes:
            raise ProtocolError(f"a payload of {len(payload)} bytes is too large")
        elif header & 6 != 4 or self._state.exchanges.begin_unstored(ack[2:]):
            self.local.publish(topic, payload, header >> 1 & 3, retain=bool(header & 1))
            if self.local.full:
                self.connection.pause_reading()
        self._acknowledge_in_order(ack)

    def _acknowledge_in_order(self, ack: bytes) -> None:
        """Acknowledge what needs no commit, behind what does."""
        if not ack:
            return
        newest = self._newest
        if newest is None or not self.unacked:
            self.connection.write(ack)
            return
        if newest.behind is None:
            newest.behind = []
        newest.behind.append(ack)
        self._count_unacked()

    def _repeat(self, ack: bytes) -> None:
        """Acknowledge the repeat of a QoS 2 message, but not before the message itself is on disk: it may have come
        over an earlier connection and be on its way there yet."""
        if self.unacked:
            self._acknowledge_in_order(ack)
            return
        receipt = self._newest = Receipt(self, ack, 0, None)
        self._count_unacked()
        self._listener.in_order(receipt)

    def _release(self, packet_id: bytes) -> None:
        """PUBREL: where the session outlives its connection, PUBCOMP waits until the id is gone from the disk."""
        receipt = Receipt(self, frames.PUBCOMP_HEAD + packet_id, 0, None)
        if self._state.exchanges.release(receipt, packet_id):
            self._acknowledge_in_order(receipt.ack)
        else:
            self._newest = receipt
            self._count_unacked()

    def _count_unacked(self) -> None:
        self.unacked += 1
        if self.unacked >= MOST_UNACKED:
            self.connection.pause_reading()

    def committed(self, receipt: Receipt) -> None:
        """A publish is on disk; :meth:`flush` writes what has gathered."""
        self.unacked -= 1
        self._unacked_bytes -= receipt.size
        self._listener.unacked_bytes -= receipt.size
        if receipt.ack:
            self.acks.append(receipt.ack)
        if receipt.behind is not None:
            self.unacked -= len(receipt.behind)
            self.acks += receipt.behind

    def withheld(self, receipt: Receipt) -> None:
        """A publish will never be on disk: what the device sends again must not pass for a repeat."""
        self._undo(receipt)
        self.connection.abort("its message could not be stored", OfflineCode.NOT_STORED)

    def _undo(self, receipt: Receipt) -> None:
        self._listener.unacked_bytes -= receipt.size
        if receipt.ack.startswith(frames.PUBREC_HEAD):
            self._state.exchanges.undo(receipt, receipt.ack[2:])

    def flush(self) -> None:
        """Write the acknowledgements that have gathered, and read on if reading had stopped."""
        if self.acks:
            self.connection.write(b"".join(self.acks))
            self.acks.clear()
        if self.connection.reading_paused:
            # where all clients together wait for a slow disk, each goes on when its own messages are committed
            self._read_on()

    def _read_on(self) -> None:
        if (
            self.unacked < MOST_UNACKED // 2
            and self.messages < self._listener.limits.messages_per_s
            and (self.local is None or not self.local.full)
        ):
            self.connection.resume_reading()

    def next_second(self) -> None:
        """Begin to count anew, and read on if the device had sent too much."""
        self.messages = 0
        if self.connection.reading_paused:
            self._read_on()

    # --- to the device ---------------------------------------------------------------------------------------

    def _subscribe(self, packet_id: int, filters: list[tuple[str, int]]) -> None:
        subscriptions = self._state.subscriptions
        codes = []
        for topic_filter, qos in filters:
            full = len(subscriptions) >= MOST_SUBSCRIPTIONS and topic_filter not in subscriptions
            if full or not self._listener.granted(topic_filter, self._reach.receivable()):
                codes.append(frames.REFUSED_FILTER)
                continue
            subscriptions[topic_filter] = min(qos, 1)
            codes.append(min(qos, 1))
        if self.local is not None:
            self.local.subscribe(packet_id, filters, codes)
        else:
            self.connection.write(frames.suback(packet_id, codes))
        self.announce()

    def announce(self) -> None:
        """Tell the services that what waits for this device can go out, on each topic that it has subscribed to."""
        for name in self._reach.names(self._state.subscriptions):
            self._listener.ready(self.device_id, name)

    def writable(self) -> None:
        """See :class:`Session`: what could not be sent meanwhile can be now."""
        self._read_on()
        if self.local is not None:
            self.local.writable()
        self.announce()

    def resume(self) -> None:
        """Its session has lasted, and CONNACK is out."""
        if self.local is not None:
            self.local.resume()
        self.announce()

    def send(self, topic: str, payload: bytes, *, redelivery: bool, on_ack: Callable[[], None]) -> bool:
        """Write a PUBLISH; ``on_ack`` is called on PUBACK, or at once where the device subscribed with QoS 0.

        A redelivery in a session that persisted keeps its packet id and carries DUP (§4.4).
        """
        topic, qos = self._reach.where(topic, self._state.subscriptions)
        if qos is None or self.connection.writing_paused:
            return False
        if not qos:
            self.connection.write(frames.publish(topic, payload))
            self._listener.call_soon(on_ack)
            return True
        packet_id = self._unacknowledged(topic, payload) if redelivery else None
        dup = packet_id is not None
        if packet_id is None:
            if len(self._state.in_flight) >= MOST_IN_FLIGHT and not self._forget_oldest():
                return False
            packet_id = self._free_packet_id()
        self._state.in_flight[packet_id] = Sent(topic, payload, on_ack)
        self.connection.write(frames.publish(topic, payload, qos=1, packet_id=packet_id, dup=dup))
        return True

    def _unacknowledged(self, topic: str, payload: bytes) -> int | None:
        for packet_id, sent in self._state.in_flight.items():
            if sent.topic == topic and sent.payload == payload:
                return packet_id
        return None

    def _forget_oldest(self) -> bool:
        """Make room by what an earlier connection left and nobody wants redelivered: it was given up meanwhile."""
        oldest = next((packet_id for packet_id, sent in self._state.in_flight.items() if sent.earlier), None)
        if oldest is None:
            return False
        del self._state.in_flight[oldest]
        return True

    def _free_packet_id(self) -> int:
        packet_id = self._state.next_packet_id
        while packet_id in self._state.in_flight or (self.local is not None and self.local.is_taken(packet_id)):
            packet_id = packet_id % 0xFFFF + 1
        self._state.next_packet_id = packet_id % 0xFFFF + 1
        return packet_id

    def _acknowledged(self, packet_id: int) -> None:
        in_flight = self._state.in_flight
        was_full = len(in_flight) >= MOST_IN_FLIGHT
        sent = in_flight.pop(packet_id, None)
        if sent is not None:
            sent.on_ack()
            if was_full:
                self.announce()
        elif self.local is not None:
            self.local.acknowledged(packet_id)

    def lost(self, reason: str, *, graceful: bool) -> None:
        """See :class:`Session`."""
        if self.local is not None:
            self.local.lost()
        self._listener.device_lost(self, reason)

    def permits_will(self, topic: str) -> bool:
        """Whether the device may leave a will on this topic."""
        return topic.encode() in self._routes or (self.local is not None and self.local.rights.may_publish(topic))

    def publish_will(self, will: Will) -> None:
        """The connection was lost."""
        route = self._routes.get(will.topic.encode())
        if route is not None:
            route.accept(self.device_id, will.payload, self._now_ms(), None)
        elif self.local is not None:
            self.local.publish_will(will)

    def open_local(self, traffic: LocalTraffic, rights: LocalRights) -> LocalHalf:
        """The profile grants local topics, at login or later."""
        return LocalHalf(
            device_id=self.device_id,
            connection=self.connection,
            traffic=traffic,
            rights=rights,
            lasting=self.lasting,
            native_ids=self._state.in_flight,
            read_on=self._read_on,
        )
