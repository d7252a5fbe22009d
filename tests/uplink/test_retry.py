"""Back-off and circuit breaker."""

from __future__ import annotations

from random import Random
from statistics import mean

import pytest

from appliance.errors import OdooUnavailableError
from appliance.uplink.retry import RETRY_AFTER_LIMIT_S, Backoff, Breaker
from tests.uplink.conftest import Time


class Latest(Random):
    """Always the longest delay."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_delays_double_up_to_the_cap_and_are_drawn_from_the_whole_range() -> None:
    longest = Backoff(random=Latest(), base_s=0.5, cap_s=60)
    assert [longest.delay_s(failures) for failures in (1, 2, 3, 7, 8, 9, 10_000)] == [0.5, 1, 2, 32, 60, 60, 60]
    jittered = Backoff(random=Random(1), base_s=0.5, cap_s=60)
    delays = [jittered.delay_s(20) for _ in range(2000)]
    assert 0 <= min(delays) < 1
    assert 59 < max(delays) <= 60
    assert mean(delays) == pytest.approx(30, abs=2)


def test_the_breaker_opens_lets_one_probe_through_and_closes(time: Time) -> None:
    breaker = Breaker(clock=time, backoff=Backoff(random=Latest(), base_s=1), threshold=3)
    for waited_s in (1, 2, 4):
        assert breaker.state == "closed"
        breaker.check()
        assert breaker.delay_s() == 0
        breaker.begin()
        breaker.failed()
        assert breaker.delay_s() == pytest.approx(waited_s)
        time.elapsed_s += waited_s
    assert breaker.state == "open"
    breaker.begin()
    assert breaker.state == "half_open"
    assert breaker.delay_s() == 1
    for forbidden in (breaker.check, breaker.begin):
        with pytest.raises(OdooUnavailableError):
            forbidden()
    breaker.failed()
    assert (breaker.state, breaker.delay_s()) == ("open", pytest.approx(8))
    time.elapsed_s += 8
    breaker.begin()
    breaker.released()
    assert breaker.state == "open"
    breaker.begin()
    breaker.succeeded()
    assert (breaker.state, breaker.delay_s(), breaker.failures) == ("closed", 0, 0)
    breaker.check()


@pytest.mark.parametrize(
    ("wished_s", "waited_s"),
    [(40.0, 40.0), (1e9, RETRY_AFTER_LIMIT_S), (float("nan"), 1.0), (float("inf"), 1.0), (-3.0, 1.0), (None, 1.0)],
)
def test_a_wish_is_a_floor_and_has_a_limit(time: Time, wished_s: float | None, waited_s: float) -> None:
    breaker = Breaker(clock=time, backoff=Backoff(random=Latest(), base_s=1))
    breaker.failed(wished_s)
    assert breaker.delay_s() == pytest.approx(waited_s)
