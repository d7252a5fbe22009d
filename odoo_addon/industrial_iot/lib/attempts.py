"""How many wrong keys, codes and tokens came from where: enough of them, and the answer is 429 for a while.

Only what was wrong is counted, after it was looked up: a right key is never kept out, whoever shares its address. Each
worker process counts for itself.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

WINDOW_S = 60.0
MAX_WRONG = 100
"""In one window."""
MAX_PLACES = 10_000
"""The ones that were wrong the longest ago are forgotten first."""


class Attempts:
    """Counts in windows of a minute; ``clock`` is monotonic, in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def note_wrong(self, place: Hashable) -> float | None:
        """Count one; the seconds until the window ends where there were too many in it, else ``None``."""
        now = self._clock()
        began, wrong = self._places.pop(place, (now, 0))
        if now - began >= WINDOW_S:
            began, wrong = now, 0
        self._places[place] = (began, wrong + 1)
        if len(self._places) > MAX_PLACES:
            self._places.popitem(last=False)
        return began + WINDOW_S - now if wrong >= MAX_WRONG else None
