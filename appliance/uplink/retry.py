"""When to try again: exponential back-off with full jitter, a circuit breaker, and ``Retry-After``.

Full jitter (a delay drawn evenly between nothing and the exponential bound) spreads a fleet of gateways that lost the
same Odoo at the same moment: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from random import Random, SystemRandom
from typing import Literal

from appliance.contract.times import Clock
from appliance.errors import OdooUnavailableError

RETRY_AFTER_LIMIT_S = 600.0
"""A longer ``Retry-After`` is cut to this: one wrong header must not silence a gateway for days."""

BreakerState = Literal["closed", "open", "half_open"]


class Backoff:
    """Delays in seconds by the number of failures in a row: even in ``[0, min(cap_s, base_s · 2^(failures-1))]``."""

    def __init__(self, *, random: Random | None = None, base_s: float = 0.5, cap_s: float = 60.0) -> None:
        self._random = random or SystemRandom()
        self._base_s = base_s
        self._cap_s = cap_s

    def delay_s(self, failures: int) -> float:
        """How long to wait after this many failures in a row (at least one)."""
        doublings = min(failures - 1, 32)
        return self._random.uniform(0.0, min(self._cap_s, self._base_s * 2**doublings))


class Breaker:
    """Keeps requests from an Odoo that does not answer.

    Who sends asks :meth:`delay_s`, then reports with :meth:`begin` and :meth:`succeeded`, :meth:`failed` or
    :meth:`released`. It waits after each failure; from ``threshold`` failures in a row the breaker is open, everybody
    else fails at once by :meth:`check`, and when the wait is over a single probe may go.
    """

    def __init__(self, *, clock: Clock | None = None, backoff: Backoff | None = None, threshold: int = 5) -> None:
        self._clock = clock or Clock()
        self._backoff = backoff or Backoff()
        self._threshold = threshold
        self._next_attempt_at = 0.0
        self._wished_until = 0.0
        self._probing = False
        self.failures = 0
        """Failures in a row."""

    @property
    def state(self) -> BreakerState:
        """``closed``: all may send; ``open``: nobody; ``half_open``: one probe is under way."""
        if self.failures < self._threshold:
            return "closed"
        return "half_open" if self._probing else "open"

    def delay_s(self) -> float:
        """Seconds until the next attempt is due; 0 if it is. While another one probes: a second, then ask again."""
        return max(self._next_attempt_at - self._clock.monotonic(), 1.0 if self.state == "half_open" else 0.0)

    def check(self) -> None:
        """For requests that are no probe: :class:`OdooUnavailableError` at once unless the breaker is closed."""
        if self.state != "closed":
            raise OdooUnavailableError("Odoo does not answer at present", retry_after_s=max(self.delay_s(), 1.0))

    def begin(self) -> None:
        """The attempt that was due begins; while the breaker is open it is the only one."""
        if self.state == "half_open":
            raise OdooUnavailableError("Odoo is being probed by another request", retry_after_s=1.0)
        self._probing = True

    def succeeded(self) -> None:
        """Odoo answered in the words of the contract."""
        self._probing = False
        self.failures = 0
        self._next_attempt_at = 0.0

    def failed(self, retry_after_s: float | None = None) -> None:
        """It did not; ``retry_after_s`` is its own wish, the least that is waited."""
        self._probing = False
        self.failures += 1
        now = self._clock.monotonic()
        self._wished_until = now + (bounded_wait_s(retry_after_s) or 0.0)
        self._next_attempt_at = max(now + self._backoff.delay_s(self.failures), self._wished_until)

    def hurry(self) -> None:
        """Odoo answers others: the next attempt is due now, unless Odoo wished otherwise itself."""
        self._next_attempt_at = min(self._next_attempt_at, max(self._wished_until, self._clock.monotonic()))

    def released(self) -> None:
        """The attempt was given up before it had an outcome."""
        self._probing = False


def parse_retry_after(value: str | None, *, date: str | None, now_ms: int) -> float | None:
    """``Retry-After`` (RFC 9110 §10.2.3: seconds or an HTTP date) in seconds, between 0 and the limit; else ``None``.

    A date is read against the answer's own ``Date`` where there is one: a gateway's clock may be years off.
    """
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else _seconds_until(value, date, now_ms)
    except (ValueError, OverflowError):
        return None
    return bounded_wait_s(seconds)


def bounded_wait_s(seconds: float | None) -> float | None:
    """Somebody else's wish how long to wait, within reason."""
    if seconds is None or not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT_S)


def _seconds_until(value: str, date: str | None, now_ms: int) -> float:
    now_s = _http_date_s(date) if date else now_ms / 1000
    return _http_date_s(value) - now_s


def _http_date_s(text: str) -> float:
    moment = parsedate_to_datetime(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()
