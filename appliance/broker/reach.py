"""On which topics a device can be reached, while it may not have taken its newest ones yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from appliance.contract.topics import DeviceTopics, filter_matches

RECEIVED = ("command", "ota_notify", "config_response")
"""The topics to a device, in the order in which it is told that it can be reached on them."""


class Reach:
    """A device's topics, present and earlier, held against what it has subscribed to (filters with their QoS)."""

    __slots__ = ("_earlier", "_topics")

    def __init__(self, topics: DeviceTopics, earlier: Sequence[DeviceTopics]) -> None:
        self._topics = topics
        self._earlier = earlier

    def receivable(self) -> list[str]:
        """What the device may subscribe to."""
        return [topic for topics in (self._topics, *self._earlier) for topic in topics.receivable()]

    def names(self, subscriptions: Mapping[str, int]) -> list[str]:
        """The topics on which it can be reached, by their names in the contract."""
        return [name for name in RECEIVED if self.where(getattr(self._topics, name), subscriptions)[1] is not None]

    def where(self, topic: str, subscriptions: Mapping[str, int]) -> tuple[str, int | None]:
        """Where to send what is for this topic and with which QoS (``None``: nowhere): the topic itself, or the one
        that the device had in its place, where that is the one it has subscribed to."""
        qos = _granted_qos(topic, subscriptions)
        if not self._earlier or topic in subscriptions:
            return topic, qos
        for name in RECEIVED:
            if getattr(self._topics, name) == topic:
                for before in reversed(self._earlier):
                    former: str = getattr(before, name)
                    former_qos = _granted_qos(former, subscriptions)
                    # a subscription to the very name says which topics the device has, a wildcard does not
                    if former_qos is not None and (qos is None or former in subscriptions):
                        return former, former_qos
        return topic, qos


def _granted_qos(topic: str, subscriptions: Mapping[str, int]) -> int | None:
    return max((qos for each, qos in subscriptions.items() if filter_matches(each, topic)), default=None)
