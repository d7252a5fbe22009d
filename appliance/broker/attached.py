"""Attached clients: viewers, whom amqtt tells what they have subscribed to.

A viewer's session has two halves. Here, in front: CONNACK, rights, acknowledgements in both directions, packet ids,
windows, queues, retained messages and wills. Behind, an :class:`Attachment`: a session inside amqtt that holds the same
filters. Where the client wants its session to outlive its connection (clean session 0), both halves stay, bounded in
number and time. amqtt could keep such sessions itself, but its queue for absent clients has no bound, it forgets what
was not acknowledged, and it mixes up sessions that come and go quickly.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from amqtt.broker import Broker

from appliance.broker import frames
from appliance.broker.adapters import Attachment
from appliance.broker.connection import Connection
from appliance.broker.fan_out import FanOut, unwrap
from appliance.broker.frames import Connect, ProtocolError, Will
from appliance.broker.outbound import Message, Outbound
from appliance.broker.plugin import InterceptPlugin, ViewerLogin
from appliance.broker.retained import RetainedMessages
from appliance.broker.sessions import MOST_QOS2_OPEN, Session, check_flags, parse_publish
from appliance.broker.throttle import Throttle
from appliance.contract.topics import filter_matches

log = logging.getLogger(__name__)

MOST_AMQTT_SESSIONS = 500
"""amqtt clears up ended sessions once a second; until then no more than these."""
MOST_UNTAKEN, MOST_UNTAKEN_BYTES = 64, 256 * 1024
"""What a client's messages may take in the queue towards amqtt before it is not read any more."""
MOST_CACHED_TOPICS = 10_000


@dataclass(frozen=True, slots=True)
class AttachedLimits:
    """Bounds of attached clients. How many may be connected is the listener's :attr:`Limits.viewers`."""

    subscriptions: int = 100
    """Of one client."""
    payload_bytes: int = 262_144
    queued_messages: int = 1000
    queued_bytes: int = 4 << 20
    """Of one client, that reads too slowly or is away."""
    absent: int = 50
    """Sessions whose client is away; beyond it the one away for longest is forgotten."""
    session_expiry_s: float = 24 * 3600
    retained_topics: int = 100
    retained_bytes: int = 64 * 1024
    """Topic and payload of one retained message."""
    fan_out_messages: int = 1000
    fan_out_bytes: int = 8 << 20


class AttachedState:
    """A client's session, which may outlive its connection."""

    def __init__(self, *, key: tuple[str, str], clean: bool, outbound: Outbound) -> None:
        self.key = key
        self.clean = clean
        self.outbound = outbound
        self.attachment: Attachment
        self.subscriptions: dict[str, int] = {}
        """Filters held now, with their QoS."""
        self.qos2_open: set[bytes] = set()
        self.session: AttachedSession | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self._last_number = 0
        self._granted: dict[str, int | None] = {}

    def subscriptions_changed(self) -> None:
        """What was worked out from the subscriptions no longer holds."""
        self._granted.clear()

    def deliver(self, topic: str, data: bytes, plugin: InterceptPlugin) -> None:
        """A message from amqtt: to the client, once, if it holds a filter for it *now* and may see it."""
        number, qos, payload = unwrap(data)
        if number == self._last_number:
            return  # amqtt sends one copy for each filter, one right after the other
        self._last_number = number
        if topic not in self._granted:
            if len(self._granted) >= MOST_CACHED_TOPICS:
                self._granted.clear()
            self._granted[topic] = self._granted_qos(topic) if plugin.viewer_may_receive(topic) else None
        granted = self._granted[topic]
        if granted is not None:
            self.outbound.send(Message(topic, payload, min(qos, granted)))

    def _granted_qos(self, topic: str) -> int | None:
        return max((qos for each, qos in self.subscriptions.items() if filter_matches(each, topic)), default=None)


