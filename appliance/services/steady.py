"""A clock for deadlines that outlive the process: it neither runs back nor jumps.

Within one start of the machine it moves with the monotonic clock, also across restarts of the process (crashes,
upgrades). So a jump of the wall clock (boxes wake in 1970 and learn the time later) neither expires a command nor lets
it live longer.

Across a start of the machine it moves with the wall clock, corrected by what that was seen to jump. Where the wall
clock is behind what the file says it has been, as on a box without a battery, nobody knows how long the machine was
off: :meth:`SteadyClock.resume` says so, and the owner must take old orders for too old. A machine must not move because
of an order from this morning.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

from appliance.contract.times import Clock
from appliance.store.outbox import ClockState, Moment

JUMP_MS = 2000
"""Smaller differences between the clocks are drift and are not written down."""


def machine_start() -> int:
    """A number that changes when the machine starts; 0 where the system does not tell."""
    try:
        return crc32(Path("/proc/sys/kernel/random/boot_id").read_bytes())
    except OSError:
        return 0


class SteadyClock:
    """Call :meth:`resume` first, with what the disk knows. ``machine`` is as from :func:`machine_start`."""

    def __init__(self, clock: Clock, *, machine: int) -> None:
        self._clock = clock
        self._stored = ClockState(0, 0, 0)
        self._state = ClockState(machine, 0, 0)

    def resume(self, stored: ClockState, *, latest_ms: int) -> bool:
        """Go on from what was stored; ``latest_ms`` is the latest steady time in the file.

        Returns whether it is known how much time has passed since then.
        """
        wall_ms, monotonic_ms = self._clock.now_ms(), self._monotonic_ms()
        machine = self._state.machine
        same_start = bool(machine) and stored.machine == machine and monotonic_ms + stored.base_ms >= latest_ms
        by_wall_ms = wall_ms - stored.offset_ms
        known = same_start or by_wall_ms >= latest_ms
        steady_ms = monotonic_ms + stored.base_ms if same_start else max(by_wall_ms, latest_ms)
        self._stored = stored
        self._state = ClockState(machine, steady_ms - monotonic_ms, wall_ms - steady_ms)
        return known

    def read(self) -> Moment:
        """Now, by both clocks."""
        moment = Moment(self._clock.now_ms(), self._monotonic_ms() + self._state.base_ms)
        offset_ms = moment.wall_ms - moment.steady_ms
        if abs(offset_ms - self._state.offset_ms) > JUMP_MS:
            self._state = self._state._replace(offset_ms=offset_ms)
        return moment

    def to_store(self) -> ClockState | None:
        """What must be stored anew, if anything; asked once each time."""
        if self._state == self._stored:
            return None
        self._stored = self._state
        return self._state

    def _monotonic_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)
