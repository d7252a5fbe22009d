"""What an attached client holds of amqtt, which may outlive its connection; and how much it may have under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from appliance.broker.adapters import Attachment
from appliance.broker.fan_out import unwrap
from appliance.broker.outbound import Message, Outbound
from appliance.contract.topics import filter_matches

if TYPE_CHECKING:
    from appliance.broker.attached_session import AttachedSession

MOST_UNTAKEN, MOST_UNTAKEN_BYTES = 64, 256 * 1024
"""What a client's messages may take in the queue towards amqtt before it is not read any more."""
MOST_FILTER_LEVELS, MOST_FILTER_BYTES = 64, 1024
MOST_CACHED_TOPICS, LONGEST_CACHED_TOPIC = 1000, 256


class Untaken:
    """How much of what a client has published is still to be taken by amqtt."""

    __slots__ = ("_bytes", "_messages", "full")

    def __init__(self) -> None:
        self._messages = 0
        self._bytes = 0
        self.full = False
        """Whether it is so much that the client is not to be read, until half of it is taken."""

    def add(self, size: int) -> None:
        """One more message."""
        self._messages += 1
        self._bytes += size
        self.full = self._messages >= MOST_UNTAKEN or self._bytes >= MOST_UNTAKEN_BYTES

    def taken(self, size: int) -> bool:
        """One less; whether the client may be read again."""
        self._messages -= 1
        self._bytes -= size
        if self.full and self._messages <= MOST_UNTAKEN // 2 and self._bytes <= MOST_UNTAKEN_BYTES // 2:
            self.full = False
            return True
        return False


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
        self._since: dict[str, int] = {}
        self._newest_since = 0
        self._granted: dict[str, int | None] = {}

    def subscribe(self, filters: Mapping[str, int], now: int) -> None:
        """Hold these filters with their QoS, from behind message number ``now``: what came before that is not for it,
        although it may be on its way through amqtt yet."""
        for topic_filter in filters.keys() - self.subscriptions.keys():
            self._since[topic_filter] = now
        self._newest_since = now
        self.subscriptions.update(filters)
        self._granted.clear()

    def unsubscribe(self, filters: Iterable[str]) -> list[str]:
        """No longer hold these filters; which of them it had."""
        held = [each for each in dict.fromkeys(filters) if each in self.subscriptions]
        for each in held:
            del self.subscriptions[each]
            del self._since[each]
        self._granted.clear()
        return held

    def deliver(self, topic: str, data: bytes, may_receive: Callable[[str], bool]) -> None:
        """A message from amqtt: to the client, once, if it holds a filter for it *now* and may see it."""
        number, qos, payload = unwrap(data)
        if number == self._last_number:
            return  # amqtt sends one copy for each filter, one right after the other
        self._last_number = number
        if not may_receive(topic):
            return
        granted = self._granted_qos(topic) if number > self._newest_since else self._match(topic, number)
        if granted is not None:
            self.outbound.send(Message(topic, payload, min(qos, granted)))

    def _match(self, topic: str, number: int) -> int | None:
        held = self.subscriptions.items()
        return max(
            (qos for each, qos in held if self._since[each] < number and filter_matches(each, topic)), default=None
        )

    def _granted_qos(self, topic: str) -> int | None:
        if topic in self._granted:
            return self._granted[topic]
        granted = self._match(topic, self._newest_since + 1)
        if len(self._granted) >= MOST_CACHED_TOPICS:
            self._granted.clear()
        if len(topic) <= LONGEST_CACHED_TOPIC:
            self._granted[topic] = granted
        return granted