class AttachedClients:
    """Makes the sessions of viewers, and keeps those whose client is away."""

    def __init__(self, *, amqtt: Broker, plugin: InterceptPlugin, fan_out: FanOut, limits: AttachedLimits) -> None:
        self.limits = limits
        self.plugin = plugin
        self.fan_out = fan_out
        self.retained = RetainedMessages(most_topics=limits.retained_topics, most_bytes=limits.retained_bytes)
        self.refused = 0
        """Publishes and wills on topics that viewers may not publish to."""
        self._amqtt = amqtt
        self._loop = asyncio.get_running_loop()
        self._states: dict[tuple[str, str], AttachedState] = {}
        self._absent: OrderedDict[AttachedState, None] = OrderedDict()
        self._attachments: set[Attachment] = set()
        self._number = 0
        self._dropped_before = 0
        self._quiet = Throttle(most=1, within_s=60.0, time=self._loop.time)

    @property
    def dropped(self) -> int:
        """Messages that clients did not get, because they read too slowly or were away for too long."""
        return self._dropped_before + sum(state.outbound.dropped for state in self._states.values())

    def __len__(self) -> int:
        """Sessions, connected or away."""
        return len(self._states)

    # --- sessions come and go --------------------------------------------------------------------------------

    def attach(self, connection: Connection, connect: Connect, login: ViewerLogin) -> AttachedSession:
        """A viewer has logged in: answer its CONNECT and give it its session.

        An older connection of the same account and client id is closed first. :class:`ProtocolError` with a CONNACK
        if amqtt has too many sessions.
        """
        self._number += 1
        # a client id cannot hold U+0000, so a made-up one meets no other
        key = (login.name, connect.client_id or f"\0{self._number}")
        state = self._states.get(key)
        if state is not None and state.session is not None:
            state.session.connection.close("another connection took over")
            state = self._states.get(key)
        if state is not None and connect.clean_session:
            self._forget(state)
            state = None
        present = state is not None
        if state is None:
            state = self._new_state(key, connect.clean_session, connection.address)
        self._absent.pop(state, None)
        if state.expiry is not None:
            state.expiry.cancel()
        state.session = AttachedSession(connection, self, state)
        log.info(
            "viewer %s (%s) connected from %s", login.name, connect.client_id or "no client id", connection.address
        )
        connection.write(frames.connack(frames.ACCEPTED, session_present=present))
        state.outbound.resume(connection)
        return state.session

    def _new_state(self, key: tuple[str, str], clean: bool, address: str) -> AttachedState:
        if max(len(self._amqtt.sessions), len(self._attachments)) >= MOST_AMQTT_SESSIONS:
            raise ProtocolError("too many sessions inside amqtt", frames.connack(frames.UNAVAILABLE))
        limits = self.limits
        state = AttachedState(
            key=key,
            clean=clean,
            outbound=Outbound(most_messages=limits.queued_messages, most_bytes=limits.queued_bytes),
        )
        state.attachment = Attachment(
            amqtt=self._amqtt,
            client_id=f"viewer/{self._number}/{key[0]}",
            address=address,
            on_publish=partial(state.deliver, plugin=self.plugin),
            on_end=partial(self._ended, state),
        )
        self._attachments.add(state.attachment)
        state.attachment.add_done_callback(self._attachments.discard)
        self._states[key] = state
        return state

    def lost(self, session: AttachedSession, reason: str) -> None:
        """A connection has ended; its session stays if the client wanted that."""
        state = session.state
        if state.session is not session:
            return
        state.session = None
        log.info("viewer %s disconnected: %s", state.key[0], reason)
        if state.clean:
            self._forget(state)
            return
        state.outbound.disconnected()
        state.expiry = self._loop.call_later(self.limits.session_expiry_s, self._forget, state)
        self._absent[state] = None
        if len(self._absent) > self.limits.absent:
            self._forget(next(iter(self._absent)))

    def _ended(self, state: AttachedState) -> None:
        """amqtt has ended a session, or does not answer: the client has to begin anew."""
        session, state.session = state.session, None
        self._forget(state)
        if session is not None:
            session.connection.close("amqtt ended its session")

    def _forget(self, state: AttachedState) -> None:
        if self._states.get(state.key) is not state:
            return
        del self._states[state.key]
        self._absent.pop(state, None)
        if state.expiry is not None:
            state.expiry.cancel()
        self._dropped_before += state.outbound.dropped
        self.plugin.unwatch(state.subscriptions)
        state.attachment.detach()

    async def stop(self) -> None:
        """End all sessions; after the listener has closed their connections."""
        for state in list(self._states.values()):
            self._forget(state)
        await asyncio.gather(*(attachment.ended() for attachment in self._attachments))

    # --- what clients publish --------------------------------------------------------------------------------

    def may_publish(self, state: AttachedState, topic: str) -> bool:
        """Whether this client may publish there; if not it is counted, and logged once a minute."""
        if self.plugin.viewer_may_publish(topic):
            return True
        self.refused += 1
        if self._quiet.allow(state.key[0]):
            log.warning("dropped what viewer %s published to %r: not below test/", state.key[0], topic[:100])
        return False

    def publish_will(self, will: Will) -> None:
        """A connection with a permitted will was lost."""
        if will.retain:
            self.retained.put(will.topic, will.payload, will.qos)
        self.fan_out.publish(will.topic, will.payload, will.qos, lambda: None)


