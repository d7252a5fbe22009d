"""The appliance's own clock: when it is not believed, what is marked then, and what makes it believed again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance import RELEASED
from appliance.contract.times import ClockFlag, parse_rfc3339
from appliance.services.gateway_clock import GatewayClock, kernel_is_synchronised
from appliance.services.presence import PresenceService
from appliance.services.telemetry import TelemetryService
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from tests.store.support import NOW_MS, ManualClock

DAY_MS = 86_400_000
RELEASED_MS = NOW_MS - 100 * DAY_MS


class Box:
    """A gateway clock on a real store, with telemetry marked by it."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.clock = clock
        self.synchronised = False
        self.buffer = Buffer(database)
        self.telemetry = TelemetryService(database=database, buffer=self.buffer, presence=PresenceService(clock=clock))
        self.gateway = GatewayClock(
            database=database, clock=clock, released_ms=RELEASED_MS, synchronised=lambda: self.synchronised
        )
        self.gateway.changed.append(self.telemetry.mark)

    async def flags(self) -> ClockFlag:
        """What a reading that is received now is stored with."""
        after = self.buffer.backlog().last_seq
        self.telemetry.accept("press-07", b"{}", self.clock.now_ms(), None)
        await self.buffer.wait_for_messages(after)
        return ClockFlag((await self.buffer.take(after=after)).messages[0].flags)

    async def after(self, seconds: float) -> str | None:
        self.clock.forward(seconds)
        self.gateway.look()
        await self.gateway.store()
        return self.gateway.doubt


@asynccontextmanager
async def opened(folder: Path, clock: ManualClock) -> AsyncIterator[Box]:
    database = await Database.open(folder, clock=clock)
    try:
        box = Box(database, clock)
        await box.buffer.load()
        await box.gateway.load()
        yield box
    finally:
        await database.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def box(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Box]:
    async with opened(tmp_path, clock) as box:
        yield box


async def test_a_clock_that_moves_on_is_believed_and_readings_are_not_marked(box: Box) -> None:
    for _ in range(10):
        assert await box.after(100) is None
    box.clock.wall_ms -= 200_000  # a time service may step it by a few minutes
    assert await box.after(1) is None
    assert await box.flags() == ClockFlag.NONE


async def test_a_clock_before_the_release_was_made_is_not_believed_whoever_says_so(box: Box) -> None:
    box.clock.wall_ms = RELEASED_MS - 1000
    box.synchronised = True
    assert "before this release was made" in (await box.after(0) or "")
    box.gateway.agrees_with(box.clock.wall_ms)
    assert box.gateway.doubt
    assert await box.flags() == ClockFlag.GATEWAY
    box.synchronised = False
    box.clock.wall_ms = NOW_MS
    assert await box.after(1) is None
    assert await box.flags() == ClockFlag.NONE


async def test_a_clock_that_is_behind_what_was_stored_before_is_not_believed_after_a_restart(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with opened(tmp_path, clock) as box:
        assert await box.after(0) is None
    clock.wall_ms -= 10 * DAY_MS
    async with opened(tmp_path, clock) as box:
        assert "as new as 2026-09-21T14:13:20.000Z" in (box.gateway.doubt or "")
        assert await box.flags() == ClockFlag.GATEWAY, "from the very first reading on"
        await box.after(3600)
    async with opened(tmp_path, clock) as box:
        assert box.gateway.doubt, "time that is not believed is not stored as the newest"


async def test_the_newest_message_counts_as_well_as_what_was_written_down(tmp_path: Path, clock: ManualClock) -> None:
    async with opened(tmp_path, clock) as box:
        clock.forward(50)
        assert await box.flags() == ClockFlag.NONE
    clock.wall_ms -= 301_000
    async with opened(tmp_path, clock) as box:
        assert box.gateway.doubt


@pytest.mark.parametrize("by", ["kernel", "Odoo"])
async def test_a_clock_that_was_once_far_ahead_is_not_doubted_for_ever(
    tmp_path: Path, clock: ManualClock, by: str
) -> None:
    clock.wall_ms += 3650 * DAY_MS
    async with opened(tmp_path, clock) as box:
        assert await box.after(0) is None
    clock.wall_ms = NOW_MS
    async with opened(tmp_path, clock) as box:
        assert box.gateway.doubt
        if by == "kernel":
            box.synchronised = True
        else:
            box.gateway.agrees_with(NOW_MS - 400_000)
            assert box.gateway.doubt, "it does not agree"
            box.gateway.agrees_with(NOW_MS - 200_000)
        assert await box.after(1) is None
    async with opened(tmp_path, clock) as box:
        assert await box.after(1) is None, "the earlier time is what is stored now"


async def test_the_newest_time_is_written_once_a_minute_at_most(box: Box) -> None:
    await box.after(60)
    written: list[object] = []
    run = box.gateway._database.run

    async def count(job: object, **options: object) -> object:
        written.append(job)
        return await run(job)  # type: ignore[arg-type]

    box.gateway._database.run = count  # type: ignore[method-assign, assignment]
    for _ in range(600):
        await box.after(1)
    assert len(written) == 10


def test_the_kernel_can_be_asked_and_the_release_has_a_date_in_the_past() -> None:
    assert kernel_is_synchronised() in (True, False)
    assert parse_rfc3339(RELEASED) <= datetime.now(UTC).timestamp() * 1000
