"""Whether the appliance's own wall clock can be believed.

A box without a battery wakes in 1970, or at the time it was switched off, and learns the time later, or never. What it
stores meanwhile says so. The clock is not believed while it shows a time before this release was made, or one that is
earlier than the newest that was ever stored here. Two things overrule the latter, because a clock that was once far
ahead would otherwise be doubted for ever: the kernel says that it is synchronised, or Odoo's time agrees with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable

from appliance.contract.times import AHEAD_TOLERANCE_MS, Clock, ClockFlag, rfc3339
from appliance.errors import StoreUnavailableError
from appliance.store.database import Database
from appliance.store.meta import newest_time, note_newest_time

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
STORE_EVERY_MS = 60_000
_TIME_ERROR = 5


def kernel_is_synchronised() -> bool:
    """Whether a time service keeps the system's clock (adjtimex(2)); ``False`` where the system does not tell."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return False
    # struct timex, all zero: nothing is set, only read
    return 0 <= int(adjtimex(ctypes.create_string_buffer(512))) < _TIME_ERROR


class GatewayClock:
    """Call :meth:`load` first, and keep :meth:`run` running. ``released_ms`` is when this release was made."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        released_ms: int,
        synchronised: Callable[[], bool] = kernel_is_synchronised,
    ) -> None:
        self.doubt: str | None = None
        """Why the clock is not believed, for people; ``None`` if it is."""
        self.changed: list[Callable[[ClockFlag], None]] = []
        """Called with what readings are to be marked with, now and whenever that changes."""
        self._database = database
        self._clock = clock
        self._released_ms = released_ms
        self._synchronised = synchronised
        self._newest_ms = 0
        self._stored_ms = 0

    async def load(self) -> None:
        """Read the newest time that was ever stored, and judge."""
        self._newest_ms = self._stored_ms = await self._database.run(newest_time)
        self.look()

    async def run(self) -> None:
        """Judge once a second, and store the newest time once a minute, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()
            await self.store()

    @property
    def flag(self) -> ClockFlag:
        """What readings are to be marked with."""
        return ClockFlag.GATEWAY if self.doubt else ClockFlag.NONE

    def look(self) -> None:
        """Judge now."""
        now_ms = self._clock.now_ms()
        doubt = None
        if now_ms < self._released_ms:
            doubt = f"it shows {rfc3339(now_ms)}, which is before this release was made"
        elif now_ms < self._newest_ms - AHEAD_TOLERANCE_MS and not self._synchronised():
            doubt = f"it shows {rfc3339(now_ms)}, but what was stored here before is as new as "
            doubt += rfc3339(self._newest_ms)
        else:
            self._newest_ms = now_ms
        self._judge(doubt)

    def agrees_with(self, odoo_ms: int) -> None:
        """Odoo has told its time: where ours agrees with it within five minutes it is right, whatever was stored."""
        now_ms = self._clock.now_ms()
        if now_ms >= self._released_ms and abs(now_ms - odoo_ms) <= AHEAD_TOLERANCE_MS:
            self._newest_ms = now_ms
            self._judge(None)

    async def store(self) -> None:
        """Store the newest time, if that is due."""
        if self.doubt is None and abs(self._newest_ms - self._stored_ms) >= STORE_EVERY_MS:
            newest_ms = self._newest_ms
            try:
                await self._database.run(lambda connection: note_newest_time(connection, newest_ms))
            except StoreUnavailableError:
                return
            self._stored_ms = newest_ms

    def _judge(self, doubt: str | None) -> None:
        was_doubted, self.doubt = self.doubt is not None, doubt
        if was_doubted == (doubt is not None):
            return
        if doubt is None:
            log.warning("the appliance's clock is believed again: it shows %s", rfc3339(self._clock.now_ms()))
        else:
            log.error("the appliance's clock is not believed: %s; readings are marked until it is right", doubt)
        for tell in self.changed:
            tell(self.flag)
