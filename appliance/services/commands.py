"""Commands to devices: accepted, delivered, followed until they are settled.

The rows on disk decide (:mod:`appliance.store.command_rules`); here and in :mod:`appliance.services.delivery` is
decided *when* to ask for a change. All methods belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from appliance.contract.command import CommandStatus, SendCommand
from appliance.contract.device import CommandResponse, PayloadError, parse_body
from appliance.contract.times import Clock
from appliance.errors import (
    CommandRefusedError,
    DeviceDisabledError,
    RequestError,
    StoreUnavailableError,
    UnknownCommandError,
    UnknownDeviceError,
)
from appliance.services.changes import ChangeQueue
from appliance.services.command_status import accepted, full_status, new_command_id, request_digest
from appliance.services.delivery import Delivery, DeviceLookup, Transmit
from appliance.services.lanes import Entry, OpenCommands
from appliance.services.rendering import Renderer
from appliance.services.steady import SteadyClock, machine_start
from appliance.store import command_rules as rules
from appliance.store.outbox import Moment, NewCommand, Outbox, Outcome, note_clock

MAX_OPEN_PER_DEVICE = 100
MAX_OPEN = 20_000
MAX_OPEN_BYTES = 64 << 20
KEEP_SETTLED_S = 86_400.0
KEEP_SETTLED = 50_000
LONGEST_RETRY_AFTER_S = 60
_TICK_S = 1.0
_DEADLINES_PER_TICK = 500
_PRUNE_EVERY_S = 60.0


def _nothing(outcome: Outcome) -> None:
    pass


class CommandService:
    """The life of every command. ``keep_settled`` rows are kept for status queries, ``keep_settled_s`` seconds long."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        devices: DeviceLookup,
        clock: Clock,
        renderer: Renderer | None = None,
        new_id: Callable[[int], str] = new_command_id,
        machine: int | None = None,
        max_open_per_device: int = MAX_OPEN_PER_DEVICE,
        max_open: int = MAX_OPEN,
        max_open_bytes: int = MAX_OPEN_BYTES,
        keep_settled_s: float = KEEP_SETTLED_S,
        keep_settled: int = KEEP_SETTLED,
    ) -> None:
        self._outbox = outbox
        self._devices = devices
        self._clock = clock
        self._renderer = renderer or Renderer(clock=clock)
        self._new_id = new_id
        self._max_open_per_device = max_open_per_device
        self._max_open = max_open
        self._max_open_bytes = max_open_bytes
        self._keep_settled_ms = int(keep_settled_s * 1000)
        self._keep_settled = keep_settled
        self._wake = asyncio.Event()
        self._steady = SteadyClock(clock, machine=machine_start() if machine is None else machine)
        self._open = OpenCommands(sooner=self._sooner)
        self._changes: ChangeQueue[Outcome] = ChangeQueue(outbox, crashed=self._crash)
        self._delivery = Delivery(
            commands=self._open, changes=self._changes, devices=devices, now=self._moment, wake=self._wake.set
        )
        self._resumed = asyncio.Event()
        self._early: list[tuple[str, bytes, int, object]] = []
        self._wake_at_ms = 0
        self._next_prune_ms = 0
        self._bug: BaseException | None = None

    # --- for the API -----------------------------------------------------------------------------------------

    async def send(self, order: SendCommand) -> CommandStatus:
        """Accept a command; it is on disk when this returns. The same ``command_id`` again: the first result again.

        Raises :class:`UnknownDeviceError`, :class:`DeviceDisabledError`, :class:`CommandRefusedError`
        (``command_template``, ``command_not_json``, ``command_too_large``, ``command_id_conflict``, ``queue_full``),
        :class:`StoreUnavailableError`.
        """
        await self._resumed.wait()
        digest = request_digest(order)
        if order.command_id is not None and order.command_id in self._open.entries:
            known = await self._find_accepted(order.command_id, digest)
            if known is not None:
                return known
        try:
            new = self._checked(order, digest)
        except RequestError:
            # what was accepted once stays accepted, whatever has become of the device, its template or its queue
            known = await self._find_accepted(order.command_id, digest)
            if known is not None:
                return known
            raise
        moment = self._moment()
        outcome = await self._store(new, moment)
        if outcome.changed:
            return accepted(new, created_at_ms=moment.wall_ms)
        known = await self._find_accepted(new.command_id, digest)
        if known is None:
            raise UnknownCommandError(f"command {new.command_id} is known no more")
        return known

    async def status(self, command_id: str) -> CommandStatus:
        """What is known of a command. :class:`UnknownCommandError` if nothing is (any more)."""
        stored = await self._outbox.find(command_id)
        if stored is None:
            raise UnknownCommandError(f"no command {command_id} is known")
        return full_status(stored)

    async def cancel(self, command_id: str) -> CommandStatus:
        """Take back what was not written to the device. One that was ``sent`` stays: it may have arrived.

        :class:`CommandRefusedError` 409 ``command_final`` once it was delivered or has ended in another way.
        """
        await self._resumed.wait()
        change = partial(rules.cancel, command_id=command_id, moment=self._moment())
        outcome = await self._awaited(change, self._taken_over)
        if outcome.row is None:
            raise UnknownCommandError(f"no command {command_id} is known")
        state = outcome.row.state
        if not outcome.changed and state not in ("sent", "cancelled"):
            message = f"command {command_id} is {state} and cannot be cancelled"
            raise CommandRefusedError(message, status=409, code="command_final")
        return await self.status(command_id)

    async def record(self, rule: Callable[..., Outcome]) -> Outcome:
        """Make a change by a rule from outside (``rule(work, moment=…)``), in order with all others."""
        await self._resumed.wait()
        return await self._awaited(partial(rule, moment=self._moment()), self._taken_over)

    def open_count(self, device_id: str) -> int:
        """How many commands of a device are neither answered nor given up."""
        lane = self._open.lanes.get(device_id)
        return lane.open_count if lane is not None else 0

    @property
    def open_total(self) -> int:
        """The same for all devices."""
        return len(self._open.entries)

    # --- for the broker --------------------------------------------------------------------------------------

    @property
    def transmit(self) -> Transmit:
        """Set by the owner once there is a broker; until then no device is connected."""
        return self._delivery.transmit

    @transmit.setter
    def transmit(self, transmit: Transmit) -> None:
        self._delivery.transmit = transmit

    def device_ready(self, device_id: str) -> None:
        """The device has subscribed to its command topic, perhaps again: deliver what waits."""
        self._delivery.device_ready(device_id)

    def device_gone(self, device_id: str) -> None:
        """Its connection ended; to be called before :meth:`device_ready` of the next one."""
        self._delivery.device_gone(device_id)

    def device_removed(self, device_id: str) -> None:
        """The device has lost its pairing or its id: its open commands end, and Odoo is told."""
        lane = self._open.lanes.get(device_id)
        if lane is not None and lane.open_count:
            for entry in [each for each in self._open.entries.values() if each.device_id == device_id]:
                self._end_revoked(entry)

    def _end_revoked(self, entry: Entry) -> None:
        change = partial(rules.end_revoked, command_id=entry.command_id, moment=self._moment())
        self._changes.add(change, partial(self._delivery.note, entry))

    def accept_response(self, device_id: str, payload: bytes, received_at_ms: int, receipt: object) -> None:
        """A device's answer; ``receipt`` comes back from the database after the commit, whatever the payload is."""
        if not self._resumed.is_set():
            self._early.append((device_id, payload, received_at_ms, receipt))
            return
        moment = self._moment()
        # acknowledgements that came before it are stored before it
        self._changes.flush()
        try:
            response = parse_body(CommandResponse, payload)
        except PayloadError as error:
            change = partial(
                rules.park_answer, device=device_id, payload=payload, error=error, received_at_ms=received_at_ms
            )
        else:
            change = partial(
                rules.answer,
                device=device_id,
                response=response,
                payload=payload,
                received_at_ms=received_at_ms,
                moment=moment,
            )
        self._outbox.submit([change], receipt=receipt).add_done_callback(self._answered)

    # --- its own work ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Resume what was open before a restart, then mind deadlines and old rows until cancelled."""
        await self._resume()
        while True:
            more = self.tick()
            more = await self._prune() or more
            if self._bug is not None:
                raise self._bug
            await asyncio.sleep(0) if more else await self._sleep()

    def tick(self) -> bool:
        """Act on the deadlines that are over; whether more of them wait. :meth:`run` calls it in time."""
        if self._changes.stalled:
            self._changes.retry()
        moment = self._moment()
        due = self._open.due(moment.steady_ms, _DEADLINES_PER_TICK)
        for entry in due:
            if entry.row is not None:
                change = partial(rules.pass_deadline, position=entry.row.position, moment=moment)
                self._changes.add(change, partial(self._delivery.note, entry))
        return len(due) == _DEADLINES_PER_TICK

    async def _resume(self) -> None:
        while True:
            try:
                rows, clock_state, latest_ms = await self._outbox.load()
                break
            except StoreUnavailableError:
                await asyncio.sleep(_TICK_S)
        time_is_known = self._steady.resume(clock_state, latest_ms=latest_ms)
        for row in rows:
            entry = self._open.restore(row)
            if self._devices.get(row.device) is None:
                self._end_revoked(entry)
            elif not time_is_known and row.undelivered:
                change = partial(rules.expire_unsure, position=row.position, moment=self._moment())
                self._changes.add(change, partial(self._delivery.note, entry))
            elif row.state == "sent" and rules.used_up(row):
                self._delivery.give_up(entry, row)
        self._resumed.set()
        early, self._early = self._early, []
        for arguments in early:
            self.accept_response(*arguments)
        for lane in list(self._open.lanes.values()):
            self._delivery.pump(lane)

    async def _sleep(self) -> None:
        now_ms = self._moment().steady_ms
        alarm_ms = self._open.next_alarm_ms()
        sleep_ms = int(_TICK_S * 1000)
        if alarm_ms is not None:
            sleep_ms = max(min(sleep_ms, alarm_ms - now_ms), 1)
        self._wake_at_ms = now_ms + sleep_ms
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(sleep_ms / 1000):
                await self._wake.wait()

    async def _prune(self) -> bool:
        now_ms = self._moment().steady_ms
        if now_ms < self._next_prune_ms:
            return False
        try:
            before_ms = now_ms - self._keep_settled_ms
            more = await self._outbox.prune(settled_before_ms=before_ms, keep_rows=self._keep_settled)
        except StoreUnavailableError:
            more = False
        if not more:
            self._next_prune_ms = now_ms + int(_PRUNE_EVERY_S * 1000)
        return more

    def _moment(self) -> Moment:
        moment = self._steady.read()
        state = self._steady.to_store()
        if state is not None:
            self._changes.add(partial(note_clock, state=state), _nothing)
        return moment

    def _sooner(self, alarm_ms: int) -> None:
        if alarm_ms < self._wake_at_ms:
            self._wake.set()

    def _crash(self, bug: BaseException) -> None:
        self._bug = self._bug or bug
        self._wake.set()

    # --- accepting, and what comes back ----------------------------------------------------------------------

    def _checked(self, order: SendCommand, digest: bytes) -> NewCommand:
        device = self._devices.get(order.device_id)
        if device is None:
            raise UnknownDeviceError(f"no device {order.device_id} is paired with this appliance")
        if not device.enabled:
            raise DeviceDisabledError(f"device {order.device_id} is switched off")
        config = device.config
        command_id = order.command_id or self._new_id(self._clock.now_ms())
        payload = self._renderer.command_payload(
            order, command_id=command_id, config=config, topic=device.topics.command
        )
        self._check_room(order.device_id, len(payload))
        return NewCommand(
            command_id=command_id,
            device=order.device_id,
            action=order.action,
            digest=digest,
            payload=payload,
            at_most_once=order.deliver == "at_most_once",
            expires_in_ms=math.ceil((order.expires_in_s or config.command_expires_in_s) * 1000),
            response_limit_ms=math.ceil(config.command_response_limit_s * 1000),
        )

    def _check_room(self, device_id: str, payload_bytes: int) -> None:
        if self.open_count(device_id) >= self._max_open_per_device:
            message = f"{self._max_open_per_device} commands of device {device_id} are open already"
        elif len(self._open.entries) >= self._max_open:
            message = f"{self._max_open} commands are open already"
        elif self._open.payload_bytes + payload_bytes > self._max_open_bytes:
            message = f"the open commands hold {self._max_open_bytes} bytes already"
        else:
            return
        alarm_ms = self._open.next_alarm_ms()
        wait_s = 1 if alarm_ms is None else math.ceil((alarm_ms - self._moment().steady_ms) / 1000)
        raise CommandRefusedError(
            message, status=429, code="queue_full", retry_after_s=max(1, min(wait_s, LONGEST_RETRY_AFTER_S))
        )

    async def _find_accepted(self, command_id: str | None, digest: bytes) -> CommandStatus | None:
        if command_id is None:
            return None
        self._changes.flush()
        stored = await self._outbox.find(command_id)
        if stored is None:
            return None
        if stored.digest != digest:
            message = f"command id {command_id} was used for another command"
            raise CommandRefusedError(message, status=409, code="command_id_conflict")
        return accepted(stored, created_at_ms=stored.created_at_ms)

    async def _store(self, new: NewCommand, moment: Moment) -> Outcome:
        entry = self._open.add(new.command_id, new.device, len(new.payload))
        change = partial(rules.add, new=new, moment=moment, send_now=self._delivery.reserve(entry))
        return await self._awaited(
            change, partial(self._delivery.added, entry), partial(self._delivery.not_added, entry)
        )

    async def _awaited(
        self,
        change: Callable[..., Outcome],
        then: Callable[[Outcome], None] = _nothing,
        failed: Callable[[], None] | None = None,
    ) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def committed(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)
            then(outcome)

        def dropped(error: StoreUnavailableError) -> None:
            if failed is not None:
                failed()
            if not future.done():
                future.set_exception(error)

        self._changes.add(change, committed, failed=dropped)
        return await future

    def _answered(self, future: asyncio.Future[list[Outcome]]) -> None:
        if future.cancelled():
            return
        if future.exception() is not None:
            # the database has withheld the receipt: the device is not acknowledged, and will say it again
            return
        try:
            self._taken_over(future.result()[0])
        except Exception as bug:
            self._crash(bug)

    def _taken_over(self, outcome: Outcome) -> None:
        """A change by command id was committed."""
        entry = self._open.entries.get(outcome.row.command_id) if outcome.row is not None else None
        if entry is not None and entry.row is not None:
            self._delivery.note(entry, outcome)
