"""Limits by key or address: of failed attempts and of requests, in tables of bounded size."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict

from appliance.contract.times import Clock


class FailureLimiter:
    """Counts failures by key; after ``most`` of them within ``window_s`` seconds the key waits for the window's end.

    At most ``most_keys`` keys are remembered; the one that began to fail first is forgotten first.
    """

    def __init__(self, *, most: int, window_s: float, clock: Clock, most_keys: int = 4096) -> None:
        self._most = most
        self._window_s = window_s
        self._clock = clock
        self._most_keys = most_keys
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_s(self, key: str) -> int:
        """Whole seconds until this key may try again; 0 if it may now."""
        begun, count = self._failures.get(key, (0.0, 0))
        if count < self._most:
            return 0
        left = begun + self._window_s - self._clock.monotonic()
        return max(math.ceil(left), 0)

    def failed(self, key: str) -> None:
        """Count a failure."""
        now = self._clock.monotonic()
        begun, count = self._failures.get(key, (now, 0))
        if now - begun >= self._window_s:
            begun, count = now, 0
            self._failures.pop(key, None)
        self._failures[key] = (begun, count + 1)
        while len(self._failures) > self._most_keys:
            self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """It was no failure after all."""
        begun, count = self._failures.get(key, (0.0, 0))
        if count > 1:
            self._failures[key] = (begun, count - 1)
        else:
            self._failures.pop(key, None)

    def __len__(self) -> int:
        return len(self._failures)


class RateLimiter:
    """A bucket of ``burst`` tokens for each key, which fills by ``per_s`` tokens a second.

    At most ``most_keys`` buckets are remembered; the one that was used longest ago is forgotten first, and is full
    again by then unless thousands of others came meanwhile.
    """

    def __init__(self, *, per_s: float, burst: int, clock: Clock, most_keys: int = 4096) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._most_keys = most_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> int:
        """Take a token; whole seconds until there is one, 0 if there was."""
        now = self._clock.monotonic()
        tokens, since = self._buckets.pop(key, (float(self._burst), now))
        tokens = min(tokens + (now - since) * self._per_s, float(self._burst))
        wait_s = 0 if tokens >= 1 else math.ceil((1 - tokens) / self._per_s)
        self._buckets[key] = (tokens if wait_s else tokens - 1, now)
        if len(self._buckets) > self._most_keys:
            self._buckets.popitem(last=False)
        return wait_s

    def __len__(self) -> int:
        return len(self._buckets)


def address_key(address: str) -> str:
    """Whom an address stands for: itself, but in IPv6 its network of 64 bits, which one host can use up at will."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class Quiet:
    """Which log lines are due: for each key one a minute, however often there is cause."""

    def __init__(self, *, clock: Clock, every_s: float = 60.0) -> None:
        self._said = FailureLimiter(most=1, window_s=every_s, clock=clock)

    def due(self, key: str) -> bool:
        """Whether this line is to be written now."""
        if self._said.wait_s(key):
            return False
        self._said.failed(key)
        return True
