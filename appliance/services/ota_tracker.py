"""Open firmware updates, followed through every state that a device reports, until they have ended.

The rows on disk decide (:mod:`appliance.store.update_rules`); here and in :mod:`appliance.services.ota_delivery` is
decided *when* to ask for a change. All methods belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from appliance.contract.device import OtaStatus, PayloadError, parse_body
from appliance.contract.times import Clock
from appliance.errors import LinkRefusedError, StoreUnavailableError
from appliance.services.changes import ChangeQueue
from appliance.services.delivery import CommandTarget, Transmit
from appliance.services.firmware import Fetched, FirmwareSource, Wish
from appliance.services.firmware_links import FirmwareLinks, Link
from appliance.services.limits import Quiet
from appliance.services.ota_delivery import OfferDelivery, OpenUpdate
from appliance.services.ota_status import short_status
from appliance.services.steady import SteadyClock, machine_start
from appliance.store import update_rules as rules
from appliance.store.devices import DeviceNote
from appliance.store.outbox import Moment
from appliance.store.updates import UpdateOutcome, UpdateRow, Updates, note_clock, version_noted

log = logging.getLogger(__name__)

KEEP_SETTLED_S = 30 * 86_400.0
KEEP_SETTLED = 20_000
_TICK_S = 1.0
_PRUNE_EVERY_S = 60.0
_NOTES_AT_ONCE = 200
_WANTED = ("offered", "delivered", "accepted", "downloading")
"""States in which the device may yet fetch the file."""


class UpdateTarget(CommandTarget, Protocol):
    """What must be known of a device to update it."""

    @property
    def serial(self) -> str: ...


class UpdatedDevices(Protocol):
    """The device registry, as far as it is needed here."""

    def get(self, device_id: str, /) -> UpdateTarget | None: ...
    async def note(self, notes: Mapping[str, DeviceNote], /) -> None: ...


def _nothing(outcome: UpdateOutcome) -> None:
    pass


class UpdateTracker:
    """The open updates, as on disk, and what follows from each change of theirs.

    ``keep_settled`` rows are kept for status queries, ``keep_settled_s`` seconds long.
    """

    def __init__(
        self,
        *,
        updates: Updates,
        devices: UpdatedDevices,
        firmware: FirmwareSource,
        links: FirmwareLinks,
        clock: Clock,
        deadlines: rules.Deadlines | None = None,
        machine: int | None = None,
        keep_settled_s: float = KEEP_SETTLED_S,
        keep_settled: int = KEEP_SETTLED,
    ) -> None:
        self._updates = updates
        self._devices = devices
        self._firmware = firmware
        self._links = links
        self._clock = clock
        self._deadlines = deadlines or rules.Deadlines()
        self._keep_settled_ms = int(keep_settled_s * 1000)
        self._keep_settled = keep_settled
        self._quiet = Quiet(clock=clock)
        self._steady = SteadyClock(clock, machine=machine_start() if machine is None else machine)
        self._changes: ChangeQueue[UpdateOutcome] = ChangeQueue(updates, crashed=self._crash)
        self._delivery = OfferDelivery(
            links=links,
            changes=self._changes,
            devices=devices,
            deadlines=self._deadlines,
            now=self._moment,
            note=self._note,
        )
        self._open: dict[int, OpenUpdate] = {}
        self._by_device: dict[str, OpenUpdate] = {}
        self._to_note: dict[int, tuple[str, str]] = {}
        self._wake = asyncio.Event()
        self._resumed = asyncio.Event()
        self._early: list[tuple[str, bytes, int, object]] = []
        self._next_alarm_ms = 0
        self._next_prune_ms = 0
        self._bug: BaseException | None = None

    # --- for the broker --------------------------------------------------------------------------------------

    @property
    def transmit(self) -> Transmit:
        """Set by the owner once there is a broker; until then no device is connected."""
        return self._delivery.transmit

    @transmit.setter
    def transmit(self, transmit: Transmit) -> None:
        self._delivery.transmit = transmit

    def device_ready(self, device_id: str) -> None:
        """The device has subscribed to its ``ota_notify`` topic, perhaps again: deliver what waits."""
        self._delivery.device_ready(device_id, self._by_device.get(device_id))

    def device_gone(self, device_id: str) -> None:
        """Its connection ended; to be called before :meth:`device_ready` of the next one."""
        self._delivery.device_gone(device_id, self._by_device.get(device_id))

    def accept_status(self, device_id: str, payload: bytes, received_at_ms: int, receipt: object) -> None:
        """Store a report as the device sent it; ``receipt`` comes back after the commit, whatever the payload is."""
        if not self._resumed.is_set():
            self._early.append((device_id, payload, received_at_ms, receipt))
            return
        # acknowledgements that came before it are stored before it
        self._changes.flush()
        change: Callable[..., UpdateOutcome]
        try:
            status = parse_body(OtaStatus, payload)
        except PayloadError as error:
            if self._quiet.due(device_id):
                log.warning("an OTA status of %s is parked: %s", device_id, error.message)
            change = partial(
                rules.park_report, device=device_id, payload=payload, error=error, received_at_ms=received_at_ms
            )
        else:
            change = partial(
                rules.report,
                device=device_id,
                status=status,
                payload=payload,
                received_at_ms=received_at_ms,
                moment=self._moment(),
                deadlines=self._deadlines,
            )
        self._updates.submit([change], receipt=receipt).add_done_callback(self._reported)

    def device_has(self, device_id: str, serial: str | None) -> None:
        """The device id has this device now; ``None``: none any more. An update was for the one that it had."""
        entry = self._by_device.get(device_id)
        if entry is not None and entry.serial != serial:
            change = partial(rules.unpair, position=entry.row.position, moment=self._moment())
            self._changes.add(change, partial(self._note, entry))

    # --- for pages and devices -------------------------------------------------------------------------------

    @property
    def open_total(self) -> int:
        """How many updates are open."""
        return len(self._open)

    def open_update(self, device_id: str) -> dict[str, Any] | None:
        """The device's open update in short."""
        entry = self._by_device.get(device_id)
        if entry is None:
            return None
        return short_status(entry.row, self._firmware.downloads(entry.row.position))

    async def check_link(self, sha256: str, token: str) -> Link:
        """What a link says, if it opens this file now.

        :class:`LinkRefusedError` (403 ``link_invalid``, 410 ``link_expired``), :class:`StoreUnavailableError`.
        """
        link = self._links.read(sha256, token)
        await self._resumed.wait()
        if link.expires_ms <= self._moment().steady_ms:
            raise LinkRefusedError("this link has expired", status=410, code="link_expired")
        entry = self._open.get(link.position)
        row = entry.row if entry is not None else await self._updates.at(link.position)
        if row is None or row.state in ("cancelled", "cancelling"):
            raise LinkRefusedError("this update was cancelled", status=410, code="link_expired")
        if row.reason == "unpaired" or self._devices.get(row.device) is None:
            raise LinkRefusedError("the device of this update has been removed", status=410, code="link_expired")
        return link

    # --- its own work ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Resume what was open before a restart, then mind deadlines and old rows until cancelled."""
        await self._resume()
        while True:
            self._wake.clear()
            self.tick()
            await self.note_versions()
            more = await self._prune()
            if self._bug is not None:
                raise self._bug
            await asyncio.sleep(0) if more else await self._sleep()

    def tick(self) -> None:
        """Act on the deadlines that are over. :meth:`run` calls it in time."""
        if self._changes.stalled:
            self._changes.retry()
        moment = self._moment()
        if moment.steady_ms < self._next_alarm_ms:
            return
        # deadlines are hours away: looking at all when one of them comes costs less than keeping them in order
        for entry in self._open.values():
            if entry.row.deadline_ms <= moment.steady_ms:
                change = partial(rules.pass_deadline, position=entry.row.position, moment=moment)
                self._changes.add(change, partial(self._note, entry))
        later = (entry.row.deadline_ms for entry in self._open.values() if entry.row.deadline_ms > moment.steady_ms)
        self._next_alarm_ms = min(later, default=moment.steady_ms + 3_600_000)

    async def note_versions(self) -> None:
        """Tell the registry what devices run now."""
        while self._to_note:
            some = dict(list(self._to_note.items())[:_NOTES_AT_ONCE])
            notes = {device: DeviceNote(firmware_version=version) for device, version in some.values()}
            try:
                await self._devices.note(notes)
            except StoreUnavailableError:
                return
            for position, (_, version) in some.items():
                if self._to_note.get(position) == some[position]:
                    del self._to_note[position]
                self._changes.add(partial(version_noted, position=position, version=version), _nothing)

    async def _resume(self) -> None:
        while True:
            try:
                rows, clock_state, latest_ms = await self._updates.load()
                break
            except StoreUnavailableError:
                await asyncio.sleep(_TICK_S)
        # nobody moves because an update is older than it seems: a clock that is behind ends nothing
        self._steady.resume(clock_state, latest_ms=latest_ms)
        restored = [self._take_in(row) for row in rows if row.open]
        self._to_note = {row.position: (row.device, row.new_version) for row in rows if row.new_version}
        self._resumed.set()
        early, self._early = self._early, []
        for arguments in early:
            self.accept_status(*arguments)
        for entry in restored:
            self._want_again(entry)
            self._delivery.pump(entry)
        self._firmware.resumed()

    def _want_again(self, entry: OpenUpdate) -> None:
        """After a restart: the file is here, or is to be fetched (again)."""
        row = entry.row
        if row.action != "start_update" or row.state == "cancelling":
            return
        here = row.sha256 is not None and self._firmware.hold(row.position, row.sha256, row.size)
        if row.state == "fetching" or (not here and row.state in _WANTED):
            self._want(entry)
        elif not here and row.state == "queued":
            change = partial(rules.refetch, position=row.position, moment=self._moment(), deadlines=self._deadlines)
            self._changes.add(change, partial(self._begun, entry))

    async def _sleep(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_TICK_S):
                await self._wake.wait()

    async def _prune(self) -> bool:
        now_ms = self._moment().steady_ms
        if now_ms < self._next_prune_ms:
            return False
        try:
            before_ms = now_ms - self._keep_settled_ms
            more = await self._updates.prune(settled_before_ms=before_ms, keep_rows=self._keep_settled)
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

    def _crash(self, bug: BaseException) -> None:
        self._bug = self._bug or bug
        self._wake.set()

    # --- what was committed ----------------------------------------------------------------------------------

    def _take_in(self, row: UpdateRow) -> OpenUpdate:
        device = self._devices.get(row.device)
        entry = OpenUpdate(row, None if device is None else device.serial)
        self._open[row.position] = self._by_device[row.device] = entry
        self._next_alarm_ms = min(self._next_alarm_ms, row.deadline_ms)
        return entry

    def _begun(self, entry: OpenUpdate, outcome: UpdateOutcome) -> None:
        """An update is to have its file."""
        self._note(entry, outcome)
        if entry.row.state == "fetching":
            self._want(entry)

    def _want(self, entry: OpenUpdate) -> None:
        row, ordered = entry.row, entry.row.ordered
        wish = Wish(url=str(ordered.get("url", "")), sha256=row.sha256, size=row.size)
        self._firmware.want(row.position, wish, partial(self._have, entry))

    def _have(self, entry: OpenUpdate, result: Fetched | str) -> None:
        """The file is here, or cannot be had."""
        position, moment = entry.row.position, self._moment()
        if isinstance(result, str):
            change = partial(rules.fail, position=position, reason="fetch", error=result, moment=moment)
        else:
            change = partial(
                rules.fetched,
                position=position,
                sha256=result.sha256,
                size=result.size,
                moment=moment,
                deadlines=self._deadlines,
            )
        self._changes.add(change, partial(self._note, entry))

    def _note(self, entry: OpenUpdate, outcome: UpdateOutcome) -> None:
        """Take over what was committed, and see to what is due next."""
        row = outcome.row
        if row is None:
            return
        if row.new_version is not None and outcome.changed:
            self._to_note[row.position] = (row.device, row.new_version)
            self._wake.set()
        entry.row = row
        if row.open:
            self._next_alarm_ms = min(self._next_alarm_ms, row.deadline_ms)
            self._delivery.pump(entry)
        elif self._open.pop(row.position, None) is not None:
            if self._by_device.get(row.device) is entry:
                del self._by_device[row.device]
            self._firmware.drop(row.position)
            # the error may be the device's own words: they must not begin a line, nor steer a terminal
            log.info("update %s of %s ended: %s %r", row.update_id, row.device, row.state, row.error or "")

    def _taken_over(self, outcome: UpdateOutcome) -> None:
        """A change by update id was committed."""
        row = outcome.row
        if row is not None:
            self._note(self._open.get(row.position) or OpenUpdate(row), outcome)

    def _reported(self, future: asyncio.Future[list[UpdateOutcome]]) -> None:
        if future.cancelled() or future.exception() is not None:
            # the database has withheld the receipt: the device is not acknowledged, and will say it again
            return
        try:
            self._taken_over(future.result()[0])
        except Exception as bug:
            self._crash(bug)
