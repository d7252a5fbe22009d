"""Attached clients: viewers, whom amqtt tells what they have subscribed to.

A viewer's session has two halves. In front, an :class:`AttachedSession`: CONNACK, rights, acknowledgements in both
directions, packet ids, windows, queues, retained messages and wills. Behind, an :class:`Attachment`: a session inside
amqtt that holds the same filters. Where the client wants its session to outlive its connection (clean session 0), both
stay, bounded in number and time. amqtt could keep such sessions itself, but its queue for absent clients has no bound,
it forgets what was not acknowledged, and it mixes up sessions that come and go quickly.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

from amqtt.broker import Broker

from appliance.broker import frames
from appliance.broker.adapters import Attachment
from appliance.broker.attached_session import AttachedSession
from appliance.broker.attached_state import AttachedState
from appliance.broker.connection import Connection
from appliance.broker.fan_out import FanOut
from appliance.broker.frames import Connect, ProtocolError, Will
from appliance.broker.outbound import Outbound
from appliance.broker.plugin import InterceptPlugin, ViewerLogin
from appliance.broker.retained import RetainedMessages
from appliance.contract.times import Clock
from appliance.services.limits import Quiet

log = logging.getLogger(__name__)

MOST_AMQTT_SESSIONS = 500
"""amqtt clears up ended sessions once a second; until then no more than these."""


@dataclass(frozen=True, slots=True)
class AttachedLimits:
    """Bounds of attached clients. How many viewers may be connected is the listener's :attr:`Limits.viewers`."""

    subscriptions: int = 100
    """Of one client."""
    filters: int = 500
    """Distinct ones of all clients: each costs amqtt half a microsecond per message."""
    viewer_filters: int = 100
    """Of these, how many devices leave to viewers."""
    devices: int = 200
    """Sessions of devices that have subscribed to local topics, connected or away: each costs 52 kB, and some ms to
    connect."""
    device_subscriptions: int = 32
    device_queued_messages: int = 500
    device_queued_bytes: int = 256 * 1024
    local_retained_topics: int = 500
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


class AttachedClients:
    """Makes the sessions of viewers, and keeps those whose client is away."""

    def __init__(
        self, *, amqtt: Broker, plugin: InterceptPlugin, fan_out: FanOut, limits: AttachedLimits, clock: Clock
    ) -> None:
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
        self._quiet = Quiet(clock=clock)

    @property
    def dropped(self) -> int:
        """Messages that clients did not get, because they read too slowly or were away for too long."""
        return self._dropped_before + sum(state.outbound.dropped for state in self._states.values())

    def is_connected(self, account: str, client_id: str) -> bool:
        """Whether a client of this name is connected now; one without a name is always another."""
        state = self._states.get((account, client_id)) if client_id else None
        return state is not None and state.session is not None

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
        log.info("viewer %s (client id %r) connected from %s", login.name, connect.client_id[:64], connection.address)
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
            on_publish=partial(state.deliver, may_receive=self.plugin.viewer_may_receive),
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
        # names that begin with $ are the broker's (§4.7.2); amqtt would end the session
        if not topic.startswith("$") and self.plugin.viewer_may_publish(topic):
            return True
        self.refused += 1
        if self._quiet.due(state.key[0]):
            log.warning("dropped what viewer %s published to %r: viewers may not", state.key[0], topic[:100])
        return False

    def publish_will(self, will: Will) -> None:
        """A connection with a permitted will was lost."""
        if will.retain:
            self.retained.put(will.topic, will.payload, will.qos)
        self.fan_out.publish(will.topic, will.payload, will.qos, lambda: None)