class AttachedSession(Session):
    """A viewer's connection."""

    def __init__(self, connection: Connection, clients: AttachedClients, state: AttachedState) -> None:
        super().__init__(connection)
        self.state = state
        self._clients = clients
        self._held_back: deque[tuple[int, bytes, int, int]] = deque()
        """Packets that have to wait. Reading stops with the first, so they come from one read of the socket."""
        self._untaken = 0
        self._untaken_bytes = 0
        self._untaken_full = False

    # --- from the client -------------------------------------------------------------------------------------

    def frame(self, header: int, data: bytes, start: int, end: int) -> None:
        """See :class:`Session`."""
        if self._blocked or self._held_back:
            self._held_back.append((header, data, start, end))
            self.connection.pause_reading()
        else:
            self._handle(header, data, start, end)

    @property
    def _blocked(self) -> bool:
        """Whether the next packet has to wait: amqtt owes an answer (PUBLISH or DISCONNECT would overtake SUBSCRIBE
        inside it), or too much of what this client published is still to be taken."""
        return self.state.attachment.busy or self._untaken_full

    def go_on(self) -> None:
        """What the next packet had to wait for may have come."""
        try:
            while self._held_back and not self._blocked and not self.connection.closed:
                self._handle(*self._held_back.popleft())
        except ProtocolError as error:
            self.connection.close(f"protocol error: {error}")
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
        kind = check_flags(header, start, end)
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
        topic, payload, ack = parse_publish(header, data, start, end)
        if topic.startswith("$"):
            raise ProtocolError("a PUBLISH to a topic that belongs to the broker")
        if len(payload) > self._clients.limits.payload_bytes:
            raise ProtocolError(f"a payload of {len(payload)} bytes is too large")
        qos = header >> 1 & 3
        if self._clients.may_publish(self.state, topic) and not (qos == 2 and self._is_open(ack[2:])):
            if header & 1:
                self._clients.retained.put(topic, payload, qos)
            self._untaken += 1
            self._untaken_bytes += len(payload)
            self._untaken_full = self._untaken >= MOST_UNTAKEN or self._untaken_bytes >= MOST_UNTAKEN_BYTES
            self._clients.fan_out.publish(topic, payload, qos, partial(self._taken, len(payload)))
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
        self._untaken -= 1
        self._untaken_bytes -= size
        if self._untaken_full and self._untaken <= MOST_UNTAKEN // 2 and self._untaken_bytes <= MOST_UNTAKEN_BYTES // 2:
            self._untaken_full = False
            self.go_on()

    # --- subscriptions ---------------------------------------------------------------------------------------

    def _subscribe(self, packet_id: int, filters: list[tuple[str, int]]) -> None:
        subscriptions, plugin = self.state.subscriptions, self._clients.plugin
        new: list[str] = []
        refused: set[str] = set()
        for topic_filter, _ in filters:
            if topic_filter in subscriptions or topic_filter in new:
                continue
            full = len(subscriptions) + len(new) >= self._clients.limits.subscriptions
            if full or not plugin.viewer_may_subscribe(topic_filter):
                refused.add(topic_filter)
            else:
                new.append(topic_filter)
        if new:
            self.state.attachment.subscribe(new, partial(self._subscribed, packet_id, filters, new, refused))
        else:
            # amqtt holds the others already, and a changed QoS is our affair alone
            self._suback(packet_id, filters, refused)

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
        self.state.subscriptions.update(granted)
        self.state.subscriptions_changed()
        self.connection.write(
            frames.suback(packet_id, [frames.REFUSED_FILTER if each in refused else qos for each, qos in filters])
        )
        self._send_retained(granted)

    def _send_retained(self, granted: dict[str, int]) -> None:
        """Once for each topic, also where several of the filters match it; again for a repeated SUBSCRIBE (§3.8.4)."""
        wanted: dict[str, tuple[Message, int]] = {}
        for topic_filter, qos in granted.items():
            for message in self._clients.retained.matching(topic_filter):
                _, before = wanted.get(message.topic, (message, 0))
                wanted[message.topic] = (message, max(qos, before))
        for message, qos in wanted.values():
            self.state.outbound.send(Message(message.topic, message.payload, min(qos, message.qos), retain=True))

    def _unsubscribe(self, packet_id: int, filters: list[str]) -> None:
        subscriptions = self.state.subscriptions
        held = [each for each in dict.fromkeys(filters) if each in subscriptions]
        for each in held:
            del subscriptions[each]
        self.state.subscriptions_changed()
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
        return not will.topic.startswith("$") and self._clients.may_publish(self.state, will.topic)

    def publish_will(self, will: Will) -> None:
        """The connection was lost."""
        self._clients.publish_will(will)
