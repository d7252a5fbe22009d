"""The pump: what waits in the buffer goes to Odoo, one batch at a time, until Odoo has answered for every message.

Exactly once needs little of it: the keys ``(epoch, seq)`` come from the buffer and never change, a message is settled
only after Odoo's answer for it, and Odoo answers a repeat with ``duplicate``. Being stopped at any moment is therefore
harmless. The rest of this module is about not being held up (contract, "Retry rules").
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from appliance.contract.odoo import BatchResult, Sender, encode_batch, encode_message
from appliance.contract.sync import BatchLimits
from appliance.contract.times import Clock
from appliance.errors import (
    OdooAlarmError,
    OdooRefusedError,
    OdooTooLargeError,
    OdooUnavailableError,
    StoreUnavailableError,
)
from appliance.store.buffer import Buffer, Rejection
from appliance.uplink.barrier import Barrier
from appliance.uplink.client import OdooClient
from appliance.uplink.drain import DrainEstimate
from appliance.uplink.lanes import Lane
from appliance.uplink.progress import Progress
from appliance.uplink.retry import Backoff
from appliance.uplink.schedule import Schedule
from appliance.uplink.sizes import BatchSize
from appliance.uplink.state import Journal, UplinkState
from appliance.uplink.verdicts import Suspects, outcome

STORE_RETRY_S = 1.0
BATCH_HEAD_BYTES = 256
ENCODED_AT_A_TIME = 250
"""Messages, in about 0.6 ms; then whatever else happens on the event loop has its turn."""


@dataclass(frozen=True, slots=True)
class PumpLimits:
    """How much is sent at a time, and how patient the pump is."""

    batch_messages: int = 500
    batch_bytes: int = 1_000_000
    """Largest body; below what proxies allow by default (1 MiB). A single larger message is sent all the same."""
    gather_s: float = 0.1
    """At most one small batch in this time: a request costs Odoo as much as dozens of readings."""
    live_age_s: float = 30.0
    """What was received longer ago is marked as backlog, whichever lane it goes by."""
    alarm_probe_s: float = 60.0
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0
    """For messages that are sent again; for requests see :class:`appliance.uplink.retry.Breaker`."""
    tries: int = 3
    """A message that Odoo refuses, alone in its batch, so many times is parked."""
    failures_alone: int = 3
    """A message that gets no usable answer, alone in its batch, so many times lets others go first."""
    refusals_in_a_row: int = 300
    """So many refusals with nothing accepted in between are not the messages' fault: alarm, park no more."""


