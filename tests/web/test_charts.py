"""The charts of the pages, as paths."""

from __future__ import annotations

import re

import pytest

from appliance.web.charts import HEIGHT, WIDTH, Point, draw, round_up

MINUTE = 60_000
NOW = 100 * MINUTE


def waiting(point: Point) -> float:
    return point.waiting


def points(*minutes: int, away: bool = False) -> list[Point]:
    return [Point(minute * MINUTE, 1.0, 2.0, minute, 3, away) for minute in minutes]


def chart(found: list[Point]):  # type: ignore[no-untyped-def]
    return draw(found, [waiting], now_ms=NOW, length_ms=60 * MINUTE, step_ms=MINUTE)


def test_a_line_goes_from_the_past_on_the_left_to_now_on_the_right_and_up_with_the_value() -> None:
    drawn = chart(points(*range(40, 100)))
    numbers = [float(each) for each in re.findall(r"[ML]([\d.]+)", drawn.lines[0])]
    heights = [float(each) for each in re.findall(r"[ML][\d.]+ ([\d.]+)", drawn.lines[0])]
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (WIDTH / 120, WIDTH - WIDTH / 120)
    assert heights == sorted(heights, reverse=True)
    assert drawn.lines[0].count("M") == 1
    assert (drawn.top, drawn.last) == (100, 99)


def test_a_gap_in_time_is_a_gap_in_the_line_and_what_is_old_is_not_drawn() -> None:
    drawn = chart(points(1, 50, 51, 52, 70, 71))
    assert drawn.lines[0].count("M") == 2
    assert drawn.lines[0].count("L") == 3


def test_nothing_is_no_line() -> None:
    drawn = chart([])
    assert (drawn.lines, drawn.away, drawn.last) == (("",), "", None)


def test_times_without_odoo_are_marked_at_the_bottom() -> None:
    assert chart(points(60, away=True)).away == f"M200.0 {HEIGHT}h10.0"
    assert chart(points(60)).away == ""


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (0.03, 0.05), (1, 1), (1.2, 2), (3, 5), (7, 10), (99, 100), (1234, 2000)]
)
def test_the_upper_edge_reads_well(value: float, top: float) -> None:
    assert round_up(value) == pytest.approx(top)
