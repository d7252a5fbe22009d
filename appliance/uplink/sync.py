"""``sync``: the appliance asks Odoo, because Odoo may not be able to reach it (contract, "Copies and restores").

The first answer of a start comes before the first message is sent: it says which database this is, and whether a twin
of this appliance has been at work (:mod:`appliance.uplink.compare`). After that it is asked every few seconds, and at
once when Odoo says that there is work. While Odoo does not answer, this small request is the probe; one answer, and the
pump goes on. One sync is under way at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Protocol

from appliance.contract.odoo import Sender
from appliance.contract.sync import (
    WRONG_DATABASE,
    BatchLimits,
    EpochReport,
    KnownEpoch,
    SyncAnswer,
    SyncRequest,
)
from appliance.contract.sync_answer import Flaw
from appliance.contract.times import Clock, parse_rfc3339
from appliance.errors import (
    OdooAlarmError,
    OdooFencedError,
    OdooRefusedError,
    OdooUnavailableError,
    StoreUnavailableError,
)
from appliance.store.buffer import Buffer
from appliance.store.standing import Gap, Standing
from appliance.uplink.answers import printable
from appliance.uplink.client import OdooClient
from appliance.uplink.compare import forgotten_from, forked_at, taken_over_from
from appliance.uplink.fetched import FetchedWork
from appliance.uplink.gate import Gate
from appliance.uplink.progress import Progress
from appliance.uplink.retry import Backoff
from appliance.uplink.sync_request import GatewayReport, sync_request
from appliance.uplink.sync_state import SyncJournal, SyncState

NOT_ASKED = "Odoo has not said yet which database it is and what it knows"

UNREADABLE = "Odoo's answer on what it knows makes no sense, and the work of another copy may hide in it"


@dataclass(frozen=True, slots=True)
class SyncTimes:
    """Seconds."""

    interval_s: float = 3.0
    """While idle; Odoo may wish another one. So short that people see within five seconds that Odoo is away."""
    jitter: float = 0.1
    """Part of it that is left to chance, so that gateways do not ask in step."""
    gap_s: float = 0.5
    """Least time between two, however often Odoo says that there is work."""
    probe_cap_s: float = 10.0
    """Longest wait while Odoo does not answer."""
    alarm_s: float = 60.0
    answer_s: float = 30.0
    """Odoo's longest time for an answer."""
    resend_gap_s: float = 60.0
    """Least time between two times of sending again; it doubles up to an hour."""


MOST_AT_ONCE = 1000
"""Syncs in a row without a pause while Odoo says that there is more."""
MOST_RENEWALS = 5
"""New epochs in one life of the process: who finds more than that is not told the truth."""


class Sending(Protocol):
    """The pump, as far as it is needed here."""

    def hold(self, reason: str, *, alarm: bool = True) -> None: ...
    def release(self) -> None: ...
    def try_now(self) -> None: ...
    def use_sender(self, sender: Sender | None) -> None: ...
    def use_limits(self, limits: BatchLimits) -> None: ...


@dataclass(slots=True)
class _Resending:
    """When an epoch may be sent again once more."""

    not_before: float = 0.0
    gap_s: float = field(default=0.0)


