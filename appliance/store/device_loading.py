"""Devices as they are read at the start: what collides by now, and what of their earlier topics is still theirs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from pydantic import ValidationError

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import DeviceTopics, TopicTemplates
from appliance.errors import TopicsRefusedError
from appliance.store.device import SWITCHED_OFF, Device, with_topics
from appliance.store.device_record import device_of, read_topics
from appliance.store.device_rows import DeviceRow
from appliance.store.topic_index import TopicIndex

log = logging.getLogger(__name__)
_Sets = tuple[DeviceTopics, ...]


Expand = Callable[[DeviceConfig, str], tuple[DeviceConfig, DeviceTopics]]
"""Finds what of a stored configuration can be used, and a device's topics; :class:`TopicsRefusedError` if none."""


class Loader:
    """Turns rows into devices; their topics are entered into the index on the way."""

    def __init__(self, *, expand: Expand, topics: TopicIndex, templates: TopicTemplates) -> None:
        self.devices: dict[str, Device] = {}
        self._expand = expand
        self._topics = topics
        self._templates = templates
        self._had: dict[str, tuple[_Sets, _Sets]] = {}

    def add(self, row: DeviceRow) -> None:
        """One more device. One that cannot be served (its topics collide, say) is disabled, with the reason."""
        trouble = None
        try:
            config = DeviceConfig.model_validate_json(row.config)
            config, topics = self._expand(config, row.serial)
            self._topics.put(row.device_id, topics)
            earlier, last = read_topics(row.earlier), read_topics(row.topics)
            if earlier or last not in ((), (topics,)):
                self._had[row.device_id] = earlier, last
        except (ValidationError, TopicsRefusedError) as error:
            text = str(error) if isinstance(error, TopicsRefusedError) else "its stored configuration cannot be read"
            trouble = f"{text}; pair it again"
            log.error("device %s may not connect: %s", row.device_id, trouble)
            config = DeviceConfig(device_id=row.device_id)
            topics = self._templates.expand(row.device_id, row.serial)
        reason = trouble or (None if row.enabled else SWITCHED_OFF)
        self.devices[row.device_id] = device_of(row, config, topics, disabled_reason=reason)

    def finish(self) -> None:
        """All have their present topics, which go first: now give them the earlier ones that are free."""
        for device_id, (earlier, last) in self._had.items():
            device = self.devices[device_id]
            present = device.topics
            free = [each for each in (*earlier, *last) if self._topics.conflict(device_id, each) is None]
            device = replace(device, earlier=tuple(each for each in earlier if each in free and each != present))
            for each in last:
                if each in free:
                    # the settings have changed: as if it got its present topics only now
                    device = with_topics(replace(device, topics=each), present)
            self._topics.put(device_id, present, device.earlier)
            self.devices[device_id] = device
        self._had.clear()
