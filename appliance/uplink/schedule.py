"""Whose turn it is. One batch is in flight; three tracks share it.

*Ordered*: all kinds but telemetry, in the order of ``seq`` per device; they go first. *Live*: telemetry that came after
Odoo did. *Backlog*: telemetry that had piled up by then, oldest first. Live and backlog take turns, so that a reading
is in Odoo soon after it was taken, however much waits. What is settled is then one interval at the bottom and one at
the top; each time Odoo has been away and much has come meanwhile, one more begins, up to a bound.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from appliance.contract.odoo import StoredMessage
from appliance.contract.times import Clock
from appliance.store.buffer import Batch, Buffer
from appliance.uplink.lanes import Lane, Track
from appliance.uplink.retry import Backoff

LIVE_TURNS = 3
"""While more is live than fits into a batch, the backlog gets one turn after so many."""
MOST_RANGES = 64
"""With so many settled intervals, what came while Odoo was away stays in the live lane."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The lane that sends next; without one, when to ask again: in ``wait_s`` seconds, or when a message comes."""

    lane: Lane | None
    wait_s: float | None = None


class Schedule:
    """All tracks over one buffer; each lane may be held back for a while on its own.

    ``gather_s``: a lane sends at most one small batch of new messages in this time.
    """

    def __init__(self, *, buffer: Buffer, clock: Clock, backoff: Backoff, gather_s: float) -> None:
        self._buffer = buffer
        self._clock = clock
        self._backoff = backoff
        self._gather_s = gather_s
        self._generation = buffer.generation
        self._turn = 0
        self._served: Lane | None = None
        self._live_turns = 0
        self._ordered = Track("ordered")
        self._backlog = Track("backlog", end=0)
        self._live = Track("live")
        self._part(self._newest)

    @property
    def _newest(self) -> int:
        return self._buffer.backlog().last_seq

    @property
    def _tracks(self) -> tuple[Track, Track, Track]:
        return self._ordered, self._live, self._backlog

    @property
    def left_behind(self) -> bool:
        """Whether messages wait to be sent again that others have overtaken."""
        return any(track.left.waiting for track in self._tracks)

    def is_live(self, lane: Lane) -> bool:
        """Whether this lane's messages may be new ones."""
        return lane not in (self._backlog.ahead, self._backlog.left)

    # --- where the tracks begin and end ----------------------------------------------------------------------

    def _part(self, seq: int) -> None:
        """Telemetry up to here is backlog from now on; what comes after it is live."""
        self._backlog.end = seq
        self._live = Track("live", start=seq)

    def make_way(self, *, limit: int) -> None:
        """Odoo was away: what has piled up meanwhile, if it is more than a batch, makes way for what comes now."""
        if self._newest - self._live.ahead.passed > limit and self._buffer.backlog().settled_ranges < MOST_RANGES:
            self._part(self._newest)

    def hurry(self) -> None:
        """Nothing waits any longer because Odoo was away."""
        for track in self._tracks:
            for lane in (track.ahead, track.left):
                lane.not_before = 0.0
                lane.fruitless = 0
            track.left.passes = 0

    def refresh(self) -> bool:
        """Start anew if what the lanes hold has changed in the buffer since; whether it has."""
        if self._generation == self._buffer.generation:
            return False
        self._generation = self._buffer.generation
        self._ordered = Track("ordered")
        self._backlog = Track("backlog")
        self._part(self._live.ahead.passed)
        return True

    # --- turns -----------------------------------------------------------------------------------------------

    def next_turn(self, *, limit: int) -> Turn:
        """Who sends next; ``limit`` is how many messages are a full batch."""
        now = self._clock.monotonic()
        due = {lane: self._due_at(track, lane, limit) for track, lane in self._with_work()}
        ready = [lane for lane, due_at in due.items() if due_at <= now]
        if ready:
            return Turn(self._pick(ready, limit))
        return Turn(None, min(due.values()) - now if due else None)

    def _with_work(self) -> Iterator[tuple[Track, Lane]]:
        backlog = self._buffer.backlog()
        for track in self._tracks:
            newest = backlog.last_ordered_seq if track is self._ordered else backlog.last_seq
            if track.ahead.pieces or track.ahead.after < (newest if track.end is None else track.end):
                yield track, track.ahead
            if track.left.waiting:
                yield track, track.left

    def _due_at(self, track: Track, lane: Lane, limit: int) -> float:
        if lane is track.left or lane.pieces or track is self._backlog:
            return lane.not_before
        enough = self._new_readings() >= limit if track is self._live else lane.was_full
        return lane.not_before if enough else max(lane.not_before, lane.posted_at + self._gather_s)

    def _pick(self, ready: list[Lane], limit: int) -> Lane:
        first, live = self._ordered.ahead, self._live.ahead
        # after a batch that took all there was it steps back once: many small ones must not keep telemetry out
        if first in ready and (self._served is not first or first.was_full or len(ready) == 1):
            return first
        others = [lane for lane in ready if lane is not first]
        if live in others and self._served is live and self._live_turns < LIVE_TURNS and self._new_readings() >= limit:
            return live
        return min(others, key=lambda lane: lane.turn)

    def _new_readings(self) -> int:
        return max(self._newest - self._live.ahead.after, 0)

    def serve(self, lane: Lane) -> None:
        """This lane has its turn now."""
        self._turn += 1
        lane.turn = self._turn
        lane.posted_at = self._clock.monotonic()
        self._live_turns = self._live_turns + 1 if lane is self._served else 1
        self._served = lane

    # --- taking and leaving ----------------------------------------------------------------------------------

    async def fill(self, lane: Lane, *, limit: int, max_bytes: int, alone: Collection[int]) -> bool:
        """Take the lane's next messages; ``alone`` names those that must not share a batch. Whether there are any.

        ``StoreUnavailableError`` if the buffer cannot be read now.
        """
        track = self._track_of(lane)
        left = track.left
        if lane is not left:
            return lane.fill(await self._take(track, lane, track.end, limit, max_bytes), limit=limit)
        if left.up_to is None:
            left.begin_pass(track.start, track.ahead)
        batch = await self._take(track, lane, left.up_to, limit, max_bytes)
        filled = lane.fill(batch, limit=limit, up_to=left.up_to, alone=alone)
        if not filled and left.after >= (left.up_to or 0):
            left.end_pass(track.ahead)
            self._hold(left, left.passes + 1)
        return filled

    async def _take(self, track: Track, lane: Lane, up_to: int | None, limit: int, max_bytes: int) -> Batch:
        if track is self._ordered:
            return await self._buffer.take_ordered(after=lane.after, limit=limit, max_bytes=max_bytes)
        return await self._buffer.take(
            after=lane.after, up_to=up_to, limit=limit, max_bytes=max_bytes, readings_only=True
        )

    def leave(self, lane: Lane, messages: Sequence[StoredMessage]) -> None:
        """Let these messages wait for the next pass over what was left behind."""
        if not messages:
            return
        track = self._track_of(lane)
        if lane is track.ahead:
            track.ahead.leave(messages)
        else:
            track.left.leave(messages)
        if not track.left.waiting:
            track.left.waiting = True
            self._hold(track.left, 1)

    def answered(self, lane: Lane, *, accepted: bool) -> None:
        """Odoo answered for the lane's piece; ``accepted``: it took or parked one message at least."""
        left = self._track_of(lane).left
        if lane is left:
            left.settled_some = left.settled_some or accepted
        elif accepted:
            lane.fruitless = 0
        else:
            # Odoo takes nothing at all: do not run through the whole backlog with it
            lane.fruitless += 1
            self._hold(lane, lane.fruitless)

    def _hold(self, lane: Lane, failures: int) -> None:
        lane.not_before = self._clock.monotonic() + self._backoff.delay_s(failures)

    def _track_of(self, lane: Lane) -> Track:
        return next(track for track in self._tracks if lane in (track.ahead, track.left))
