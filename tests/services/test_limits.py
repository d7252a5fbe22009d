"""Buckets that fill at a steady rate, in a table that strangers cannot grow."""

from __future__ import annotations

import pytest

from appliance.contract.times import Clock
from appliance.services.limits import RateLimiter


class SteppedClock(Clock):
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


def test_a_burst_passes_and_then_what_the_rate_allows(clock: SteppedClock) -> None:
    limiter = RateLimiter(per_s=2, burst=3, clock=clock)
    assert [limiter.take("a") for _ in range(5)] == [0, 0, 0, 1, 1]
    clock.now += 0.5
    assert [limiter.take("a"), limiter.take("a")] == [0, 1]
    clock.now += 3600
    assert [limiter.take("a") for _ in range(4)] == [0, 0, 0, 1]


def test_the_wait_that_is_told_is_long_enough_and_asking_does_not_prolong_it(clock: SteppedClock) -> None:
    limiter = RateLimiter(per_s=0.1, burst=1, clock=clock)
    assert limiter.take("a") == 0
    for left in (10, 7, 4):
        assert limiter.take("a") == left
        clock.now += 3
    clock.now += 1
    assert limiter.take("a") == 0


def test_nobody_uses_up_another_s_share(clock: SteppedClock) -> None:
    limiter = RateLimiter(per_s=1, burst=1, clock=clock)
    assert [limiter.take("a"), limiter.take("a"), limiter.take("b")] == [0, 1, 0]


def test_the_table_is_bounded_and_forgets_who_was_away_longest(clock: SteppedClock) -> None:
    limiter = RateLimiter(per_s=1, burst=1, clock=clock, most_keys=3)
    for key in ("a", "b", "c", "a", "d", "e"):
        limiter.take(key)
    assert len(limiter) == 3
    assert limiter.take("a") > 0
    assert limiter.take("b") == 0
    for number in range(10_000):
        limiter.take(str(number))
    assert len(limiter) == 3
