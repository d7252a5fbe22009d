"""Retained messages of attached clients, in bounded memory. amqtt never holds any.

What devices publish on their own topics is never retained; only viewers' and local topics get here, each kind into a
store of its own. Nothing survives a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from appliance.broker.outbound import Message
from appliance.contract.topics import filter_matches


class RetainedMessages:
    """The last retained message of each topic; the topic set longest ago makes room for a new one."""

    def __init__(self, *, most_topics: int, most_bytes: int) -> None:
        self.dropped = 0
        """Messages that were too large to keep, or had to make room."""
        self._most_topics = most_topics
        self._most_bytes = most_bytes
        self._messages: OrderedDict[str, Message] = OrderedDict()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, topic: str, payload: bytes, qos: int) -> None:
        """Keep this message in the place of the topic's former one; an empty payload clears (§3.3.1.3)."""
        self._messages.pop(topic, None)
        if not payload:
            return
        if len(topic) + len(payload) > self._most_bytes:
            self.dropped += 1
            return
        self._messages[topic] = Message(topic, payload, qos, retain=True)
        if len(self._messages) > self._most_topics:
            self._messages.popitem(last=False)
            self.dropped += 1

    def wanted(self, granted: Mapping[str, int]) -> list[Message]:
        """What a SUBSCRIBE for these filters gets, once for each topic, also where several of them match it; again for
        a repeated SUBSCRIBE (§3.8.4). With the lower of the message's QoS and the highest one granted."""
        found: dict[str, tuple[Message, int]] = {}
        for topic_filter, qos in granted.items():
            for message in self.matching(topic_filter):
                _, before = found.get(message.topic, (message, 0))
                found[message.topic] = (message, max(qos, before))
        return [replace(message, qos=min(qos, message.qos)) for message, qos in found.values()]

    def matching(self, topic_filter: str) -> Iterator[Message]:
        """What a new subscription gets."""
        return (message for topic, message in self._messages.items() if filter_matches(topic_filter, topic))
