"""All paired devices, in memory for the hot path; every change is on disk before anybody sees it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from pydantic import ValidationError

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import DeviceTopics, TopicTemplates
from appliance.errors import TopicsRefusedError, UnknownDeviceError
from appliance.store import device_rows as rows
from appliance.store.database import Database
from appliance.store.device_rows import Claim, DeviceRow, Pairing
from appliance.store.topic_index import TopicIndex

log = logging.getLogger(__name__)
T = TypeVar("T")

SWITCHED_OFF = "it is switched off in Odoo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A paired device. ``enabled`` says whether it may connect now; if not, ``disabled_reason`` says why."""

    device_id: str
    serial: str
    generation: int
    """Of its newest secret; counted up with each pairing, never used twice for one device id."""
    valid_from: int
    """The oldest generation whose secret still opens the door."""
    enabled: bool
    config: DeviceConfig
    topics: DeviceTopics
    paired_at_ms: int
    firmware_version: str | None = None
    hardware: str | None = None
    first_login_at_ms: int | None = None
    login_generation: int = 0
    """The newest generation that has logged in; 0 if none has."""
    disabled_reason: str | None = None

    @property
    def config_version(self) -> int:
        """Odoo's number of this configuration."""
        return self.config.config_version

    @property
    def previous_valid(self) -> bool:
        """Whether an earlier secret than the newest still opens the door."""
        return self.valid_from < self.generation

    def accepts(self, generation: int) -> bool:
        """Whether the secret of this generation opens the door (if the device is enabled)."""
        return self.valid_from <= generation <= self.generation


@dataclass(frozen=True, slots=True)
class DeviceNote:
    """What a device showed of itself: the generation it logged in with, its firmware, its hardware."""

    generation: int | None = None
    firmware_version: str | None = None
    hardware: str | None = None


