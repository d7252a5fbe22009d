"""No local topic meets a topic of the seven, of whatever device: or machines could speak in the appliance's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.contract.topics import (
    PLACEHOLDER,
    DeviceTopics,
    LocalTopics,
    TopicTemplates,
    filter_matches,
    filters_overlap,
)


@dataclass(frozen=True, slots=True)
class _Entry:
    topics: frozenset[str]
    """Patterns of topics that do not come from the settings' templates."""
    local: frozenset[str]


class LocalIndex:
    """Local topics are filters, so they are held against patterns: the topics of the seven with ``+`` for the device,
    those of the settings and those that profiles brought. So they meet no topic of a device that may yet come either.

    Devices without local topics and without topics of their own take no room.
    """

    def __init__(self, templates: TopicTemplates) -> None:
        self._always = tuple(template.replace(PLACEHOLDER, "+") for _, template in templates.items())
        self._topics: Counter[str] = Counter()
        self._local: Counter[str] = Counter()
        self._entries: dict[str, list[_Entry]] = {}

    def conflict(self, device_id: str, topics: DeviceTopics, local: LocalTopics | None) -> str | None:
        """Why a device cannot have these together with what all devices have, or ``None``."""
        entry = self._entry(device_id, [topics], local)
        met = self._meet((each for each in entry.local if not self._local[each]), (*self._always, *self._topics))
        new_topics = [each for each in entry.topics if not self._topics[each]]
        if met is None and new_topics:
            # its own local topics of before make room
            former = Counter(each for own in self._entries.get(device_id, ()) for each in own.local)
            met = self._meet({*(self._local - former), *entry.local}, new_topics)
        return met and f"the local topic {met[0]} meets {met[1]}, which is not for messages between machines"

    def reserve(self, device_id: str, topics: DeviceTopics, local: LocalTopics | None) -> None:
        """It will have these once that is stored; until :meth:`put` says so it has both."""
        former = self._entries.get(device_id, [])[:1] or [_Entry(frozenset(), frozenset())]
        self._set(device_id, [*former, self._entry(device_id, [topics], local)])

    def put(self, device_id: str, topics: Iterable[DeviceTopics], local: LocalTopics | None) -> None:
        """It has these topics, present and earlier, and these local ones."""
        self._set(device_id, [self._entry(device_id, topics, local)])

    def discard(self, device_id: str) -> None:
        """It has gone."""
        self._set(device_id, [])

    def _entry(self, device_id: str, topics: Iterable[DeviceTopics], local: LocalTopics | None) -> _Entry:
        names = {name for each in topics for name in each.as_dict().values()}
        patterns = {"/".join("+" if level == device_id else level for level in name.split("/")) for name in names}
        return _Entry(
            frozenset(each for each in patterns if not any(filter_matches(common, each) for common in self._always)),
            frozenset() if local is None else local.patterns(),
        )

    def _set(self, device_id: str, entries: list[_Entry]) -> None:
        # without keeping what is nobody's any more
        for entry in self._entries.pop(device_id, ()):
            self._topics -= Counter(entry.topics)
            self._local -= Counter(entry.local)
        if any(entry.topics or entry.local for entry in entries):
            self._entries[device_id] = entries
            for entry in entries:
                self._topics.update(entry.topics)
                self._local.update(entry.local)

    @staticmethod
    def _meet(local: Iterable[str], topics: Iterable[str]) -> tuple[str, str] | None:
        patterns = list(topics)
        return next(((each, pattern) for each in local for pattern in patterns if filters_overlap(each, pattern)), None)