class Sync:
    """Asks, compares, and hands out the work. :meth:`run` is a task that its owner cancels."""

    def __init__(
        self,
        *,
        client: OdooClient,
        pump: Sending,
        buffer: Buffer,
        standing: Standing,
        work: FetchedWork,
        report: Callable[[], Awaitable[GatewayReport]],
        gateway_uid: str,
        clock: Clock | None = None,
        random: Random | None = None,
        times: SyncTimes | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        gate: Gate | None = None,
        on_time: Callable[[int], None] = lambda ms: None,
    ) -> None:
        self._client = client
        self._breaker = client.breaker
        self._pump = pump
        self._buffer = buffer
        self._standing = standing
        self._work = work
        self._report = report
        self._gateway_uid = gateway_uid
        self._clock = clock or Clock()
        self._random = random or SystemRandom()
        self._times = times or SyncTimes()
        self.progress = Progress(self._clock)
        self._sleep = sleep
        self._backoff = Backoff(random=self._random, cap_s=self._times.probe_cap_s)
        self._journal = SyncJournal(clock=self._clock)
        self._on_time = on_time
        self._wake = asyncio.Event()
        self._failures = 0
        self._at_once = 0
        self._renewals = 0
        self._admitted = False
        self.sender: Sender | None = None
        """How this start names itself to Odoo, since it was admitted."""
        self._interval_s = self._times.interval_s
        self._next_at = 0.0
        self._behind = False
        self._contradicted_at = float("-inf")
        self._resending: dict[str, _Resending] = {}
        self.gate = gate or Gate()
        """Open while Odoo may be asked for what changes something there."""
        client.gate = self.gate
        pump.hold(NOT_ASKED, alarm=False)

    def wake(self) -> None:
        """There is a reason to ask Odoo now: it has work."""
        self._wake.set()

    def behind(self) -> None:
        """Odoo has refused a batch for how it stands to this appliance (409)."""
        self._behind = True
        self._wake.set()

    def state(self) -> SyncState:
        """What to tell people and programs."""
        next_in_s = self._next_at - self._clock.monotonic()
        return self._journal.state(
            database_uuid=self._standing.database_uuid,
            admitted=self._admitted,
            next_in_s=next_in_s if next_in_s > 0 else None,
            gaps=self._standing.gaps,
        )

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            self.progress.step()
            wait_s = await self.once()
            self.progress.sleep()
            await self._pause(wait_s)

    async def once(self) -> float:
        """Ask once; how long to wait then, in seconds."""
        self._wake.clear()
        try:
            self._breaker.begin()
        except OdooUnavailableError as error:
            return error.retry_after_s or 1.0  # the pump is asking
        refusal: OdooRefusedError | None = None
        try:
            request = sync_request(
                await self._report(),
                standing=self._standing,
                epochs=self._buffer.epochs(),
                gateway_uid=self._gateway_uid,
                now_ms=self._clock.now_ms(),
            )
            answer, flaws = await self._client.post_sync(request.model_dump_json().encode(), self._times.answer_s)
        except OdooUnavailableError as error:
            return self._unanswered(error)
        except StoreUnavailableError as error:
            self._breaker.released()
            return self._store_fails(error)
        except OdooAlarmError as error:
            self._breaker.succeeded()
            return self._alarmed(str(error))
        except OdooRefusedError as error:
            refusal = error
        except BaseException:
            self._breaker.released()
            raise
        self._breaker.succeeded()
        self._failures = 0
        try:
            if refusal is not None:
                return await self._refused(refusal)
            return await self._answered(request, answer, flaws)
        except StoreUnavailableError as error:
            return self._store_fails(error)

    async def _pause(self, wait_s: float) -> None:
        least_s = min(wait_s, self._times.gap_s)
        self._next_at = self._clock.monotonic() + wait_s
        await self._sleep(least_s)
        # while Odoo does not answer, or must not be sent anything, nobody has a reason to hurry
        if wait_s <= least_s:
            return
        if self._failures or self._journal.alarm:
            await self._sleep(wait_s - least_s)
            return
        nap = asyncio.ensure_future(self._sleep(wait_s - least_s))
        wake = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((nap, wake), return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()
            wake.cancel()
            await asyncio.gather(nap, wake, return_exceptions=True)

    # --- what came back --------------------------------------------------------------------------------------

    async def _answered(self, request: SyncRequest, answer: SyncAnswer, flaws: Sequence[Flaw]) -> float:
        standing = self._standing
        if standing.database_uuid not in (None, answer.database_uuid):
            return self._wrong_database(answer.database_uuid)
        self._tell_time(answer.time)
        if unread := [flaw for flaw in flaws if flaw.list_name == "known"]:
            return self._alarmed(f"{UNREADABLE} ({printable(unread[0].text)})")
        known = {known.epoch: known for known in answer.known}
        present = self._buffer.epochs()[0]
        fork = forked_at(known.get(present.epoch), present=present, starts=standing.starts, unheard=standing.unheard)
        if fork is not None:
            return await self._renew(
                fork, "a copy of this appliance has been at work, or it was restored from a backup"
            )
        await standing.answered(answer.database_uuid)
        held = await self._give_again(request.epochs, known)
        if held is not None:
            return self._alarmed(held)
        self._admit(answer)
        self._journal.answered([*flaws, *await self._work.take(answer, flaws)])
        if answer.cursor is not None and self._work.devices_are_current:
            await standing.keep_cursor(answer.cursor)
        return self._until_next(request, answer)

    def _tell_time(self, text: str | None) -> None:
        """Odoo's clock, to those who judge ours by it."""
        with suppress(ValueError, OverflowError):
            if text is not None:
                self._on_time(parse_rfc3339(text))

    def _admit(self, answer: SyncAnswer) -> None:
        """Odoo is the right one, and knows which messages are whose: the pump may go on."""
        self._admitted = True
        start = answer.admission or self._standing.present.start
        self.sender = Sender(start=start, database_uuid=answer.database_uuid)
        self._pump.use_sender(self.sender)
        self._pump.use_limits(answer.limits)
        self._pump.release()
        self._pump.try_now()
        self.gate.open()

    def _until_next(self, request: SyncRequest, answer: SyncAnswer) -> float:
        self._interval_s = answer.interval_s or self._times.interval_s
        if answer.more and self._at_once < MOST_AT_ONCE:
            self._at_once += 1
            # the same again may come until messages have told that it was done
            return 0.0 if answer.cursor not in (None, request.cursor) else self._times.gap_s
        self._at_once = 0
        return self._interval_s * self._random.uniform(1 - self._times.jitter, 1 + self._times.jitter)

    async def _give_again(self, epochs: Sequence[EpochReport], known: Mapping[str, KnownEpoch]) -> str | None:
        """Where Odoo was restored from a backup: what it has forgotten. Why nothing may be sent now, if that is so."""
        behind, self._behind = self._behind, False
        names = {report.epoch for report in epochs}
        self._resending = {epoch: resending for epoch, resending in self._resending.items() if epoch in names}
        for report in epochs:
            from_seq = forgotten_from(known.get(report.epoch), report)
            if from_seq is None:
                continue
            behind = False
            now = self._clock.monotonic()
            last = self._resending.get(report.epoch, _Resending())
            if now < last.not_before:
                return "Odoo has once more forgotten what it confirmed a moment ago"
            gap_s = min(max(last.gap_s * 2, self._times.resend_gap_s), 3600.0)
            self._resending[report.epoch] = _Resending(now + gap_s, gap_s)
            told = known.get(report.epoch)
            await self._send_again(report, from_seq, told)
        if behind:
            now = self._clock.monotonic()
            before, self._contradicted_at = self._contradicted_at, now
            if now - before < self._times.alarm_s:
                return "Odoo refuses messages as if it knew too little, or another appliance, and sync shows neither"
        return None

    async def _send_again(self, report: EpochReport, from_seq: int, told: KnownEpoch | None) -> None:
        known = (told.stored or 0) if told else 0
        resent = await self._buffer.resend(report.epoch, from_seq, below=told.below if told else None)
        gap = Gap(
            at_ms=self._clock.now_ms(),
            epoch=report.epoch,
            confirmed=report.stored,
            known=known,
            sent_again=resent.rows,
            missing=resent.missing,
        )
        await self._standing.keep_gap(gap)
        some = f"{known} of {report.stored}" if known < report.stored else "not all"
        self._journal.trouble(
            f"Odoo knows {some} messages that it had confirmed, it was restored from a backup: "
            f"{resent.rows} are sent again, {resent.missing} are not kept any more"
        )

    async def _renew(self, first_seq: int, reason: str) -> float:
        """Take a new epoch for what a twin could be mistaken for, and ask again at once."""
        self._hold(reason, alarm=False)
        if self._renewals >= MOST_RENEWALS:
            return self._alarmed(f"{reason}, and so {MOST_RENEWALS} times in a row: two of them fight, or Odoo errs")
        self._renewals += 1
        before = self._buffer.epochs()[0].epoch
        epoch = await self._buffer.renew_epoch(first_seq)
        await self._standing.tell("new_epoch", reason=reason, first_seq=first_seq, before=before, epoch=epoch)
        self._journal.trouble(f"{reason}: messages from {first_seq} on have a new epoch")
        return 0.0

    # --- trouble ---------------------------------------------------------------------------------------------

    def _unanswered(self, error: OdooUnavailableError) -> float:
        self._breaker.failed(error.retry_after_s)
        self._journal.unreachable(str(error))
        self._failures += 1
        return max(self._backoff.delay_s(self._failures), error.retry_after_s or 0.0)

    def _store_fails(self, error: StoreUnavailableError) -> float:
        self._journal.trouble(f"sync cannot be remembered: {error}")
        return self._times.gap_s * 2

    async def _refused(self, error: OdooRefusedError) -> float:
        self._failures = 0
        if error.code == WRONG_DATABASE:
            return self._wrong_database(None)
        if isinstance(error, OdooFencedError):
            return await self._fenced(error)
        text = f"Odoo refuses sync ({error.status} {error.code}: {error})"
        if not self._admitted:
            return self._alarmed(text)
        self._journal.trouble(text)
        return self._times.alarm_s

    async def _fenced(self, error: OdooFencedError) -> float:
        standing = self._standing
        if standing.may_take_over:
            if error.known is None:
                return self._alarmed(UNREADABLE)
            present = self._buffer.epochs()[0]
            known = next((known for known in error.known if known.epoch == present.epoch), None)
            fork = forked_at(known, present=present, starts=standing.starts, unheard=standing.unheard)
            first_seq = taken_over_from(fork, present=present, unheard=standing.unheard)
            return await self._renew(first_seq, "this copy of the appliance was enrolled and takes over from another")
        return self._alarmed(
            "another copy of this appliance has taken its place in Odoo: switch one of them off, and enrol this one "
            "again if it is the one to stay"
        )

    def _wrong_database(self, found: str | None) -> float:
        its = f"is {found}, and it " if found else ""
        return self._alarmed(
            f"Odoo's database {its}is not {self._standing.database_uuid}, which this appliance is bound to; a copy for "
            "tests must not get its messages. Enrol the appliance again if it is to change"
        )

    def _alarmed(self, text: str) -> float:
        self._failures = 0
        self._journal.alarmed(text)
        self._hold(text)
        return self._times.alarm_s

    def _hold(self, reason: str, *, alarm: bool = True) -> None:
        self._pump.hold(reason, alarm=alarm)
        self.gate.close(reason)
