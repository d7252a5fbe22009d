"""Whether anything may be sent now, and the pump's sleep until it may."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from appliance.contract.times import Clock
from appliance.uplink.retry import Breaker

_PAST = float("-inf")


class Barrier:
    """Closed by the breaker after failures, for a while by an alarm, or held by somebody with a reason."""

    def __init__(self, *, breaker: Breaker, clock: Clock, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._breaker = breaker
        self._clock = clock
        self._sleep = sleep
        self._reason: str | None = None
        self._is_alarm = False
        self._held_until = _PAST
        self._alarm_until = _PAST
        self._woken = asyncio.Event()

    @property
    def held(self) -> str | None:
        """Why nothing is sent, where somebody holds the barrier."""
        return self._reason if self._clock.monotonic() < self._held_until else None

    @property
    def alarm_text(self) -> str | None:
        """The same, where people must know it."""
        return self.held if self._is_alarm else None

    def hold(self, reason: str, *, seconds: float = math.inf, alarm: bool = True) -> None:
        """Keep it closed until :meth:`release`, or for so long; ``alarm``: people must know the reason."""
        self._reason, self._is_alarm = reason, alarm
        self._held_until = self._clock.monotonic() + seconds
        self._woken.set()

    def release(self) -> None:
        """Nobody holds it any more."""
        self._held_until = _PAST
        self._woken.set()

    def alarm(self, seconds: float) -> None:
        """People must mend something: look again after so long."""
        self._alarm_until = self._clock.monotonic() + seconds

    def answered(self) -> None:
        """There is nothing to mend."""
        self._alarm_until = _PAST

    def hurry(self) -> None:
        """Do not wait out the breaker's back-off."""
        self._breaker.hurry()
        self._woken.set()

    def closed_s(self) -> float:
        """Seconds until something may be sent, 0 if it may now, infinite while it is held without an end."""
        until = max(self._held_until, self._alarm_until) - self._clock.monotonic()
        return max(until, self._breaker.delay_s(), 0.0)

    def listen(self) -> None:
        """From here on, whatever changes the barrier ends the next :meth:`nap`."""
        self._woken.clear()

    async def nap(self, seconds: float, *, news: Callable[[], Awaitable[None]] | None = None) -> None:
        """Sleep until the barrier changes, there is ``news``, or ``seconds`` have passed (infinite: no such end)."""
        waits: list[Awaitable[object]] = [self._woken.wait()]
        if seconds < math.inf:
            waits.append(self._sleep(seconds))
        if news is not None:
            waits.append(news())
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
