"""The pump: what waits in the buffer goes to Odoo, one batch at a time, until Odoo has answered for every message.

Exactly once needs little of it: the keys ``(epoch, seq)`` come from the buffer and never change, a message is settled
only after Odoo's answer for it, and Odoo answers a repeat with ``duplicate``. Being stopped at any moment is therefore
harmless. The rest of this module is about not being held up (contract, "Retry rules").
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
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
from appliance.uplink.client import OdooClient
from appliance.uplink.lanes import Lane
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
    """What was received longer ago is marked as backlog."""
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
        self._gateway_uid = gateway_uid
        self._clock = clock or Clock()
        self._limits = limits = limits or PumpLimits()
        self._sleep = sleep
        backoff = Backoff(random=random, base_s=limits.backoff_base_s, cap_s=limits.backoff_cap_s)
        self._schedule = Schedule(buffer=buffer, clock=self._clock, backoff=backoff, sleep=sleep)
        self._size = BatchSize(messages=limits.batch_messages, body_bytes=limits.batch_bytes, clock=self._clock)
        self._suspects = Suspects(tries=limits.tries, in_a_row=limits.refusals_in_a_row)
        self._journal = Journal(clock=self._clock)
        self._last_post_at = float("-inf")
        self._alarm_until = float("-inf")
        self._held: str | None = None
        self._held_is_alarm = True
        self._held_until = float("-inf")
        self._behind: tuple[str, int] | None = None
        self._sender: Sender | None = None
        self._wake = asyncio.Event()

    # --- what others ask of it -------------------------------------------------------------------------------

    def hold(self, reason: str, *, alarm: bool = True) -> None:
        """Send nothing until :meth:`release`, but for what is on its way; ``alarm``: people must know ``reason``."""
        self._hold(reason, float("inf"), alarm=alarm)

    def release(self) -> None:
        """Send again."""
        self._held = None
        self._held_until = float("-inf")
        self._wake.set()

    def try_now(self) -> None:
        """Odoo has just answered somebody else: do not wait out the back-off. Its own wishes count, and alarms do."""
        self._breaker.hurry()
        self._wake.set()

    def use_sender(self, sender: Sender | None) -> None:
        """Say in each batch who sends it, and to which database."""
        self._sender = sender

    def use_limits(self, limits: BatchLimits) -> None:
        """Send no larger batches than Odoo says it takes."""
        self._size.limit(messages=limits.messages, body_bytes=limits.body_bytes)

    def state(self) -> UplinkState:
        """What to tell people and programs."""
        wait_s = max(self._breaker.delay_s(), max(self._alarm_until, self._held_until) - self._clock.monotonic())
        return self._journal.state(
            held=self._held if self._held_is_alarm else None,
            breaker=self._breaker.state,
            consecutive_failures=self._breaker.failures,
            next_attempt_in_s=wait_s if 0 < wait_s < float("inf") else None,
            left_behind=self._schedule.left_behind,
        )

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            if self._behind is not None:
                await self._mend(*self._behind)
            self._wake.clear()
            held_s = self._held_until - self._clock.monotonic()
            if held_s > 0:
                await self._nap(held_s)
                continue
            self._held = None
            self._schedule.refresh()
            lane = self._schedule.choose()
            if lane is None:
                await self._schedule.idle()
                continue
            pause_s = self._pause_s(lane)
            if pause_s > 0:
                await self._nap(pause_s)
                continue
            async with self._buffer.in_flight:
                await self._step(lane)

    async def _step(self, lane: Lane) -> None:
        if self._schedule.refresh() or self._held is not None:
            return
        if lane.pieces or await self._fill(lane):
            self._schedule.serve(lane)
            await self._send(lane)

    async def _nap(self, seconds: float) -> None:
        """Sleep until somebody wakes the pump."""
        sleep = asyncio.ensure_future(self._sleep(seconds) if seconds < float("inf") else asyncio.Event().wait())
        wake = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((sleep, wake), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            wake.cancel()
            await asyncio.gather(sleep, wake, return_exceptions=True)

    def _pause_s(self, lane: Lane) -> float:
        now = self._clock.monotonic()
        pause_s = max(self._breaker.delay_s(), self._alarm_until - now)
        if self._schedule.may_gather(lane, self._size.messages):
            pause_s = max(pause_s, self._last_post_at + self._limits.gather_s - now)
        return pause_s

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
        self._schedule.leave(lane, lane.drop_stuck())
        if not lane.pieces:
            return
        body = await self._body(lane)
        try:
            self._breaker.begin()
        except OdooUnavailableError:
            return  # somebody else's probe is under way; the breaker says how long to wait
        self._last_post_at = self._clock.monotonic()
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
            await self._answered(lane, len(body), result)

    async def _body(self, lane: Lane) -> bytes:
        """The lane's next piece as a request; a piece that is too long is split."""
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
            gateway=self._gateway_uid,
            epoch=batch.epoch,
            floor=batch.floor,
            settled=batch.settled,
            messages=messages,
            stored=batch.stored,
            sender=self._sender,
        )

    async def _answered(self, lane: Lane, body_bytes: int, result: BatchResult) -> None:
        piece = lane.pieces[-1]
        verdict = outcome(piece, result)
        accepted = bool(verdict.done or verdict.parked)
        self._journal.answered()
        self._alarm_until = float("-inf")
        self._size.accepted(len(piece), body_bytes)
        if accepted:
            await self._settle(verdict.done, verdict.parked)
        if result.work and self._on_work is not None:
            self._on_work()
        self._suspects.answered(accepted=accepted)
        self._schedule.answered(lane, accepted=accepted)
        lane.drop()
        self._schedule.leave(lane, verdict.left)

    async def _settle(self, done: Sequence[int], parked: Sequence[Rejection]) -> None:
        """Tell the buffer. As long as it cannot commit nothing else is sent: what for, if it cannot be remembered."""
        while True:
            try:
                await self._buffer.settle(done, parked)
                break
            except StoreUnavailableError as error:
                self._journal.trouble(f"the store cannot be written: {error}")
                await self._sleep(STORE_RETRY_S)
        self._suspects.forget([*done, *(rejection.seq for rejection in parked)])
        self._journal.settled(len(done), parked)

    # --- trouble ---------------------------------------------------------------------------------------------

    def _unanswered(self, lane: Lane, text: str) -> None:
        piece = lane.pieces[-1]
        self._journal.unreachable(text)
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
            self._hold(text, self._clock.monotonic() + self._limits.alarm_probe_s)
            self._on_behind()
        elif error.code == "behind":
            self._breaker.failed()
            self._unanswered(lane, text)
            self._behind = (lane.batch.epoch, error.floor or 1)
        else:
            self._breaker.succeeded()
            self._alarm(text)
            lane.split(1)

    def _hold(self, reason: str, until: float, *, alarm: bool = True) -> None:
        if reason != self._held and alarm:
            self._journal.held(reason)
        self._held, self._held_until, self._held_is_alarm = reason, until, alarm
        self._wake.set()

    async def _mend(self, epoch: str, from_seq: int) -> None:
        """Give Odoo again what it has lost (contract, "Exactly once")."""
        try:
            await self._buffer.resend(epoch, from_seq)
            self._behind = None
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
        self._journal.alarm(text)
        self._alarm_until = self._clock.monotonic() + self._limits.alarm_probe_s