class DeviceRegistry:
    """The paired devices. Reads are dictionary lookups on the event loop, changes are committed first."""

    def __init__(self, *, database: Database, templates: TopicTemplates) -> None:
        self.changed: list[Callable[[Device], None]] = []
        """Called on the event loop after a new or changed device is durable. A device id may have got another
        serial number, or ``valid_from`` may have risen: a connection with an older secret is then no longer its own."""
        self.removed: list[Callable[[Device], None]] = []
        """Called on the event loop after a device has lost its pairing for good."""
        self._database = database
        self._templates = templates
        self._by_id: dict[str, Device] = {}
        self._by_serial: dict[str, Device] = {}
        self._topics = TopicIndex(config_request=templates.config_request)
        self._changing = asyncio.Lock()

    # --- reading ---------------------------------------------------------------------------------------------

    def get(self, device_id: str) -> Device | None:
        """The device of this id."""
        return self._by_id.get(device_id)

    def by_serial(self, serial: str) -> Device | None:
        """The device of this serial number."""
        return self._by_serial.get(serial)

    def all(self) -> Iterable[Device]:
        """All devices, in no particular order; a copy, so that it may be walked while devices change."""
        return list(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    async def find_pairing(self, serial: str, token_digest: bytes) -> Pairing | None:
        """What became of this token, if it was claimed here. ``StoreUnavailableError`` if the store does not answer."""
        return await self._database.run(partial(rows.find_pairing, serial=serial, token_digest=token_digest))

    # --- loading ---------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read all devices. One that cannot be served (its topics collide, say) is loaded disabled, with the reason."""
        after = ""
        while page := await self._database.run(partial(rows.load, after=after)):
            for row in page:
                self._load_row(row)
            after = page[-1].device_id
        log.info("%d paired devices", len(self._by_id))

    def _load_row(self, row: DeviceRow) -> None:
        trouble = None
        try:
            config = DeviceConfig.model_validate_json(row.config)
            topics = self._expand(config, row.serial)
            self._topics.put(row.device_id, topics)
        except (ValidationError, TopicsRefusedError) as error:
            text = str(error) if isinstance(error, TopicsRefusedError) else "its stored configuration cannot be read"
            trouble = f"{text}; pair it again"
            log.error("device %s may not connect: %s", row.device_id, trouble)
            config = DeviceConfig(device_id=row.device_id)
            topics = self._templates.expand(row.device_id, row.serial)
        reason = trouble or (None if row.enabled else SWITCHED_OFF)
        device = _device(row, config, topics, disabled_reason=reason)
        self._by_id[device.device_id] = self._by_serial[device.serial] = device

    def _expand(self, config: DeviceConfig, serial: str, *, leaving: Collection[str] = ()) -> DeviceTopics:
        """The topics of a device; :class:`TopicsRefusedError` if they are invalid or another device's."""
        try:
            # checking templates costs more than all else of loading a device, and most devices bring none
            templates = self._templates.replaced(config.topics) if config.topics else self._templates
            topics = templates.expand(config.device_id, serial)
        except ValueError as error:
            raise TopicsRefusedError(f"its topics cannot be used: {error}") from None
        conflict = self._topics.conflict(config.device_id, topics, leaving=leaving)
        if conflict:
            raise TopicsRefusedError(f"its topics cannot be used: {conflict}")
        return topics

    # --- changing --------------------------------------------------------------------------------------------

    async def pair(self, claim: Claim) -> Pairing:
        """Store a pairing: the generation counts up, and the earlier secrets of the same serial number stay valid.

        A device id that belonged to another serial number changes hands at once: the old secrets end. The serial
        number's former device, if it had another id, loses its pairing. A token that was claimed here before changes
        nothing, its first claim is returned: compare ``request_id``.
        Raises :class:`TopicsRefusedError` or :class:`StoreUnavailableError`.
        """
        async with self._changing:
            former = self._by_serial.get(claim.serial)
            leaving = () if former is None else (former.device_id,)
            topics = self._expand(claim.config, claim.serial, leaving=leaving)
            job = partial(rows.pair, claim=claim, now_ms=self._database.clock.now_ms())
            pairing, _ = await self._commit(job, lambda result: self._paired(result[1], claim.config, topics))
        return pairing

    def _paired(self, row: DeviceRow | None, config: DeviceConfig, topics: DeviceTopics) -> None:
        if row is None:
            return
        former = self._by_serial.get(row.serial)
        if former is not None and former.device_id != row.device_id:
            self._forget(former)
        self._topics.put(row.device_id, topics)
        self._install(_device(row, config, topics))

    async def set_enabled(self, device_id: str, enabled: bool) -> Device:
        """Let a device in, or keep it out. :class:`UnknownDeviceError`, :class:`StoreUnavailableError`."""
        async with self._changing:
            device = self._by_id.get(device_id)
            if device is None:
                raise UnknownDeviceError(f"no device {device_id} is paired here")
            if device.disabled_reason not in (None, SWITCHED_OFF):
                # what made it unusable at start is mended by pairing, not by a switch
                return device
            new = replace(device, enabled=enabled, disabled_reason=None if enabled else SWITCHED_OFF)
            await self._commit(
                partial(rows.set_enabled, device_id=device_id, enabled=enabled), lambda _: self._install(new)
            )
            return new

    async def note(self, notes: Mapping[str, DeviceNote]) -> None:
        """Store what devices showed of themselves; a login ends the generations before the one it used.

        At most a few hundred at a time: it is one job of the store. Unknown devices and generations that are not valid
        are passed over.
        """
        async with self._changing:
            changes = [new for device_id, note in notes.items() if (new := self._noted(device_id, note))]
            if changes:
                values = [
                    (d.valid_from, d.login_generation, d.first_login_at_ms, d.firmware_version, d.hardware, d.device_id)
                    for d in changes
                ]
                await self._commit(partial(rows.note, values=values), lambda _: self._install_all(changes))

    def _noted(self, device_id: str, note: DeviceNote) -> Device | None:
        device = self._by_id.get(device_id)
        if device is None:
            return None
        new = replace(
            device,
            firmware_version=note.firmware_version or device.firmware_version,
            hardware=note.hardware or device.hardware,
        )
        if note.generation is not None and device.accepts(note.generation):
            new = replace(
                new,
                valid_from=note.generation,
                login_generation=max(note.generation, device.login_generation),
                first_login_at_ms=device.first_login_at_ms or self._database.clock.now_ms(),
            )
        return new if new != device else None

    async def _commit(self, job: Callable[[sqlite3.Connection], T], apply: Callable[[T], None]) -> T:
        """Run the job, then change the memory. Both happen also if the caller is cancelled meanwhile."""
        done = self._database.submit(job)

        def follow(future: asyncio.Future[T]) -> None:
            if not future.cancelled() and future.exception() is None:
                apply(future.result())

        done.add_done_callback(follow)
        return await asyncio.shield(done)

    def _install(self, device: Device) -> None:
        before = self._by_id.get(device.device_id)
        if before is not None and before.serial != device.serial:
            del self._by_serial[before.serial]
        self._by_id[device.device_id] = self._by_serial[device.serial] = device
        for tell in self.changed:
            tell(device)

    def _install_all(self, devices: Iterable[Device]) -> None:
        for device in devices:
            self._install(device)

    def _forget(self, device: Device) -> None:
        del self._by_id[device.device_id]
        del self._by_serial[device.serial]
        self._topics.discard(device.device_id)
        for tell in self.removed:
            tell(device)


def _device(
    row: DeviceRow, config: DeviceConfig, topics: DeviceTopics, *, disabled_reason: str | None = None
) -> Device:
    return Device(
        device_id=row.device_id,
        serial=row.serial,
        generation=row.generation,
        valid_from=row.valid_from,
        login_generation=row.login_generation,
        enabled=disabled_reason is None,
        config=config,
        topics=topics,
        firmware_version=row.firmware_version,
        hardware=row.hardware,
        paired_at_ms=row.paired_at_ms,
        first_login_at_ms=row.first_login_at_ms,
        disabled_reason=disabled_reason,
    )
