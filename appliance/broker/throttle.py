"""How often something may happen per key, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

MOST_KEYS = 1000


class Throttle:
    """At most ``most`` events per key within ``within_s`` seconds (fixed windows)."""

    def __init__(self, *, most: int, within_s: float, time: Callable[[], float]) -> None:
        self._most = most
        self._within_s = within_s
        self._time = time
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def may(self, key: str) -> bool:
        """Whether one more event is allowed; does not count it."""
        since, count = self._windows.get(key, (0.0, 0))
        return count < self._most or self._time() - since >= self._within_s

    def note(self, key: str) -> None:
        """Count an event."""
        now = self._time()
        since, count = self._windows.pop(key, (now, 0))
        if now - since >= self._within_s:
            since, count = now, 0
        self._windows[key] = (since, count + 1)
        if len(self._windows) > MOST_KEYS:
            self._windows.popitem(last=False)

    def allow(self, key: str) -> bool:
        """Count an event if it is allowed, and say whether it was."""
        allowed = self.may(key)
        if allowed:
            self.note(key)
        return allowed
