"""What a machine measures: values that wander as a press's would, reproducible by seed."""

from __future__ import annotations

from random import Random
from typing import Any


class PressSignal:
    """Temperature (°C), pressure (bar) and a stroke counter of a press."""

    def __init__(self, *, random: Random) -> None:
        self._random = random
        self._temperature = random.uniform(55, 75)
        self._pressure = random.uniform(4, 6)
        self._strokes = random.randrange(100_000)

    def sample(self) -> dict[str, Any]:
        """One measurement; values drift back to where a healthy press runs."""
        self._temperature += self._random.gauss(0, 0.3) + (65 - self._temperature) * 0.01
        self._pressure += self._random.gauss(0, 0.02) + (5 - self._pressure) * 0.02
        self._strokes += 1
        return {
            "temperature": round(self._temperature, 2),
            "pressure": round(self._pressure, 3),
            "strokes": self._strokes,
        }
