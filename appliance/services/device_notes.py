"""What devices show of themselves and what they were told, on its way to the disk: gathered, and written in groups."""

from __future__ import annotations

import asyncio
import logging

from appliance.errors import StoreUnavailableError
from appliance.store.devices import Device, DeviceNote, DeviceRegistry

log = logging.getLogger(__name__)
NOTES_PER_JOB = 200


class DeviceNotes:
    """Notes that are not on disk yet; one per paired device at most."""

    def __init__(self, registry: DeviceRegistry) -> None:
        self._registry = registry
        self._waiting: dict[str, DeviceNote] = {}
        self._writing: dict[str, DeviceNote] = {}
        self._added = asyncio.Event()

    def add(self, device_id: str, note: DeviceNote) -> None:
        """Write it soon; nothing happens where no such device is paired."""
        if self._registry.get(device_id) is not None:
            self._waiting[device_id] = self._waiting.get(device_id, DeviceNote()).then(note)
            self._added.set()

    def login(self, device: Device, generation: int) -> None:
        """The device has proved that it has the secret of this generation: the earlier ones end."""
        if device.login_generation < generation or device.valid_from < generation:
            self.add(device.device_id, DeviceNote(generation=generation))

    def shown(self, device: Device, *, firmware_version: str | None, hardware: str | None) -> None:
        """The device, known by its secret, has named its firmware or its hardware."""
        if (firmware_version or device.firmware_version) != device.firmware_version or (
            hardware or device.hardware
        ) != device.hardware:
            self.add(device.device_id, DeviceNote(firmware_version=firmware_version, hardware=hardware))

    def pending(self, device_id: str) -> DeviceNote:
        """What will be known of the device beyond its record."""
        written = self._writing.get(device_id, DeviceNote())
        return written.then(self._waiting.get(device_id, DeviceNote()))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._added.wait()
            self._added.clear()
            while self._waiting:
                self._writing = {each: self._waiting.pop(each) for each in list(self._waiting)[:NOTES_PER_JOB]}
                try:
                    await self._registry.note(self._writing)
                except StoreUnavailableError as error:
                    # a device shows itself again at its next login, and is told again what it may have been told
                    log.warning("what %d devices showed of themselves was not stored: %s", len(self._writing), error)
                finally:
                    self._writing = {}
