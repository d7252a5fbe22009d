"""Waiting before another try: exponential, with full jitter, so that a fleet does not come back in step."""

from __future__ import annotations

from random import Random


class Backoff:
    """Delays in seconds: a random part of ``first_s``, then of twice that, up to ``longest_s``."""

    def __init__(self, *, random: Random, first_s: float = 0.5, longest_s: float = 30.0) -> None:
        self._random = random
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0

    def next_s(self) -> float:
        """How long to wait after one more failure; never less than a tenth of ``first_s``."""
        ceiling = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return self._random.uniform(self._first_s / 10, ceiling)

    def reset(self) -> None:
        """It worked."""
        self._failures = 0
