"""Small charts as SVG paths, drawn here: the pages need no library and no script for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

WIDTH, HEIGHT = 600, 120
"""Of the drawing, which the page scales."""


class Point(NamedTuple):
    """How it was at a time: rates of a stretch, the most that waited, the fewest devices, whether Odoo was away."""

    at_ms: int
    received_per_s: float
    settled_per_s: float
    waiting: int
    online: int
    away: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """Paths in a box of :data:`WIDTH` by :data:`HEIGHT`, from the past on the left to now on the right."""

    lines: tuple[str, ...]
    away: str
    """When Odoo did not answer, as bars at the bottom."""
    top: float
    """What the upper edge stands for."""
    last: float | None


def draw(
    points: Sequence[Point], values: Sequence[Callable[[Point], float]], *, now_ms: int, length_ms: int, step_ms: int
) -> Chart:
    """A line for each of ``values``; a gap where points are missing. ``step_ms`` is how far apart points are."""
    shown = [point for point in points if now_ms - length_ms <= point.at_ms + step_ms and point.at_ms <= now_ms]
    top = round_up(max((value(point) for value in values for point in shown), default=0.0))

    def x(at_ms: float) -> float:
        return round(max(WIDTH * (1 - (now_ms - at_ms) / length_ms), 0), 1)

    def line(value: Callable[[Point], float]) -> str:
        parts: list[str] = []
        before: int | None = None
        for point in shown:
            joined = before is not None and point.at_ms - before <= 2 * step_ms
            parts.append(f"{'L' if joined else 'M'}{x(point.at_ms + step_ms / 2)} {_y(value(point), top)}")
            if not joined:
                parts.append("h0.1")  # a point alone is seen too
            before = point.at_ms
        return "".join(parts)

    bars = "".join(
        f"M{x(point.at_ms)} {HEIGHT}h{max(round(WIDTH * step_ms / length_ms, 1), 1)}" for point in shown if point.away
    )
    last = values[0](shown[-1]) if shown else None
    return Chart(tuple(map(line, values)), bars, top, last)


def round_up(value: float) -> float:
    """The next number that reads well on an axis: 1, 2 or 5 with zeros."""
    if value <= 0:
        return 1.0
    scale = 1.0
    while scale * 10 <= value:
        scale *= 10
    while scale > value:
        scale /= 10
    return next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= value)


def _y(value: float, top: float) -> float:
    return round(HEIGHT - 2 - (HEIGHT - 8) * min(value / top, 1.0), 1)
