"""How often something is sent to somebody who does not acknowledge it: a few times, then once in a long while."""

from __future__ import annotations

from collections.abc import Hashable

from appliance.contract.times import Clock


class Tries:
    """Counts, for each device, deliveries of the same content over all its connections; one entry for each device."""

    def __init__(self, *, most: int, retry_s: float, clock: Clock) -> None:
        self._most = most
        self._retry_s = retry_s
        self._clock = clock
        self._made: dict[str, tuple[Hashable, int, float]] = {}

    def allowed(self, device_id: str, content: Hashable) -> bool:
        """Whether this content may be sent now."""
        of, count, last_s = self._made.get(device_id, (None, 0, 0.0))
        return of != content or count < self._most or self._clock.monotonic() - last_s >= self._retry_s

    def made(self, device_id: str, content: Hashable) -> None:
        """It was sent."""
        of, count, _ = self._made.get(device_id, (None, 0, 0.0))
        self._made[device_id] = (content, count + 1 if of == content else 1, self._clock.monotonic())

    def forget(self, device_id: str) -> None:
        """The device has it, or there is no such device any more."""
        self._made.pop(device_id, None)

    def __len__(self) -> int:
        return len(self._made)
