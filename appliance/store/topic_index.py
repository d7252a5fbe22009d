"""Which device owns which topic name: no name may belong to two devices, or one could speak for the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from appliance.contract.topics import DeviceTopics


class TopicIndex:
    """Exact topic names in use, by owner. The configuration request's name is shared, all others have one owner.

    A device owns its present topics, and those that it had before as long as it may still use them.
    """

    def __init__(self, *, config_request: str) -> None:
        self._topics: dict[str, tuple[DeviceTopics, ...]] = {}
        self._owners: dict[str, str] = {}
        # unpaired devices always ask on this name
        self._shared: Counter[str] = Counter([config_request])

    def conflict(self, device_id: str, topics: DeviceTopics, *, leaving: Collection[str] = ()) -> str | None:
        """Why ``topics`` cannot be given to ``device_id``, or ``None``; ``leaving`` are devices that make room."""
        own = _own(topics)
        if len({*own, topics.config_request}) != len(own) + 1:
            return "two of its topics have the same name"
        for name in (*own, topics.config_request):
            owner = self._owners.get(name, device_id)
            if owner != device_id and owner not in leaving:
                return f"{name} belongs to device {owner}"
        present = self._topics.get(device_id, ())
        for name in own:
            if self._shared[name] > sum(each.config_request == name for each in present):
                return f"{name} is where configuration requests go"
        return None

    def put(self, device_id: str, topics: DeviceTopics, earlier: Iterable[DeviceTopics] = ()) -> None:
        """Enter a device, or its new topics; ask :meth:`conflict` first."""
        self.discard(device_id)
        self._topics[device_id] = (topics, *earlier)
        for each in self._topics[device_id]:
            self._shared[each.config_request] += 1
            for name in _own(each):
                self._owners[name] = device_id

    def discard(self, device_id: str) -> None:
        """Take a device out, if it is in."""
        for each in self._topics.pop(device_id, ()):
            self._shared[each.config_request] -= 1
            for name in _own(each):
                self._owners.pop(name, None)


def _own(topics: DeviceTopics) -> tuple[str, ...]:
    return (
        topics.config_response,
        topics.telemetry,
        topics.command,
        topics.command_response,
        topics.ota_notify,
        topics.ota_status,
    )