class Pump:
    """Sends what waits. :meth:`run` is a task that its owner cancels; :meth:`state` may be asked at any time."""

    def __init__(
        self,
        *,
        buffer: Buffer,
        client: OdooClient,
        gateway_uid: str,
        clock: Clock | None = None,
        random: Random | None = None,
        limits: PumpLimits | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_work: Callable[[], None] | None = None,
        on_behind: Callable[[], None] | None = None,
    ) -> None:
        """``on_work``: an answer said that Odoo has work for the appliance.

        ``on_behind``: Odoo knows less than it once confirmed, is another database, or has another copy of this
        appliance in its place (409). Nothing is sent until :meth:`release`, or for a minute; who is called finds out,
        and sees to it that Odoo gets what it lost (:meth:`Buffer.resend`). Without it the pump does that by itself.
        """
        self._on_work = on_work
        self._on_behind = on_behind
        self._buffer = buffer
        self._client = client
        self._breaker = client.breaker
        self._barrierway_uid = gateway_uid
        self._clock = clock = clock or Clock()
        self._limits = limits = limits or PumpLimits()
        self._sleep = sleep
        self.progress = Progress(clock)
        self._barrier = Barrier(breaker=client.breaker, clock=clock, sleep=sleep)
        backoff = Backoff(random=random, base_s=limits.backoff_base_s, cap_s=limits.backoff_cap_s)
        self._schedule = Schedule(buffer=buffer, clock=clock, backoff=backoff, gather_s=limits.gather_s)
        self._size = BatchSize(messages=limits.batch_messages, body_bytes=limits.batch_bytes, clock=clock)
        self._suspects = Suspects(tries=limits.tries, in_a_row=limits.refusals_in_a_row)
        self._journal = Journal(clock=clock)
        self._drain = DrainEstimate(clock=clock)
        self._sender: Sender | None = None
        self._was_away = False
        self._lost: tuple[str, int] | None = None

    # --- what others ask of it -------------------------------------------------------------------------------

    def hold(self, reason: str, *, alarm: bool = True) -> None:
        """Send nothing until :meth:`release`, but for what is on its way; ``alarm``: people must know ``reason``."""
        self._hold(reason, alarm=alarm)

    def release(self) -> None:
        """Send again."""
        self._barrier.release()

    def try_now(self) -> None:
        """Odoo has just answered somebody else: do not wait out the back-off. Its own wishes count, and alarms do."""
        if self._journal.reachable is False:
            self._schedule.hurry()
            self._barrier.hurry()

    def use_sender(self, sender: Sender | None) -> None:
        """Say in each batch who sends it, and to which database."""
        self._sender = sender

    def use_limits(self, limits: BatchLimits) -> None:
        """Send no larger batches than Odoo says it takes."""
        self._size.limit(messages=limits.messages, body_bytes=limits.body_bytes)

    def state(self) -> UplinkState:
        """What to tell people and programs."""
        closed_s = self._barrier.closed_s()
        drains = self._journal.reachable and self._barrier.held is None and not self._schedule.left_behind
        waiting = self._buffer.backlog().waiting
        return self._journal.state(
            held=self._barrier.alarm_text,
            breaker=self._breaker.state,
            consecutive_failures=self._breaker.failures,
            next_attempt_in_s=closed_s if 0 < closed_s < math.inf else None,
            left_behind=self._schedule.left_behind,
            drain_s=self._drain.seconds(waiting, at_once=self._size.messages) if drains or not waiting else None,
        )

    # --- sending ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            self.progress.step()
            self._barrier.listen()
            if self._lost is not None:
                await self._resend(*self._lost)
            closed_s = self._barrier.closed_s()
            if closed_s > 0:
                await self._nap(closed_s)
                continue
            self._schedule.refresh()
            newest = self._buffer.backlog().last_seq
            turn = self._schedule.next_turn(limit=self._size.messages)
            if turn.lane is not None:
                async with self._buffer.in_flight:
                    await self._step(turn.lane)
            elif turn.wait_s is not None and turn.wait_s <= self._limits.gather_s:
                await self._nap(turn.wait_s)
            else:
                wait_s = math.inf if turn.wait_s is None else turn.wait_s
                await self._nap(wait_s, news=partial(self._buffer.wait_for_messages, newest))

    async def _nap(self, seconds: float, *, news: Callable[[], Awaitable[None]] | None = None) -> None:
        self.progress.sleep()
        await self._barrier.nap(seconds, news=news)

    async def _step(self, lane: Lane) -> None:
        if self._schedule.refresh() or self._barrier.held is not None:
            return
        if lane.pieces or await self._fill(lane):
            self._schedule.serve(lane)
            await self._send(lane)

    async def _fill(self, lane: Lane) -> bool:
        try:
            return await self._schedule.fill(
                lane, limit=self._size.messages, max_bytes=self._size.body_bytes, alone=self._suspects.seqs
            )
        except StoreUnavailableError as error:
            self._journal.trouble(f"the store cannot be read: {error}")
            await self._sleep(STORE_RETRY_S)
            return False

    async def _send(self, lane: Lane) -> None:
        # a piece may go as a whole, and then the next one is looked at
        while lane.pieces and (stuck := lane.drop_stuck()):
            self._schedule.leave(lane, stuck)
        if not lane.pieces:
            return
        body = await self._body(lane)
        try:
            self._breaker.begin()
        except OdooUnavailableError:
            return  # somebody else's probe is under way; the breaker says how long to wait
        begun = self._clock.monotonic()
        try:
            result = await self._client.post_batch(body)
        except OdooUnavailableError as error:
            self._breaker.failed(error.retry_after_s)
            self._unanswered(lane, str(error))
        except OdooTooLargeError as error:
            await self._too_large(lane, len(body), error)
        except OdooRefusedError as error:
            await self._refused(lane, error)
        except OdooAlarmError as error:
            self._breaker.succeeded()
            self._alarm(str(error))
            lane.split(1)  # a probe once a minute, for days perhaps, should be small
        except BaseException:
            self._breaker.released()
            raise
        else:
            self._breaker.succeeded()
            await self._answered(lane, len(body), self._clock.monotonic() - begun, result)

    async def _body(self, lane: Lane) -> bytes:
        """The lane's next piece as a request; a piece that is too long is split."""
        oldest_live_ms = sys.maxsize
        if self._schedule.is_live(lane):
            oldest_live_ms = self._clock.now_ms() - int(self._limits.live_age_s * 1000)
        messages: list[bytes] = []
        room = self._size.body_bytes - BATCH_HEAD_BYTES
        for message in lane.pieces[-1]:
            encoded = encode_message(message, "live" if message.received_at_ms >= oldest_live_ms else "backlog")
            room -= len(encoded) + 1
            if room < 0 and messages:
                lane.split(len(messages))
                break
            messages.append(encoded)
            if len(messages) % ENCODED_AT_A_TIME == 0:
                await asyncio.sleep(0)
        batch = lane.batch
        return encode_batch(
            gateway=self._barrierway_uid,
            epoch=batch.epoch,
            floor=batch.floor,
            settled=batch.settled,
            messages=messages,
            stored=batch.stored,
            below=batch.below,
            sender=self._sender,
        )

    async def _answered(self, lane: Lane, body_bytes: int, seconds: float, result: BatchResult) -> None:
        piece = lane.pieces[-1]
        verdict = outcome(piece, result)
        accepted = bool(verdict.done or verdict.parked)
        is_back, self._was_away = self._was_away, False
        if is_back:
            self._schedule.hurry()
        self._journal.answered()
        self._barrier.answered()
        self._size.accepted(len(piece), body_bytes, seconds)
        if accepted:
            await self._settle(verdict.done, verdict.parked)
        if result.work and self._on_work is not None:
            self._on_work()
        self._suspects.answered(accepted=accepted)
        self._schedule.answered(lane, accepted=accepted)
        lane.drop()
        self._schedule.leave(lane, verdict.left)
        if is_back:
            self._schedule.make_way(limit=self._size.most_messages)
        self._drain.note(self._buffer.backlog().waiting)

    async def _settle(self, done: Sequence[int], parked: Sequence[Rejection]) -> None:
        """Tell the buffer. As long as it cannot commit nothing else is sent: what for, if it cannot be remembered."""
        while True:
            try:
                await self._buffer.settle(done, parked)
                break
            except StoreUnavailableError as error:
                self._journal.trouble(f"the store cannot be written: {error}")
                self.progress.step()
                await self._sleep(STORE_RETRY_S)
        self._suspects.forget([*done, *(rejection.seq for rejection in parked)])
        self._journal.settled(len(done), parked)

    # --- trouble ---------------------------------------------------------------------------------------------

    def _unanswered(self, lane: Lane, text: str) -> None:
        piece = lane.pieces[-1]
        self._journal.unreachable(text)
        if self._breaker.state != "closed":
            self._went_away()
        self._size.failed(len(piece))
        if len(piece) > 1:
            lane.split(len(piece) // 2)
            return
        lane.failures += 1
        if lane.failures >= self._limits.failures_alone:
            self._schedule.leave(lane, lane.drop())

    async def _too_large(self, lane: Lane, body_bytes: int, error: OdooTooLargeError) -> None:
        piece = lane.pieces[-1]
        self._size.too_large(body_bytes, certain=error.certain)
        if len(piece) > 1:
            self._breaker.released()
            self._journal.trouble(str(error))
            lane.split(len(piece) // 2)
        elif error.certain:
            self._breaker.succeeded()
            # whether the message is at fault or a limit somewhere shows when others pass
            await self._culprit(lane, "too_large", str(error), needs_proof=True)
        else:
            self._breaker.failed()
            self._unanswered(lane, str(error))

    async def _refused(self, lane: Lane, error: OdooRefusedError) -> None:
        text = f"Odoo refuses a request ({error.status} {error.code}: {error})"
        if error.status == 409:
            self._disagrees(lane, error, text)
            return
        self._breaker.succeeded()
        self._journal.trouble(text)
        piece = lane.pieces[-1]
        if len(piece) > 1:
            lane.split(len(piece) // 2)
        else:
            await self._culprit(lane, error.code, str(error), needs_proof=False)

    def _disagrees(self, lane: Lane, error: OdooRefusedError, text: str) -> None:
        """Odoo is another one than this appliance thinks, or the other way round."""
        if error.code == "behind":
            text = f"Odoo knows less than it once confirmed, it may have been restored from a backup: {text}"
        if self._on_behind is not None:
            self._breaker.succeeded()
            self._hold(text, seconds=self._limits.alarm_probe_s)
            self._on_behind()
        elif error.code == "behind":
            self._breaker.failed()
            self._unanswered(lane, text)
            self._lost = (lane.batch.epoch, error.floor or 1)
        else:
            self._breaker.succeeded()
            self._alarm(text)
            lane.split(1)

    def _hold(self, reason: str, *, seconds: float = math.inf, alarm: bool = True) -> None:
        if alarm and reason != self._barrier.held:
            self._journal.held(reason)
        self._went_away()
        self._barrier.hold(reason, seconds=seconds, alarm=alarm)

    async def _resend(self, epoch: str, from_seq: int) -> None:
        """Give Odoo again what it has lost (contract, "Exactly once")."""
        try:
            await self._buffer.resend(epoch, from_seq)
            self._lost = None
        except StoreUnavailableError as error:
            self._journal.trouble(f"the store cannot be changed: {error}")
            await self._sleep(STORE_RETRY_S)

    async def _culprit(self, lane: Lane, code: str, text: str, *, needs_proof: bool) -> None:
        """A message was refused alone: it is tried again later, and parked in the end."""
        message = lane.pieces[-1][0]
        verdict = self._suspects.refused(message.seq, needs_proof=needs_proof)
        if verdict == "alarm":
            self._alarm(f"Odoo refuses every message ({code}: {text})")
            self._schedule.leave(lane, lane.drop_all())
            return
        if verdict == "park":
            await self._settle((), [Rejection(message.seq, code, text)])
            self._schedule.answered(lane, accepted=True)
            lane.drop()
        else:
            self._schedule.leave(lane, lane.drop())

    def _alarm(self, text: str) -> None:
        self._went_away()
        self._journal.alarm(text)
        self._barrier.alarm(self._limits.alarm_probe_s)

    def _went_away(self) -> None:
        """Odoo takes nothing for a while: what comes meanwhile piles up."""
        self._was_away = True
        self._drain.reset()
