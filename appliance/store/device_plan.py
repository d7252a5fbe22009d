"""What a list of updates makes of devices, worked out before anything is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import DeviceTopics
from appliance.errors import OtherDeviceError, TopicsRefusedError, UnknownDeviceError
from appliance.store.device import SWITCHED_OFF, Device, DeviceUpdate, rotated, with_topics
from appliance.store.device_record import row_of
from appliance.store.device_rows import DeviceRow
from appliance.store.topic_index import TopicIndex

Refusal = TopicsRefusedError | OtherDeviceError | UnknownDeviceError


class Expand(Protocol):
    """Finds a device's topics; :class:`TopicsRefusedError` if they cannot be used."""

    def __call__(self, config: DeviceConfig, serial: str) -> DeviceTopics: ...


class Plan:
    """Changes of devices. New topics are entered into the index at once, so that no two updates get the same; take them
    back with :meth:`undo` if the changes are not stored."""

    def __init__(self, *, devices: Mapping[str, Device], expand: Expand, topics: TopicIndex) -> None:
        self.refused: dict[str, Refusal] = {}
        """Why a configuration is not taken over, by device id."""
        self._devices = devices
        self._expand = expand
        self._topics = topics
        self._changed: dict[str, Device] = {}
        self._switches: dict[str, bool] = {}
        self._configured: set[str] = set()
        self._entered: set[str] = set()

    def add(self, update: DeviceUpdate) -> None:
        """Plan one more update. What of it can be done is done, also if its configuration is refused."""
        device_id = update.device_id
        device = self._changed.get(device_id) or self._devices.get(device_id)
        if device is None:
            self.refused[device_id] = UnknownDeviceError(f"no device {device_id} is paired here")
            return
        before, switch = device, self._switches.get(device_id, device.disabled_reason != SWITCHED_OFF)
        if update.config is not None:
            try:
                device = self._with_config(device, update.config, update.serial)
                self.refused.pop(device_id, None)
            except (TopicsRefusedError, OtherDeviceError) as error:
                self.refused[device_id] = error
        if update.enabled is not None:
            switch = update.enabled
        if not device.troubled:
            device = replace(device, enabled=switch, disabled_reason=None if switch else SWITCHED_OFF)
        if update.secret_version is not None and update.secret_version > device.secret_version:
            device = replace(rotated(device), secret_version=update.secret_version)
        if update.rotate:
            device = rotated(device)
        if device != before or switch != (before.disabled_reason != SWITCHED_OFF):
            self._changed[device_id], self._switches[device_id] = device, switch

    def _with_config(self, device: Device, config: DeviceConfig, serial: str | None) -> Device:
        if config.device_id != device.device_id:
            raise OtherDeviceError(f"its configuration is that of {config.device_id}")
        if serial not in (None, device.serial):
            raise OtherDeviceError(f"in Odoo it has the serial number {serial}, here {device.serial}; pair it again")
        if config == device.config and not device.troubled:
            return device
        topics = self._expand(config, device.serial)
        if device.troubled:
            new = replace(device, config=config, topics=topics, earlier=(), disabled_reason=None)
        else:
            new = replace(with_topics(device, topics), config=config)
        if new.topics != device.topics or device.troubled:
            self._topics.put(device.device_id, new.topics, new.earlier)
            self._entered.add(device.device_id)
        self._configured.add(device.device_id)
        return new

    @property
    def changed(self) -> list[Device]:
        """The devices as they are to be, those alone that differ."""
        return list(self._changed.values())

    def rows(self) -> list[DeviceRow]:
        """Their rows, with the configuration where that differs."""
        return [
            row_of(device, enabled=self._switches[device_id], with_config=device_id in self._configured)
            for device_id, device in self._changed.items()
        ]

    def undo(self) -> None:
        """Nothing was stored: the index is as it was."""
        for device_id in self._entered:
            device = self._devices[device_id]
            if device.troubled:
                self._topics.discard(device_id)
            else:
                self._topics.put(device_id, device.topics, device.earlier)
