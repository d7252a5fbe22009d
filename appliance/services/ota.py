"""Firmware updates as Odoo and people order them: begin one, roll back, cancel, ask how it stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from appliance.contract.ota import (
    FailureReason,
    OrderedFirmware,
    SendUpdate,
    UpdateState,
    UpdateStatus,
    message,
    offer,
    usable_url,
)
from appliance.contract.sync import PendingUpdate
from appliance.errors import (
    DeviceDisabledError,
    RequestError,
    StoreUnavailableError,
    UnknownDeviceError,
    UnknownUpdateError,
    UpdateRefusedError,
)
from appliance.services.command_status import new_command_id
from appliance.services.ota_delivery import size_problem
from appliance.services.ota_status import accepted, full_status, order_digest
from appliance.services.ota_tracker import UpdateTracker
from appliance.store import update_rules as rules
from appliance.store.updates import NewUpdate, UpdateOutcome

log = logging.getLogger(__name__)

MAX_OPEN = 20_000
LONGEST_UPDATE_ID = 128
"""Characters. What Odoo calls an update is told back to it, but not at any length."""
_FULL_RETRY_S = 60


class OtaService(UpdateTracker):
    """What can be asked of updates. At most ``max_open`` are open at a time, one for each device."""

    max_open = MAX_OPEN

    async def send(self, order: SendUpdate) -> UpdateStatus:
        """Accept an order; it is on disk when this returns. The same ``update_id`` again: the first result again.

        Raises :class:`UnknownDeviceError`, :class:`DeviceDisabledError`, :class:`UnknownUpdateError` (to cancel),
        :class:`UpdateRefusedError` (409 ``update_open``, ``update_id_conflict``, ``update_final``; 422
        ``bad_request``, ``offer_too_large``, ``firmware_too_large``; 429 ``queue_full``),
        :class:`StoreUnavailableError`.
        """
        await self._resumed.wait()
        if order.action == "cancel_update":
            return await self._cancel_ordered(order)
        params = _checked_params(order)
        digest = order_digest(order.device_id, order.action, params)
        if order.update_id is not None:
            # what was accepted once stays accepted, whatever has become of the device since
            known = await self._find_accepted(order.update_id, digest)
            if known is not None:
                return known
        new = self._checked(order, params, digest)
        change = partial(rules.add, new=new, moment=self._moment(), deadlines=self._deadlines)
        outcome = await self._awaited(change, self._added)
        if outcome.busy is not None:
            message = f"update {outcome.busy} of device {order.device_id} is open; cancel it first"
            raise UpdateRefusedError(message)
        if outcome.changed and outcome.row is not None:
            return accepted(outcome.row)
        known = await self._find_accepted(new.update_id, digest)
        if known is None:
            raise UnknownUpdateError(f"update {new.update_id} is known no more")
        return known

    async def take(self, pending: PendingUpdate) -> None:
        """Carry out an order that came with a sync; it may come again and again.

        One that cannot be carried out becomes a ``failed`` for Odoo with the reason, once; a cancellation of what is
        not known here a ``cancelled``. :class:`StoreUnavailableError`, and then it must come again.
        """
        await self._resumed.wait()
        try:
            await self.send(SendUpdate.model_validate(pending.model_dump()))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            await self._refuse(pending, "failed", "refused", f"{first['loc'][0]}: {first['msg']}")
        except UnknownUpdateError:
            await self._refuse(pending, "cancelled", "unknown_update", None)
        except RequestError as error:
            if error.code in ("update_id_conflict", "update_final") or error.retry_after_s is not None:
                # what the id stands for has been told already; what is only too much now comes again
                if self._quiet.due(pending.update_id):
                    log.warning("update %.64r from Odoo is not carried out: %s", pending.update_id, error)
            else:
                await self._refuse(pending, "failed", "refused", f"{error.code}: {error}")

    async def status(self, update_id: str) -> UpdateStatus:
        """What is known of an update. :class:`UnknownUpdateError` if nothing is (any more)."""
        await self._resumed.wait()
        stored = await self._updates.find(update_id)
        if stored is None:
            raise UnknownUpdateError(f"no update {update_id} is known")
        download = self._firmware.downloads(stored.row.position)
        return full_status(stored, now=self._moment(), download=download)

    async def cancel(self, update_id: str) -> UpdateStatus:
        """End what the device has not heard of; tell the device to stop what it has (``cancelling``).

        :class:`UnknownUpdateError`; :class:`UpdateRefusedError` 409 ``update_final`` once it has ended otherwise.
        """
        await self._resumed.wait()
        stored = await self._updates.find(update_id)
        if stored is None:
            raise UnknownUpdateError(f"no update {update_id} is known")
        return await self._cancel(update_id, stored.row.device)

    async def _cancel_ordered(self, order: SendUpdate) -> UpdateStatus:
        update_id = order.update_id
        if update_id is None:
            entry = self._by_device.get(order.device_id)
            if entry is None:
                raise UnknownUpdateError(f"device {order.device_id} has no open update")
            update_id = entry.row.update_id
        return await self._cancel(update_id, order.device_id)

    async def _cancel(self, update_id: str, device_id: str) -> UpdateStatus:
        change = partial(
            rules.cancel, update_id=update_id, device=device_id, moment=self._moment(), deadlines=self._deadlines
        )
        outcome = await self._awaited(change, self._taken_over)
        if outcome.row is None:
            raise UnknownUpdateError(f"device {device_id} has no update {update_id}")
        state = outcome.row.state
        if not outcome.changed and state not in ("cancelling", "cancelled"):
            raise UpdateRefusedError(f"update {update_id} has ended already: {state}", code="update_final")
        return await self.status(update_id)

    def _checked(self, order: SendUpdate, params: dict[str, Any], digest: bytes) -> NewUpdate:
        device = self._devices.get(order.device_id)
        if device is None:
            raise UnknownDeviceError(f"no device {order.device_id} is paired with this appliance")
        if not device.enabled:
            raise DeviceDisabledError(f"device {order.device_id} is switched off")
        if len(self._open) >= self.max_open:
            text = f"{self.max_open} updates are open already"
            raise UpdateRefusedError(text, status=429, code="queue_full", retry_after_s=_FULL_RETRY_S)
        update_id = order.update_id or new_command_id(self._clock.now_ms())
        sha256 = size = None
        if order.action == "start_update":
            # of a rollback these would be anything: its parameters are the device's alone, and nobody has checked them
            sha256, size = params.get("sha256"), params.get("size")
            most_bytes = self._firmware.most_bytes
            if size is not None and size > most_bytes:
                text = f"the file has {size} bytes, {most_bytes} are allowed (IIOT_FIRMWARE_MAX_MB)"
                raise UpdateRefusedError(text, status=422, code="firmware_too_large")
            # as long as it can become
            payload = offer(
                update_id, params, url=self._links.longest(), size=size or most_bytes, sha256=sha256 or "0" * 64
            )
        else:
            payload = message("rollback", update_id, params)
        problem = size_problem(device, payload)
        if problem is not None:
            raise UpdateRefusedError(problem, status=422, code="offer_too_large")
        return NewUpdate(
            update_id=update_id,
            device=order.device_id,
            action=order.action,
            digest=digest,
            params=to_json(params).decode(),
            sha256=sha256,
            size=size,
        )

    async def _find_accepted(self, update_id: str, digest: bytes) -> UpdateStatus | None:
        self._changes.flush()
        stored = await self._updates.find(update_id)
        if stored is None:
            return None
        if stored.row.digest != digest:
            text = f"update id {update_id} was used for another order"
            raise UpdateRefusedError(text, code="update_id_conflict")
        return accepted(stored.row)

    async def _refuse(
        self, pending: PendingUpdate, state: UpdateState, reason: FailureReason, error: str | None
    ) -> None:
        if len(pending.update_id) > LONGEST_UPDATE_ID:
            log.warning("Odoo hands out an update whose id has %d characters", len(pending.update_id))
            return
        version = pending.params.get("version")
        kept = {"version": version[:64]} if isinstance(version, str) else {}
        new = NewUpdate(
            update_id=pending.update_id,
            device=pending.device_id,
            action=pending.action,
            digest=b"",
            params=to_json(kept).decode(),
            sha256=None,
            size=None,
        )
        change = partial(rules.refuse, new=new, state=state, reason=reason, error=error, moment=self._moment())
        await self._awaited(change)

    def _added(self, outcome: UpdateOutcome) -> None:
        row = outcome.row
        if not outcome.changed or row is None:
            return
        entry = self._take_in(row)
        self._begun(entry, outcome)

    async def _awaited(
        self,
        change: Callable[..., UpdateOutcome],
        then: Callable[[UpdateOutcome], None] = lambda outcome: None,
    ) -> UpdateOutcome:
        future: asyncio.Future[UpdateOutcome] = asyncio.get_running_loop().create_future()

        def committed(outcome: UpdateOutcome) -> None:
            if not future.done():
                future.set_result(outcome)
            then(outcome)

        def dropped(error: StoreUnavailableError) -> None:
            if not future.done():
                future.set_exception(error)

        self._changes.add(change, committed, failed=dropped)
        return await future


def _checked_params(order: SendUpdate) -> dict[str, Any]:
    """The parameters as they are kept: what is not set is left out."""
    if order.action != "start_update":
        return order.params
    try:
        firmware = OrderedFirmware.model_validate(order.params)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        text = f"params.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise UpdateRefusedError(text, status=422, code="bad_request") from None
    problem = usable_url(firmware.url)
    if problem is not None:
        raise UpdateRefusedError(f"params.{problem}", status=422, code="bad_request")
    return firmware.model_dump(exclude_none=True)
