"""What the uplink tells about itself, and its log lines: one when something changes, none while it stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.contract.times import Clock
from appliance.store.buffer import Rejection
from appliance.uplink.retry import BreakerState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UplinkState:
    """How it stands with Odoo; the default is that of an appliance without one. Times in ms since 1970."""

    configured: bool = False
    reachable: bool | None = None
    """Whether the last attempt was answered in the words of the contract; ``None``: there was none yet."""
    alarm: str | None = None
    """What people must mend; nothing is sent meanwhile, nothing is lost."""
    breaker: BreakerState = "closed"
    last_success_at_ms: int | None = None
    last_error: str | None = None
    last_error_at_ms: int | None = None
    batches: int = 0
    """Batches with a result for each message since the start."""
    settled: int = 0
    """Messages that Odoo has, since the start."""
    parked: int = 0
    """Messages that Odoo refused for good, since the start."""
    failures: int = 0
    """Attempts that went wrong since the start."""
    consecutive_failures: int = 0
    next_attempt_in_s: float | None = None
    """``None``: at once."""
    left_behind: bool = False
    """Whether messages wait to be sent again that others have overtaken."""
    drain_s: float | None = None
    """Estimated seconds until nothing waits; ``None`` where nobody can know: Odoo takes nothing, has put messages off,
    or more comes than goes."""


class Journal:
    """Keeps the counters of :class:`UplinkState`, and logs what changes."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.reachable: bool | None = None
        self._alarm: str | None = None
        self._last_success_at_ms: int | None = None
        self._last_error: str | None = None
        self._last_error_at_ms: int | None = None
        self._batches = 0
        self._settled = 0
        self._parked = 0
        self._failures = 0

    def state(
        self,
        *,
        held: str | None,
        breaker: BreakerState,
        consecutive_failures: int,
        next_attempt_in_s: float | None,
        left_behind: bool,
        drain_s: float | None,
    ) -> UplinkState:
        """All of it at this moment."""
        return UplinkState(
            configured=True,
            reachable=self.reachable,
            alarm=held or self._alarm,
            breaker=breaker,
            last_success_at_ms=self._last_success_at_ms,
            last_error=self._last_error,
            last_error_at_ms=self._last_error_at_ms,
            batches=self._batches,
            settled=self._settled,
            parked=self._parked,
            failures=self._failures,
            consecutive_failures=consecutive_failures,
            next_attempt_in_s=next_attempt_in_s,
            left_behind=left_behind,
            drain_s=drain_s,
        )

    def answered(self) -> None:
        """Odoo gave a result for each message of a batch, or for some."""
        if self._alarm is not None or self.reachable is False:
            log.warning("Odoo takes messages again")
        self._batches += 1
        self.reachable = True
        self._alarm = None
        self._last_success_at_ms = self._clock.now_ms()

    def settled(self, done: int, parked: Sequence[Rejection]) -> None:
        """So many messages are in Odoo, and these are not and never will be."""
        self._settled += done
        self._parked += len(parked)
        if parked:
            first = parked[0]
            log.warning(
                "%d messages refused by Odoo are parked, the first is %d (%s: %s)",
                *(len(parked), first.seq, first.code, first.message),
            )

    def trouble(self, text: str) -> None:
        """Something went wrong that says nothing about Odoo as a whole."""
        self._failures += 1
        self._note(text)

    def _note(self, text: str) -> None:
        self._last_error = text
        self._last_error_at_ms = self._clock.now_ms()

    def unreachable(self, text: str) -> None:
        """There was no usable answer."""
        if self.reachable is not False:
            log.warning("messages wait for Odoo: %s", text)
        self.reachable = False
        self.trouble(text)

    def held(self, text: str) -> None:
        """The appliance itself sends nothing, for a reason that is not an answer."""
        log.error("nothing is sent to Odoo for now: %s", text)
        self._note(text)

    def alarm(self, text: str) -> None:
        """Odoo answered, and refuses the appliance as a whole."""
        if text != self._alarm:
            log.error("nothing is sent to Odoo until this is mended: %s", text)
        self.reachable = True
        self._alarm = text
        self.trouble(text)
