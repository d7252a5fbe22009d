"""What devices show of themselves and what they were told, on its way to the disk: gathered, and written in groups."""

from __future__ import annotations

import asyncio
import logging

from appliance.errors import StoreUnavailableError
from appliance.store.devices import Device, DeviceNote, DeviceRegistry

log = logging.getLogger(__name__)
NOTES_PER_JOB = 200
RETRY_S = 1.0
"""After nothing could be stored."""


class DeviceNotes:
    """Notes that are not on disk yet; one per paired device at most."""

    def __init__(self, registry: DeviceRegistry, *, retry_s: float = RETRY_S) -> None:
        self._registry = registry
        self._retry_s = retry_s
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
        most = NOTES_PER_JOB
        while True:
            await self._added.wait()
            self._added.clear()
            while self._waiting:
                self._writing = {each: self._waiting.pop(each) for each in list(self._waiting)[:most]}
                try:
                    await self._registry.note(self._writing)
                    most = NOTES_PER_JOB
                except StoreUnavailableError as error:
                    if most == NOTES_PER_JOB:
                        log.warning("what devices showed of themselves is not stored yet: %s", error)
                    # fewer: where the file is damaged at one device, the others are not to wait for it
                    most = max(most // 2, 1)
                    self._put_back()
                    await asyncio.sleep(self._retry_s)
                finally:
                    self._writing = {}

    def _put_back(self) -> None:
        """A login must end the earlier secrets, and the next login of that device may be in a month."""
        for device_id, note in self._writing.items():
            self._waiting[device_id] = note.then(self._waiting.pop(device_id, DeviceNote()))
        self._writing = {}
