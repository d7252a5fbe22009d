"""Local topics on one device's connection, beside its native session and never in the way of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from functools import partial
from typing import TYPE_CHECKING

from appliance.broker import frames
from appliance.broker.attached_state import MOST_FILTER_BYTES, MOST_FILTER_LEVELS, Untaken
from appliance.broker.frames import Will
from appliance.broker.local_rights import LocalRights
from appliance.broker.local_state import LocalState

if TYPE_CHECKING:
    from appliance.broker.connection import Connection
    from appliance.broker.local_traffic import LocalTraffic


MOST_PENDING = 32
"""SUBSCRIBE packets that wait for amqtt; a device may not hold more filters than that anyway."""


class LocalHalf:
    """What the device publishes to local topics and holds of them.

    It costs amqtt nothing until the device subscribes. ``native_ids`` are packet ids on their way to the device that
    are not ours to use; ``read_on`` is called when its packets may be read again.
    """

    def __init__(
        self,
        *,
        device_id: str,
        connection: Connection,
        traffic: LocalTraffic,
        rights: LocalRights,
        lasting: bool,
        native_ids: Container[int],
        read_on: Callable[[], None],
    ) -> None:
        self.device_id = device_id
        self.connection = connection
        self.rights = rights
        self.lasting = lasting
        self.native_ids = native_ids
        self._traffic = traffic
        self._read_on = read_on
        self._state = traffic.rejoin(self)
        self._waiting: deque[tuple[str, bytes, int]] = deque()
        """What must not overtake a subscription of its own; counted by ``_untaken``, which bounds it."""
        self._untaken = Untaken()

    @property
    def full(self) -> bool:
        """Whether so much is on its way into amqtt that the device must not be read. Not while amqtt has stopped: then
        local messages are dropped, but the device's work goes on."""
        return self._untaken.full and not self._traffic.fan_out.stalled

    def is_taken(self, packet_id: int) -> bool:
        """Whether this packet id is under way to the device."""
        return self._state is not None and packet_id in self._state.outbound

    # --- from the device -------------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool) -> None:
        """Pass on what the rights permit."""
        if retain:
            self._traffic.retained.put(topic, payload, qos)
        self._untaken.add(len(topic) + len(payload))
        settling = bool(self._waiting) or (self._state is not None and self._state.settling)
        if settling and not self._traffic.fan_out.stalled:
            self._waiting.append((topic, payload, qos))
        else:
            self._hand_over(topic, payload, qos)

    def _hand_over(self, topic: str, payload: bytes, qos: int) -> None:
        self._traffic.publish(topic, payload, qos, partial(self._taken, len(topic) + len(payload)))

    def _taken(self, size: int) -> None:
        if self._untaken.taken(size):
            self._read_on()

    def subscribe(self, packet_id: int, filters: list[tuple[str, int]], native_codes: list[int]) -> None:
        """Hold what reaches local topics, and answer; ``native_codes`` are for the device's own topics."""
        permitted = {each: qos for each, qos in filters if self.rights.may_subscribe(each)}
        if permitted and self._state is None:
            self._state = self._traffic.open(self)
        state = self._state
        if not permitted or state is None or state.pending >= MOST_PENDING:
            self.connection.write(frames.suback(packet_id, native_codes))
            return
        wanted: dict[str, int] = {}
        for each, qos in permitted.items():
            if each in state.subscriptions or not self._is_too_much(
                each, len(state.subscriptions.keys() | wanted.keys())
            ):
                wanted[each] = qos
        state.hold(
            wanted, self._traffic.fan_out.number, partial(self._held, packet_id, filters, native_codes, wanted, state)
        )

    def _is_too_much(self, topic_filter: str, held: int) -> bool:
        if topic_filter.count("/") >= MOST_FILTER_LEVELS or len(topic_filter.encode()) > MOST_FILTER_BYTES:
            return True
        return held >= self._traffic.limits.device_subscriptions

    def _held(
        self,
        packet_id: int,
        filters: list[tuple[str, int]],
        native_codes: list[int],
        wanted: dict[str, int],
        state: LocalState,
    ) -> None:
        granted = {each: qos for each, qos in wanted.items() if each in state.subscriptions and state.serves(each)}
        state.give_up([each for each in wanted if each not in granted])
        codes = [granted.get(each, code) for (each, _), code in zip(filters, native_codes, strict=True)]
        self.connection.write(frames.suback(packet_id, codes))
        for message in self._traffic.retained.wanted(granted):
            if state.rights.may_receive(message.topic):
                state.outbound.send(message)
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting:
            self._hand_over(*self._waiting.popleft())

    def unsubscribe(self, filters: list[str]) -> None:
        """Give up these, where it holds them."""
        if self._state is not None:
            self._state.give_up(filters)

    def acknowledged(self, packet_id: int) -> None:
        """PUBACK came for something that is not native."""
        if self._state is not None:
            self._state.outbound.acknowledged(packet_id)

    def received(self, packet_id: int) -> None:
        """PUBREC came. Without a session here nothing goes out with QoS 2."""
        if self._state is not None:
            self._state.outbound.received(packet_id)

    def completed(self, packet_id: int) -> None:
        """PUBCOMP came."""
        if self._state is not None:
            self._state.outbound.completed(packet_id)

    # --- its connection --------------------------------------------------------------------------------------

    def resume(self) -> None:
        """CONNACK is out: what was not acknowledged goes out again, then what waits."""
        if self._state is not None:
            self._state.outbound.resume(self.connection)

    def writable(self) -> None:
        """The device reads again."""
        if self._state is not None:
            self._state.outbound.flush()

    def renew(self, rights: LocalRights) -> None:
        """The profile grants something else from now on."""
        self.rights = rights
        if self._state is not None:
            self._state.renew(rights)

    def publish_will(self, will: Will) -> None:
        """The connection was lost."""
        if self.rights.may_publish(will.topic):
            self._traffic.publish_will(will)

    def lost(self) -> None:
        """The connection has ended."""
        self._go_on()
        state, self._state = self._state, None
        if state is not None:
            self._traffic.left(state)

    def end(self, reason: str) -> None:
        """What it held is gone: the device has to begin anew."""
        self._state = None
        self.connection.close(reason)
