"""All paired devices, in memory for the hot path; every change is on disk before anybody sees it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import DeviceTopics, TopicTemplates
from appliance.errors import TopicsRefusedError
from appliance.store import device_rows as rows
from appliance.store.database import Database
from appliance.store.device import SWITCHED_OFF, Device, DeviceNote, DeviceUpdate, Told, noted, with_topics
from appliance.store.device_loading import Loader
from appliance.store.device_plan import Plan, Refusal
from appliance.store.device_record import device_of, row_of, write_topics
from appliance.store.device_rows import Claim, DeviceRow, Pairing
from appliance.store.local_index import LocalIndex
from appliance.store.topic_index import TopicIndex

__all__ = ["SWITCHED_OFF", "Device", "DeviceNote", "DeviceRegistry", "DeviceUpdate", "Told"]

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST_TEMPLATES_KEPT = 256
"""Checked sets of topic templates: devices of a profile share them."""


class DeviceRegistry:
    """The paired devices. Reads are dictionary lookups on the event loop, changes are committed first."""

    def __init__(self, *, database: Database, templates: TopicTemplates) -> None:
        self.changed: list[Callable[[Device], None]] = []
        """Called on the event loop after a new or changed device is durable. A device id may have got another
        serial number, or ``valid_from`` may have risen: a connection with an older secret is then no longer its own."""
        self.removed: list[Callable[[Device], None]] = []
        """Called on the event loop after a device has lost its pairing for good."""
        self.replaced: list[Callable[[Device], None]] = []
        """Called on the event loop with the device whose id now belongs to another serial number."""
        self.handed_over: Callable[[sqlite3.Connection, str], None] = lambda connection, device_id: None
        """Called in the writer thread, in the transaction in which a device id goes to another serial number."""
        self._database = database
        self._templates = templates
        self._by_id: dict[str, Device] = {}
        self._by_serial: dict[str, Device] = {}
        self._topics = TopicIndex(config_request=templates.config_request)
        self._local = LocalIndex(templates)
        self._checked: dict[frozenset[tuple[str, str]], TopicTemplates] = {}
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
        """Read all devices. One that cannot be served (its topics collide, say) is loaded disabled, with the reason.

        Where the settings give a device other topics than it had, it may still use the ones it had.
        """
        loader = Loader(expand=self._expand_stored, topics=self._topics, templates=self._templates)
        after = ""
        while page := await self._database.run(partial(rows.load, after=after)):
            for row in page:
                loader.add(row)
            after = page[-1].device_id
        loader.finish()
        self._by_id = loader.devices
        self._by_serial = {device.serial: device for device in loader.devices.values()}
        for device in loader.devices.values():
            if device.earlier:
                self._put_local(device)
        log.info("%d paired devices", len(self._by_id))

    def _expand(self, config: DeviceConfig, serial: str, *, leaving: Collection[str] = ()) -> DeviceTopics:
        """The topics of a device; :class:`TopicsRefusedError` if they are invalid or another device's."""
        try:
            # checking templates costs more than all else of loading a device, and most devices bring none
            templates = self._replaced(config.topics) if config.topics else self._templates
            topics = templates.expand(config.device_id, serial)
            local = config.local()
        except ValueError as error:
            raise TopicsRefusedError(f"its topics cannot be used: {error}") from None
        conflict = self._topics.conflict(config.device_id, topics, leaving=leaving)
        if not conflict and (config.topics or local):
            conflict = self._local.conflict(config.device_id, topics, local)
        if conflict:
            raise TopicsRefusedError(f"its topics cannot be used: {conflict}")
        if config.topics or local:
            self._local.reserve(config.device_id, topics, local)
        return topics

    def _expand_stored(self, config: DeviceConfig, serial: str) -> tuple[DeviceConfig, DeviceTopics]:
        """The same for what was stored under other settings: without its local topics a device still has its work."""
        try:
            return config, self._expand(config, serial)
        except TopicsRefusedError as error:
            if config.local_topics is None:
                raise
            config = config.model_copy(update={"local_topics": None})
            topics = self._expand(config, serial)
            log.error("device %s is served without its local topics: %s", config.device_id, error)
            return config, topics

    def _replaced(self, overrides: Mapping[str, str]) -> TopicTemplates:
        key = frozenset(overrides.items())
        templates = self._checked.get(key)
        if templates is None:
            templates = self._templates.replaced(overrides)
            if len(self._checked) >= MOST_TEMPLATES_KEPT:
                self._checked.clear()
            self._checked[key] = templates
        return templates

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
            earlier: tuple[DeviceTopics, ...] = ()
            if former is not None and former.device_id == claim.config.device_id and not former.troubled:
                earlier = with_topics(former, topics).earlier
            job = partial(
                rows.pair,
                claim=claim,
                topics=write_topics([topics]),
                earlier=write_topics(earlier) if earlier else None,
                now_ms=self._database.clock.now_ms(),
                handed_over=self.handed_over,
            )
            pairing, _ = await self._commit(
                job,
                lambda result: self._paired(result[1], claim.config, topics, earlier),
                undo=lambda: self._give_back(claim.config.device_id),
            )
        return pairing

    def _paired(
        self, row: DeviceRow | None, config: DeviceConfig, topics: DeviceTopics, earlier: tuple[DeviceTopics, ...]
    ) -> None:
        if row is None:
            self._give_back(config.device_id)
            return
        former = self._by_serial.get(row.serial)
        if former is not None and former.device_id != row.device_id:
            self._forget(former)
        self._topics.put(row.device_id, topics, earlier)
        self._install(device_of(row, config, topics, earlier=earlier))

    async def set_enabled(self, device_id: str, enabled: bool) -> Device:
        """Let a device in, or keep it out. :class:`UnknownDeviceError`, :class:`StoreUnavailableError`."""
        return await self.update(DeviceUpdate(device_id=device_id, enabled=enabled))

    async def update(self, update: DeviceUpdate) -> Device:
        """Change a device. :class:`TopicsRefusedError` if its configuration cannot be used: then it keeps the one it
        has, and the rest of the update is carried out. :class:`OtherDeviceError`, :class:`UnknownDeviceError`,
        :class:`StoreUnavailableError`."""
        refused = await self.update_many([update])
        if update.device_id in refused:
            raise refused[update.device_id]
        return self._by_id[update.device_id]

    async def update_many(self, updates: Sequence[DeviceUpdate]) -> dict[str, Refusal]:
        """Change devices in one transaction, at most a few hundred: it is one job of the store. Which were refused, and
        why, by device id; one that is refused changes nothing for the others. :class:`StoreUnavailableError`."""
        async with self._changing:
            planned = Plan(devices=self._by_id, expand=self._expand, topics=self._topics)
            for update in updates:
                planned.add(update)
            changed = planned.changed
            if changed:
                job = partial(rows.change, rows=planned.rows())
                await self._commit(job, lambda _: self._install_all(changed), undo=lambda: self._undo(planned))
            return planned.refused

    async def remove(
        self, device_ids: Collection[str], *, also: Callable[[sqlite3.Connection], object] | None = None
    ) -> list[str]:
        """End pairings for good: their secrets open nothing any more, their tokens lead nowhere, and a later pairing of
        the same id goes on counting its generations. Which of them there were; if any, ``also`` runs in the same
        transaction. :class:`StoreUnavailableError`."""
        async with self._changing:
            there = [device for device_id in dict.fromkeys(device_ids) if (device := self._by_id.get(device_id))]
            if there:
                ids = [device.device_id for device in there]
                await self._commit(partial(rows.remove, device_ids=ids, also=also), lambda _: self._forget_all(there))
            return [device.device_id for device in there]

    async def end_earlier(self, device_ids: Collection[str]) -> None:
        """These devices use their present topics alone. :class:`StoreUnavailableError`."""
        async with self._changing:
            found = [device for device_id in device_ids if (device := self._by_id.get(device_id)) and device.earlier]
            changed = [replace(device, earlier=()) for device in found]
            if changed:
                new_rows = [row_of(device, enabled=device.disabled_reason != SWITCHED_OFF) for device in changed]
                job = partial(rows.change, rows=new_rows)

                def apply(_: None) -> None:
                    for device in changed:
                        self._topics.put(device.device_id, device.topics)
                    self._install_all(changed)

                await self._commit(job, apply)

    async def note(self, notes: Mapping[str, DeviceNote]) -> None:
        """Store what devices showed of themselves; a login ends the generations before the one it used.

        At most a few hundred at a time: it is one job of the store. Unknown devices and generations that are not valid
        are passed over.
        """
        async with self._changing:
            now_ms = self._database.clock.now_ms()
            changes = []
            for device_id, note in notes.items():
                device = self._by_id.get(device_id)
                if device is not None and (new := noted(device, note, now_ms=now_ms)) != device:
                    changes.append(new)
            if changes:
                job = partial(
                    rows.note, rows=[row_of(device, enabled=device.enabled, with_topics=False) for device in changes]
                )
                await self._commit(job, lambda _: self._install_all(changes))

    async def _commit(
        self,
        job: Callable[[sqlite3.Connection], T],
        apply: Callable[[T], None],
        *,
        undo: Callable[[], None] | None = None,
    ) -> T:
        """Run the job, then change the memory, or ``undo`` what was prepared for it. Both happen also if the caller is
        cancelled meanwhile."""
        done = self._database.submit(job)

        def follow(future: asyncio.Future[T]) -> None:
            if not future.cancelled() and future.exception() is None:
                apply(future.result())
            elif undo is not None:
                undo()

        if done.done():
            # a store that is closed refuses at once: before the next caller's turn
            follow(done)
        else:
            done.add_done_callback(follow)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            # the next change must not begin from what memory knew before this one: it would bring that back
            if not done.done():
                await asyncio.wait({done})
            raise

    def _undo(self, planned: Plan) -> None:
        planned.undo()
        for device in planned.changed:
            self._give_back(device.device_id)

    def _give_back(self, device_id: str) -> None:
        """Nothing was stored: what was reserved for local topics is free again."""
        device = self._by_id.get(device_id)
        if device is None:
            self._local.discard(device_id)
        else:
            self._put_local(device)

    def _install(self, device: Device) -> None:
        before = self._by_id.get(device.device_id)
        if before is not None and before.serial != device.serial:
            del self._by_serial[before.serial]
            for tell in self.replaced:
                tell(before)
        self._by_id[device.device_id] = self._by_serial[device.serial] = device
        self._put_local(device)
        if before is None or not _alike(before, device):
            for tell in self.changed:
                tell(device)

    def _put_local(self, device: Device) -> None:
        local = device.config.local()
        if local or device.config.topics or device.earlier:
            self._local.put(device.device_id, (device.topics, *device.earlier), local)
        else:
            self._local.discard(device.device_id)

    def _install_all(self, devices: Iterable[Device]) -> None:
        for device in devices:
            self._install(device)

    def _forget(self, device: Device) -> None:
        del self._by_id[device.device_id]
        del self._by_serial[device.serial]
        self._topics.discard(device.device_id)
        self._local.discard(device.device_id)
        for tell in self.removed:
            tell(device)

    def _forget_all(self, devices: Iterable[Device]) -> None:
        for device in devices:
            self._forget(device)


def _alike(before: Device, device: Device) -> bool:
    """Whether they differ in nothing but what the device was told, for which nobody waits."""
    return before == replace(device, told=before.told, taken=before.taken)
