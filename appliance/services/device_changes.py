"""What Odoo and operators change of paired devices: configuration, switch, secret, and the end of a pairing.

A change is on disk when :meth:`DeviceService.apply` returns, and the same change again does nothing. What cannot be
applied is put aside (:mod:`appliance.store.changes_aside`) and tried again: a change of a device that is not paired
here when it is paired (Odoo may have granted its pairing and changed it before the grant is on this disk; a box that
replaces another hears of devices that have not come to it yet), a configuration that was refused when others have
left the topics it wants. Meanwhile the device goes on with the configuration that it has.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from appliance.contract.sync import DeviceChange
from appliance.errors import StoreUnavailableError, TopicsRefusedError, UnknownDeviceError
from appliance.store.changes_aside import Aside, ChangesAside, add_gateway_event
from appliance.store.database import Database
from appliance.store.device_rows import Claim
from appliance.store.devices import Device, DeviceRegistry, DeviceUpdate

log = logging.getLogger(__name__)
T = TypeVar("T")

CHANGES_PER_JOB = 100
"""A few milliseconds of the event loop, and as much of the writer."""
REFUSED_PER_ROUND = 100
ROUND_S = 60.0
AGAIN_S = 1.0
"""After nothing could be stored, for devices that have been paired."""


class Inheritance(Protocol):
    """What a box knows that has taken another's place."""

    def held(self, device_id: str) -> tuple[int, int]:
        """Which generations of its secret a device may have."""

    def end(self) -> None:
        """All devices are here; touches the disk."""


