"""Times on the wire: RFC 3339 in UTC with milliseconds; inside, integer milliseconds since 1970."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from enum import IntFlag
from functools import lru_cache

AHEAD_TOLERANCE_MS = 5 * 60 * 1000
EARLIEST_MS = 1_577_836_800_000  # 2020-01-01T00:00:00Z
"""A device's clock that shows an earlier time was never set: they begin in 1970, 2000, or when a compiler was young."""
MILLISECONDS_ABOVE = 100_000_000_000
"""A numeric device time above this counts milliseconds, below it seconds."""
_LATEST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last instant RFC 3339 can write


class Clock:
    """The two clocks of this machine; tests hand in their own. Order comes from ``seq``, never from here."""

    def now_ms(self) -> int:
        """Wall clock in milliseconds since 1970; it may jump."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that only move forward; for ages and durations."""
        return time.monotonic()


class ClockFlag(IntFlag):
    """What was found out about a reading's own time; stored with the reading."""

    NONE = 0
    DEVICE = 1
    """The device's own time is used."""
    AHEAD = 2
    """The device's time was more than five minutes ahead of the gateway's and is not used."""
    UNREADABLE = 4
    """The device sent a ``ts`` that is no time; it is not used."""
    OLD = 8
    """The device's time is before 2020: its clock was never set. It is not used."""
    GATEWAY = 16
    """The gateway's own clock could not be believed when it received the reading."""


_NOT_USED = int(ClockFlag.AHEAD | ClockFlag.OLD)


def time_of(at_ms: int | None, received_at_ms: int, flags: int) -> int:
    """The time of a message: the device's own where it may be used, else when it was received; milliseconds."""
    return received_at_ms if at_ms is None or flags & _NOT_USED else at_ms


def clock_fields(at_ms: int | None, flags: int) -> str:
    """What a batch says of a message's clocks, as JSON fields with a comma before each; mostly nothing or "ok"."""
    said = _SAID.get(flags & 15, "")
    if at_ms is not None and flags & _NOT_USED:
        said += f',"device_at":"{rfc3339(at_ms)}"'
    return said + ',"gateway_clock":"implausible"' if flags & ClockFlag.GATEWAY else said


_SAID = {
    int(ClockFlag.DEVICE): ',"clock":"ok"',
    int(ClockFlag.AHEAD): ',"clock":"ahead"',
    int(ClockFlag.OLD): ',"clock":"old"',
    int(ClockFlag.UNREADABLE): ',"clock":"unreadable"',
}


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(ms: int) -> str:
    """Milliseconds since 1970 as ``2026-11-22T10:00:00.000Z``."""
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


def parse_rfc3339(text: str) -> int:
    """RFC 3339 text as milliseconds since 1970; a time without zone is UTC. ``ValueError`` if it is none."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def device_time(ts: object, received_at_ms: int) -> tuple[int | None, ClockFlag]:
    """Judge a device's own ``ts`` against the gateway's clock.

    Returns it in milliseconds, ``None`` where it is no time at all, and the verdict: unless that is ``DEVICE`` the
    gateway's own time must serve (:func:`time_of`).
    """
    ms: int
    if isinstance(ts, str):
        try:
            ms = parse_rfc3339(ts)
        except (ValueError, OverflowError):
            return None, ClockFlag.UNREADABLE
    # the comparison also keeps out what is infinite, or no number, or an integer too large for a float
    elif isinstance(ts, (int, float)) and not isinstance(ts, bool) and abs(ts) <= _LATEST_MS:
        ms = round(ts if ts > MILLISECONDS_ABOVE else ts * 1000)
    else:
        return None, ClockFlag.UNREADABLE
    if not 0 <= ms <= _LATEST_MS:
        return None, ClockFlag.UNREADABLE
    if ms > received_at_ms + AHEAD_TOLERANCE_MS:
        return ms, ClockFlag.AHEAD
    if ms < EARLIEST_MS:
        return ms, ClockFlag.OLD
    return ms, ClockFlag.DEVICE
