"""When the topics that a device had before are over.

A device whose topics change goes on with those it has until it has taken the new ones, and nobody knows when that is:
it may be away for a month, be told and reset before it has saved them, or resend under the old names what it could not
send before. So its earlier topics stay its own, beside the present ones, until it has logged in knowing the present
ones, and for a while after that. They are at most three sets for a device, and no other device gets one of their names.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from appliance.contract.times import Clock
from appliance.contract.topics import DeviceTopics
from appliance.errors import StoreUnavailableError
from appliance.store.devices import Device, DeviceRegistry

KEPT_S = 3600.0
"""After the login; what the device could not send before it may still carry the old names."""
DEVICES_PER_JOB = 200


class EarlierTopics:
    """Watches the logins; ``is_current`` says whether a device has its present configuration."""

    def __init__(
        self,
        *,
        registry: DeviceRegistry,
        is_current: Callable[[Device], bool],
        clock: Clock,
        kept_s: float = KEPT_S,
    ) -> None:
        self._registry = registry
        self._is_current = is_current
        self._clock = clock
        self._kept_s = kept_s
        self._leaving: dict[str, tuple[float, DeviceTopics]] = {}
        registry.removed.append(self._removed)

    def logged_in(self, device: Device) -> None:
        """The device has logged in; what it is known to have is known by now."""
        if device.earlier and self._is_current(device):
            since = self._leaving.get(device.device_id)
            if since is None or since[1] != device.topics:
                self._leaving[device.device_id] = (self._clock.monotonic(), device.topics)

    async def sweep(self) -> None:
        """End those whose time is over. What cannot be stored now is tried again with the next sweep."""
        before_s = self._clock.monotonic() - self._kept_s
        over = [device_id for device_id, (since_s, _) in self._leaving.items() if since_s <= before_s]
        for start in range(0, len(over), DEVICES_PER_JOB):
            ids = over[start : start + DEVICES_PER_JOB]
            with suppress(StoreUnavailableError):
                await self._registry.end_earlier([each for each in ids if self._is_over(each)])
                for device_id in ids:
                    self._leaving.pop(device_id, None)

    def _is_over(self, device_id: str) -> bool:
        """Whether its topics have not changed once more meanwhile."""
        device, leaving = self._registry.get(device_id), self._leaving.get(device_id)
        # it may have been removed, and paired again, while others were stored
        return bool(device and leaving and device.topics == leaving[1] and self._is_current(device))

    def _removed(self, device: Device) -> None:
        self._leaving.pop(device.device_id, None)
