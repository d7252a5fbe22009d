"""What the pages draw: an hour in minutes and a day in ten minutes, in memory and in a small file.

The file is written every ten minutes and at the end; where it is damaged or cannot be written, only charts are missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import from_json, to_json

from appliance.contract.times import Clock
from appliance.errors import DataFolderError
from appliance.secret_files import write_file
from appliance.web.charts import Point

log = logging.getLogger(__name__)

FILE_NAME = "trends.json"
EVERY_S = 10.0
MINUTE_MS, TEN_MINUTES_MS = 60_000, 600_000
HOUR_POINTS, DAY_POINTS = 60, 144
RATE_S = 60.0
MOST_FILE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Sample:
    """How it is at a moment. Counters since any beginning: ``received`` and ``settled``."""

    received: int
    settled: int
    waiting: int
    online: int
    away: bool
    """Whether Odoo does not answer."""


class Trends:
    """Call :meth:`load`, then :meth:`run`, then :meth:`save`; ``look`` tells how it is, ``None`` if nobody knows."""

    def __init__(
        self, *, look: Callable[[], Sample | None], folder: Path, clock: Clock, every_s: float = EVERY_S
    ) -> None:
        self._look = look
        self._path = folder / FILE_NAME
        self._clock = clock
        self._every_s = every_s
        self._hour: deque[Point] = deque(maxlen=HOUR_POINTS)
        self._day: deque[Point] = deque(maxlen=DAY_POINTS)
        self._recent: deque[tuple[float, Sample]] = deque(maxlen=int(RATE_S / EVERY_S) + 1)
        self._minute: list[tuple[float, Sample]] = []
        self._minute_of = 0

    @property
    def hour(self) -> list[Point]:
        """A point a minute, oldest first."""
        return self._within(self._hour, HOUR_POINTS * MINUTE_MS)

    @property
    def day(self) -> list[Point]:
        """A point every ten minutes, oldest first."""
        return self._within(self._day, DAY_POINTS * TEN_MINUTES_MS)

    def rates(self) -> tuple[float, float] | None:
        """Readings received and messages settled a second, over the last minute; ``None`` in the first seconds."""
        return _rates(self._recent)

    async def load(self) -> None:
        """Go on where the last run has ended."""
        try:
            content = await asyncio.to_thread(self._read)
            document = from_json(content)
            hour, day = (sorted(Point(*values) for values in document[name]) for name in ("hour", "day"))
            now_ms = self._clock.now_ms()
            self._hour.extend(point for point in hour if point.at_ms < now_ms)
            self._day.extend(point for point in day if point.at_ms < now_ms)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("the charts begin anew, %s cannot be read: %s", self._path, error)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if self.note():
                await self.save()
            await asyncio.sleep(self._every_s)

    def note(self) -> bool:
        """Look once; whether ten minutes have become a point."""
        sample = self._look()
        if sample is None:
            self._recent.clear()
            return False
        now, now_ms = self._clock.monotonic(), self._clock.now_ms()
        self._recent.append((now, sample))
        minute, is_due = now_ms // MINUTE_MS, False
        if self._minute and minute != self._minute_of:
            # the new sample ends the old minute too: the rate is that between their beginnings
            self._hour.append(_point([*self._minute, (now, sample)], self._minute_of * MINUTE_MS))
            self._minute = []
            is_due = minute // 10 != self._minute_of // 10
            if is_due:
                self._end_ten_minutes(self._minute_of // 10 * TEN_MINUTES_MS)
        self._minute_of = minute
        self._minute.append((now, sample))
        return is_due

    def _end_ten_minutes(self, begin_ms: int) -> None:
        points = [point for point in self._hour if begin_ms <= point.at_ms < begin_ms + TEN_MINUTES_MS]
        if points:
            count = len(points)
            self._day.append(
                Point(
                    begin_ms,
                    round(sum(point.received_per_s for point in points) / count, 2),
                    round(sum(point.settled_per_s for point in points) / count, 2),
                    max(point.waiting for point in points),
                    min(point.online for point in points),
                    any(point.away for point in points),
                )
            )

    async def save(self) -> None:
        """Write the file."""
        content = to_json({"hour": list(self._hour), "day": list(self._day)})
        with suppress(DataFolderError):
            await asyncio.to_thread(write_file, self._path, content, replace=True)

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            return file.read(MOST_FILE_BYTES)

    def _within(self, points: Iterable[Point], length_ms: int) -> list[Point]:
        now_ms = self._clock.now_ms()
        return [point for point in points if now_ms - length_ms - TEN_MINUTES_MS <= point.at_ms <= now_ms]


def _rates(samples: Iterable[tuple[float, Sample]]) -> tuple[float, float] | None:
    known = list(samples)
    if len(known) < 2 or known[-1][0] <= known[0][0]:
        return None
    (begun, first), (ended, last) = known[0], known[-1]
    return (
        max(last.received - first.received, 0) / (ended - begun),
        max(last.settled - first.settled, 0) / (ended - begun),
    )


def _point(samples: list[tuple[float, Sample]], at_ms: int) -> Point:
    received, settled = _rates(samples) or (0.0, 0.0)
    seen = [sample for _, sample in samples]
    return Point(
        at_ms,
        round(received, 2),
        round(settled, 2),
        max(sample.waiting for sample in seen),
        min(sample.online for sample in seen),
        any(sample.away for sample in seen),
    )
