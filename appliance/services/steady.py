"""A clock for deadlines that outlive the process: it neither runs back nor jumps.

Within a process it moves with the monotonic clock. Across restarts it moves with the wall clock, because nothing else
runs while we do not. What the wall clock jumped while we ran (boxes wake in 1970 and learn the time later) is an offset
that the owner keeps on disk. A wall clock that was put back while we were down is recognised by the latest time that
the file holds: the steady clock goes on from there. So no jump that we see expires anything, and no command lives
longer than it was given. A jump ahead while we are down looks like a long stop, and commands expire: a machine must
not move because of an order from this morning.
"""

from __future__ import annotations

from appliance.contract.times import Clock
from appliance.store.outbox import Moment

JUMP_MS = 2000
"""Smaller differences between the clocks are drift and are not written down."""


class SteadyClock:
    """Call :meth:`resume` first, with what the disk knows."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._base_ms = 0
        self._offset_ms = 0
        self._stored_offset_ms = 0

    def resume(self, *, offset_ms: int, latest_ms: int) -> None:
        """Go on after a restart: ``offset_ms`` as it was last stored, ``latest_ms`` the latest stored steady time."""
        wall_ms = self._clock.now_ms()
        steady_ms = max(wall_ms - offset_ms, latest_ms)
        self._base_ms = steady_ms - self._monotonic_ms()
        self._stored_offset_ms = offset_ms
        self._offset_ms = wall_ms - steady_ms

    def read(self) -> Moment:
        """Now, by both clocks."""
        moment = Moment(self._clock.now_ms(), self._base_ms + self._monotonic_ms())
        if abs(moment.wall_ms - moment.steady_ms - self._offset_ms) > JUMP_MS:
            self._offset_ms = moment.wall_ms - moment.steady_ms
        return moment

    def offset_to_store(self) -> int | None:
        """The offset, if it must be stored anew (asked once each time)."""
        if self._offset_ms == self._stored_offset_ms:
            return None
        self._stored_offset_ms = self._offset_ms
        return self._offset_ms

    def _monotonic_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)