class DeviceService:
    """Changes, rotates and removes paired devices. :meth:`run` sees to what was put aside."""

    def __init__(
        self,
        *,
        registry: DeviceRegistry,
        database: Database,
        round_s: float = ROUND_S,
        inheritance: Inheritance | None = None,
    ) -> None:
        self.applied = 0
        """Changes that were carried out, since the start."""
        self.refused = 0
        """Changes that were refused, since the start."""
        self._registry = registry
        self._database = database
        self._aside = ChangesAside(database)
        self._round_s = round_s
        self._loaded = asyncio.Event()
        self._paired: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._applying = asyncio.Lock()
        self._inheritance = inheritance
        registry.changed.append(self._changed)

    # --- for Odoo --------------------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[DeviceChange], revoked: Collection[str]) -> None:
        """Carry out what Odoo has changed; all of it is on disk when this returns. One change that cannot be carried
        out is put aside, logged, counted and told to Odoo, and the others are not held up.

        A device that is in both lists is revoked. Raises :class:`StoreUnavailableError`: then ask Odoo again.
        """
        await self._load()
        async with self._applying:
            gone = dict.fromkeys(revoked)
            for ids in _chunks(list(gone)):
                for device_id in await self._registry.remove(ids):
                    log.warning("%s was revoked in Odoo: its pairing has ended", device_id)
                await self._aside.write([], done=ids)
            wanted: dict[str, DeviceChange] = {}
            for change in changes:
                if change.device_id not in gone:
                    wanted[change.device_id] = _merged(wanted.get(change.device_id), change)
            for some in _chunks(list(wanted.values())):
                waiting = await self._aside.read([each.device_id for each in some])
                before_it = {each.device_id: self._still_new(each) for each in waiting}
                if self._inheritance is not None:
                    await self._inherit(some, self._inheritance)
                await self._apply([_merged(before_it.get(each.device_id), each) for each in some])
            unknown = sum(reason is None for reason in self._aside.reasons.values())
            if unknown:
                log.info("changes of %d devices wait until these are paired here", unknown)

    async def _apply(self, changes: Sequence[DeviceChange]) -> None:
        """One chunk."""
        refused = await self._registry.update_many([_update(change) for change in changes])
        asides = []
        for change in changes:
            error = refused.get(change.device_id)
            if error is not None:
                reason = None if isinstance(error, UnknownDeviceError) else str(error)
                asides.append(Aside(change, reason))
                if reason is not None and self._aside.reasons.get(change.device_id) != reason:
                    self.refused += 1
                    log.warning("the new configuration of %s is refused: %s", change.device_id, error)
        self.applied += len(changes) - len(asides)
        done = [change.device_id for change in changes if change.device_id not in refused]
        await self._aside.write(asides, done=done)
        # the loop is others' too
        await asyncio.sleep(0)

    async def complete(self) -> None:
        """Odoo has told of all devices: whoever is not here by now was not paired with this gateway."""
        if self._inheritance is not None:
            await asyncio.to_thread(self._inheritance.end)
            self._inheritance = None

    async def _inherit(self, changes: Sequence[DeviceChange], inheritance: Inheritance) -> None:
        """This box has taken another's place: its devices are paired here too, with the secrets that they have."""
        for change in changes:
            if self._registry.get(change.device_id) or change.config is None or change.serial is None:
                continue
            claim = Claim(
                serial=change.serial,
                token_digest=secrets.token_bytes(32),  # no token leads here
                request_id="inherited",
                config=change.config.model_copy(update={"secret_version": change.secret_version}),
                held=inheritance.held(change.device_id),
            )
            try:
                await self._registry.pair(claim)
            except TopicsRefusedError as error:
                log.error("%s cannot be taken over from the box before this one: %s", change.device_id, error)

    # --- for operators ---------------------------------------------------------------------------------------

    async def rotate(self, device_id: str) -> Device:
        """Give a device a new secret; the present one stays valid until it has logged in with the new one.

        :class:`UnknownDeviceError`, :class:`StoreUnavailableError`.
        """
        device = await self._registry.update(DeviceUpdate(device_id=device_id, rotate=True))
        log.info("%s gets a new secret, generation %d", device_id, device.generation)
        return device

    async def remove(self, device_id: str) -> None:
        """End a pairing here; Odoo is told. :class:`UnknownDeviceError`, :class:`StoreUnavailableError`."""
        event: dict[str, object] = {"event": "device_removed", "device_id": device_id}
        tell = partial(add_gateway_event, device_id=device_id, event=event, now_ms=self._database.clock.now_ms())
        if not await self._registry.remove([device_id], also=tell):
            raise UnknownDeviceError(f"no device {device_id} is paired here")
        log.warning("%s was removed by an operator: its pairing has ended", device_id)

    def refusal(self, device_id: str) -> str | None:
        """Why the newest configuration of a device is not taken over, if it is not."""
        return self._aside.reasons.get(device_id)

    @property
    def aside(self) -> int:
        """Changes that wait for their device, or for topics that others have."""
        return len(self._aside.reasons)

    # --- what was put aside ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Try again what was put aside, until cancelled: at once when its device is paired, and once a minute."""
        await self._load_patiently()
        self._paired.update(dict.fromkeys(each for each in self._aside.reasons if self._registry.get(each)))
        while True:
            with suppress(StoreUnavailableError):
                await self.retry()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(AGAIN_S, self._round_s) if self._paired else self._round_s):
                    await self._wake.wait()
            self._wake.clear()

    async def retry(self) -> None:
        """Try again: all that have been paired since, and some of those that were refused."""
        refused = [device_id for device_id, reason in self._aside.reasons.items() if reason is not None]
        paired, self._paired = self._paired, {}
        try:
            for ids in _chunks([*paired, *(each for each in refused[:REFUSED_PER_ROUND] if each not in paired)]):
                async with self._applying:
                    await self._apply([self._still_new(change) for change in await self._aside.read(ids)])
        except StoreUnavailableError:
            # a device that Odoo has switched off must not be let in because of it
            self._paired = {**paired, **self._paired}
            raise
        # the others' turn comes too
        for device_id in refused[:REFUSED_PER_ROUND]:
            if device_id in self._aside.reasons:
                self._aside.reasons[device_id] = self._aside.reasons.pop(device_id)

    def _still_new(self, change: DeviceChange) -> DeviceChange:
        """Without its configuration, if the device was paired with a newer one since."""
        device = self._registry.get(change.device_id)
        if device is None or change.config is None or change.config.config_version > device.config_version:
            return change
        return change.model_copy(update={"config": None})

    def _changed(self, device: Device) -> None:
        if device.device_id in self._aside.reasons and self._aside.reasons[device.device_id] is None:
            self._paired[device.device_id] = None
            self._wake.set()

    async def _load(self) -> None:
        if not self._loaded.is_set():
            await self._aside.load()
            self._loaded.set()

    async def _load_patiently(self) -> None:
        while not self._loaded.is_set():
            try:
                await self._load()
            except StoreUnavailableError:
                await asyncio.sleep(1.0)


def _update(change: DeviceChange) -> DeviceUpdate:
    return DeviceUpdate(
        device_id=change.device_id,
        serial=change.serial,
        config=change.config,
        enabled=change.enabled,
        secret_version=change.secret_version,
    )


def _merged(before: DeviceChange | None, change: DeviceChange) -> DeviceChange:
    """A later change of the same device; a configuration that it leaves out has not changed since."""
    if before is None:
        return change
    return change.model_copy(
        update={
            "serial": change.serial or before.serial,
            "config": change.config or before.config,
            "secret_version": max(change.secret_version, before.secret_version),
        }
    )


def _chunks(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + CHANGES_PER_JOB] for start in range(0, len(items), CHANGES_PER_JOB))
