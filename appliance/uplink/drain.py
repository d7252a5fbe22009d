"""How long until nothing waits any more, from how fast it became less of late."""

from __future__ import annotations

from collections import deque

from appliance.contract.times import Clock

WINDOW_S = 60.0
"""The rate is that of so long ago until now."""
SAMPLE_EVERY_S = 1.0
LEAST_S = 3.0
"""A rate of less than this is a guess."""


class DrainEstimate:
    """Told how much waits, it knows how long that takes; or that nobody can know."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(WINDOW_S / SAMPLE_EVERY_S) + 2)

    def note(self, waiting: int) -> None:
        """So many messages wait now, and Odoo takes them."""
        now = self._clock.monotonic()
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_EVERY_S:
            self._samples.append((now, waiting))
        while now - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()

    def reset(self) -> None:
        """Odoo takes nothing: what was before says nothing about what comes."""
        self._samples.clear()

    def seconds(self, waiting: int, *, at_once: int) -> float | None:
        """Seconds until nothing waits at the net rate of the last minute; ``None``: unknown, or never at this rate.

        Up to ``at_once`` messages are a matter of a moment while Odoo takes them.
        """
        if not waiting:
            return 0.0
        if not self._samples:
            return None
        begun, before = self._samples[0]
        elapsed_s = self._clock.monotonic() - begun
        net = before - waiting
        if elapsed_s >= LEAST_S and net > 0:
            return waiting * elapsed_s / net
        return 1.0 if waiting <= at_once else None
