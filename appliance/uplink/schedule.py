"""Whose turn it is: takes messages from the buffer into the two lanes, and waits when there is nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

from appliance.contract.odoo import StoredMessage
from appliance.contract.times import Clock
from appliance.store.buffer import Buffer
from appliance.uplink.lanes import AheadLane, Lane, LeftLane
from appliance.uplink.retry import Backoff


class Schedule:
    """Both lanes over one buffer. The lanes take turns; each may be held back for a while on its own."""

    def __init__(
        self, *, buffer: Buffer, clock: Clock, backoff: Backoff, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._buffer = buffer
        self._clock = clock
        self._backoff = backoff
        self._sleep = sleep
        self._generation = buffer.generation
        self._start_anew()

    def _start_anew(self) -> None:
        self._ahead = AheadLane()
        self._left = LeftLane()
        self._served: Lane = self._left

    @property
    def left_behind(self) -> bool:
        """Whether messages wait to be sent again that others have overtaken."""
        return self._left.waiting

    def refresh(self) -> bool:
        """Start anew if what the lanes hold has changed in the buffer since; whether it has."""
        if self._generation == self._buffer.generation:
            return False
        self._generation = self._buffer.generation
        self._start_anew()
        return True

    def choose(self) -> Lane | None:
        """The lane that sends next, ``None`` if neither can now."""
        now = self._clock.monotonic()
        ready = [lane for lane in self._with_work() if now >= lane.not_before]
        if len(ready) == 2:
            return ready[0] if self._served is ready[1] else ready[1]
        return ready[0] if ready else None

    def serve(self, lane: Lane) -> None:
        """This lane has its turn now."""
        self._served = lane

    def may_gather(self, lane: Lane, messages: int) -> bool:
        """Whether waiting a moment could make this lane's next batch larger, up to this many messages."""
        return lane is self._ahead and not lane.pieces and self._new_messages() < messages

    async def idle(self) -> None:
        """Wait until a lane may go on, or a message comes where the first lane has none."""
        lanes = self._with_work()
        if not lanes:
            await self._buffer.wait_for_messages(self._ahead.after)
            return
        delay_s = max(min(lane.not_before for lane in lanes) - self._clock.monotonic(), 0.0)
        if self._ahead in lanes:
            await self._sleep(delay_s)
        else:
            await self._news_within(delay_s)

    async def fill(self, lane: Lane, *, limit: int, max_bytes: int, alone: Collection[int]) -> bool:
        """Take the lane's next messages; ``alone`` names those that must not share a batch. Whether there are any.

        ``StoreUnavailableError`` if the buffer cannot be read now.
        """
        if lane is self._left and self._left.up_to is None:
            self._left.begin_pass(self._ahead)
        batch = await self._buffer.take(after=lane.after, limit=limit, max_bytes=max_bytes)
        if lane is self._ahead:
            return lane.fill(batch)
        filled = lane.fill(batch, up_to=self._left.up_to, alone=alone)
        if not filled:
            self._left.end_pass(self._ahead)
            self._hold(self._left, self._left.passes + 1)
        return filled

    def leave(self, lane: Lane, messages: Sequence[StoredMessage]) -> None:
        """Let these messages wait for the next pass over what was left behind."""
        if not messages:
            return
        if lane is self._ahead:
            self._ahead.leave(messages)
        else:
            self._left.leave(messages)
        if not self._left.waiting:
            self._left.waiting = True
            self._hold(self._left, 1)

    def answered(self, lane: Lane, *, accepted: bool) -> None:
        """Odoo answered for the lane's piece; ``accepted``: it took or parked one message at least."""
        if lane is self._left:
            self._left.settled_some = self._left.settled_some or accepted
        elif accepted:
            lane.fruitless = 0
        else:
            # Odoo takes nothing at all: do not run through the whole backlog with it
            lane.fruitless += 1
            self._hold(lane, lane.fruitless)

    def _hold(self, lane: Lane, failures: int) -> None:
        lane.not_before = self._clock.monotonic() + self._backoff.delay_s(failures)

    def _new_messages(self) -> int:
        return max(self._buffer.backlog().last_seq - self._ahead.after, 0)

    def _with_work(self) -> list[Lane]:
        lanes: list[Lane] = []
        if self._ahead.pieces or self._new_messages():
            lanes.append(self._ahead)
        if self._left.waiting:
            lanes.append(self._left)
        return lanes

    async def _news_within(self, delay_s: float) -> None:
        async def nap() -> None:
            await self._sleep(delay_s)

        news = asyncio.create_task(self._buffer.wait_for_messages(self._ahead.after), name="uplink-news")
        timer = asyncio.create_task(nap(), name="uplink-timer")
        try:
            await asyncio.wait((news, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            timer.cancel()
            await asyncio.gather(news, timer, return_exceptions=True)
