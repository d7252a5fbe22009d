"""What the charts are drawn of: bounded, over restarts, and without what nobody knows."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from appliance.contract.times import Clock
from appliance.parts.trends import DAY_POINTS, FILE_NAME, HOUR_POINTS, MOST_FILE_BYTES, Sample, Trends

BEGIN_MS = 1_795_341_600_000


@dataclass
class Box:
    """A clock and a box that it passes for."""

    folder: Path
    now_s: float = 0.0
    received: int = 0
    settled: int = 0
    waiting: int = 0
    away: bool = False
    known: bool = True

    def __post_init__(self) -> None:
        box = self

        class BoxClock(Clock):
            def now_ms(self) -> int:
                return BEGIN_MS + int(box.now_s * 1000)

            def monotonic(self) -> float:
                return box.now_s

        self.clock = BoxClock()
        self.trends = self.start()

    def look(self) -> Sample | None:
        return Sample(self.received, self.settled, self.waiting, 5, self.away) if self.known else None

    def start(self) -> Trends:
        self.trends = Trends(look=self.look, folder=self.folder, clock=self.clock)
        return self.trends

    def go_on(self, seconds: float, *, received_per_s: int = 0, settled_per_s: int = 0) -> None:
        for _ in range(int(seconds / 10)):
            self.trends.note()
            self.now_s += 10
            self.received += 10 * received_per_s
            self.settled += 10 * settled_per_s
        self.trends.note()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_a_minute_becomes_a_point_with_its_rates_and_the_most_that_waited(box: Box) -> None:
    assert box.trends.rates() is None
    box.go_on(20, received_per_s=7, settled_per_s=2)
    assert box.trends.rates() == (7, 2)
    assert box.trends.hour == []
    box.waiting = 300
    box.go_on(10, received_per_s=7, settled_per_s=2)
    box.waiting = 0
    box.go_on(40, received_per_s=7, settled_per_s=2)
    (point,) = box.trends.hour
    assert (point.at_ms, point.received_per_s, point.settled_per_s, point.waiting) == (BEGIN_MS, 7, 2, 300)
    assert not point.away


def test_ten_minutes_become_one_and_both_lists_are_bounded(box: Box) -> None:
    box.go_on(600, received_per_s=3)
    box.away = True
    box.go_on(600, received_per_s=9)
    assert [(point.received_per_s, point.away) for point in box.trends.day] == [(3, False), (9, True)]
    box.go_on(30 * 3600, received_per_s=1)
    assert (len(box.trends.hour), len(box.trends.day)) == (HOUR_POINTS, DAY_POINTS)


def test_while_the_store_cannot_be_asked_there_is_a_gap(box: Box) -> None:
    box.go_on(120, received_per_s=5)
    box.known = False
    box.go_on(600)
    assert box.trends.rates() is None
    box.known = True
    box.go_on(180, received_per_s=5)
    times = [(point.at_ms - BEGIN_MS) // 60_000 for point in box.trends.hour]
    assert times[:2] == [0, 1]
    assert max(b - a for a, b in pairwise(times)) >= 9


async def test_a_restart_goes_on_where_the_last_run_ended_and_forgets_what_is_old(box: Box) -> None:
    box.go_on(1200, received_per_s=5)
    hour, day = box.trends.hour, box.trends.day
    await box.trends.save()
    assert (box.folder / FILE_NAME).stat().st_size < MOST_FILE_BYTES
    box.now_s += 300
    await box.start().load()
    assert (box.trends.hour, box.trends.day) == (hour, day)
    box.now_s += 3 * 86_400
    assert (box.trends.hour, box.trends.day) == ([], [])


async def test_the_file_stays_small_when_full(box: Box) -> None:
    box.waiting = 10**9
    box.go_on(30 * 3600, received_per_s=12_345, settled_per_s=12_345)
    await box.trends.save()
    assert (box.folder / FILE_NAME).stat().st_size < MOST_FILE_BYTES
    await box.start().load()
    assert len(box.trends.day) == DAY_POINTS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"[]",
        b'{"hour": 1, "day": []}',
        b'{"hour": [[1]], "day": []}',
        b'{"hour": [["x",1,1,1,1,false]], "day": []}',
    ],
)
async def test_a_damaged_file_costs_the_charts_alone(
    box: Box, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (box.folder / FILE_NAME).write_bytes(content)
    await box.trends.load()
    assert "the charts begin anew" in caplog.text
    box.go_on(120)
    assert box.trends.hour


async def test_points_from_the_future_are_forgotten(box: Box) -> None:
    box.go_on(600)
    await box.trends.save()
    box.now_s -= 86_400
    await box.start().load()
    assert box.trends.hour == box.trends.day == []


async def test_a_disk_that_takes_nothing_is_no_reason_to_end(box: Box) -> None:
    await Trends(look=box.look, folder=box.folder / "missing", clock=box.clock).save()


async def test_every_ten_minutes_the_file_is_written(box: Box) -> None:
    def look() -> Sample:
        box.now_s += 10
        return Sample(0, 0, 0, 0, False)

    trends = Trends(look=look, folder=box.folder, clock=box.clock, every_s=0)
    running = asyncio.create_task(trends.run())
    async with asyncio.timeout(10):
        while not (box.folder / FILE_NAME).exists():
            await asyncio.sleep(0.01)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert len(json.loads((box.folder / FILE_NAME).read_bytes())["day"]) >= 1
