"""Firmware updates between Odoo and its appliances: what is offered to them, and what they tell."""

from __future__ import annotations

from typing import Any

from odoo import api, models

from ..lib import json_text
from ..lib.message import Message
from ..lib.times import parse_rfc3339, usable_time
from ..lib.update_life import FINAL, REPORTED, UpdateLife

_LIFE_COLUMNS = (
    *("state", "progress", "error", "reason", "from_device", "new_version", "ended_at", "history"),
    *("waiting", "cancel_requested"),
)
_TELLS_VERSION = ("installed", "already_installed", "rolled_back")


class IiotUpdate(models.Model):
    _inherit = "iiot.update"

    @api.model
    def _offer(self, gateway, limit: int) -> dict[str, Any]:
        """``updates`` and ``more`` of the answer to ``sync``: orders until they are told of, and cancellations.

        A cancellation is offered until ``cancelling`` or an end is told; an order that is to be cancelled is not
        offered beside it, the appliance answers ``cancelled`` for what it never had.
        """
        of_gateway = [("device_id.gateway_id", "=", gateway.id)]
        found = self.search(
            [*of_gateway, "|", ("waiting", "=", True), ("cancel_requested", "=", True)], order="id", limit=limit + 1
        )
        taken = found[:limit]
        fresh = taken.filtered(
            lambda update: not (update.cancel_offered if update.cancel_requested else update.offered)
        )
        cancels = taken.filtered("cancel_requested")
        orders = [update._wire_order() for update in taken]
        (taken - cancels).filtered(lambda update: not update.offered).write({"offered": True})
        cancels.filtered(lambda update: not update.cancel_offered).write({"cancel_offered": True})
        # one that Odoo itself has ended is taken back once: nobody has to tell of it
        cancels.filtered(lambda update: update.state in FINAL).write({"cancel_requested": False})
        return {"updates": orders, "more": len(found) > limit and bool(fresh)}

    @api.model
    def _has_new(self, gateway) -> bool:
        """Whether there is something that was never offered to this gateway."""
        domain = [
            ("device_id.gateway_id", "=", gateway.id),
            *("|", "&", ("waiting", "=", True), ("offered", "=", False)),
            *("&", ("cancel_requested", "=", True), ("cancel_offered", "=", False)),
        ]
        return bool(self.search_count(domain, limit=1))

    def _wire_order(self) -> dict[str, Any]:
        """As in ``POST /api/v1/ota/send``."""
        self.ensure_one()
        order = {"update_id": self.update_id, "device_id": self.device_id.device_id}
        if self.cancel_requested:
            return {**order, "action": "cancel_update", "params": {}}
        params = self.firmware_id._wire_params() if self.action == "start_update" else {}
        return {**order, "action": self.action, "params": params}

    @api.model
    def _take_statuses(self, messages: list[Message]):
        """Messages of the kind ``ota_status``, in order; also what they say of the version that runs."""
        names = {name for message in messages if (name := _update_id(message))}
        known = {update.update_id: update for update in self.search([("update_id", "in", list(names))])}
        lives: dict[str, UpdateLife] = {name: update._life() for name, update in known.items()}
        versions: dict[int, str] = {}
        reports: list[tuple[Message, str]] = []
        for message in messages:
            name = _update_id(message)
            state = message.payload.get("state") if isinstance(message.payload, dict) else None
            if state not in REPORTED:
                reports.append((message, "no_state"))
                continue
            update = known.get(name or "")
            if update is None or update.device_id.id != message.device:
                # ordered by somebody else, through the appliance: the version counts all the same
                reports.append((message, "no_update"))
                update = None
            version = _short(message.payload.get("version"), 64)
            if update is not None:
                version = version or (update.version if state in ("installed", "already_installed") else None)
                _report(lives[update.update_id], message, state, version)
            if state in _TELLS_VERSION and version:
                versions[message.device] = version
        self._store_lives([(known[name], lives[name]) for name in sorted(known)])
        self._store_versions(versions)
        if reports:
            self.env["iiot.device.report"]._keep(reports)

    def _store_lives(self, lives: list[tuple[Any, UpdateLife]]):
        """One statement for all, however many devices report at a time; an end is a line in the chatter."""
        if not lives:
            return
        states = dict(self._fields["state"]._description_selection(self.env))
        ended = {
            update.id: ": ".join(filter(None, (states[life.state], life.error or life.reason)))
            for update, life in lives
            if life.state != update.state and life.state in FINAL
        }
        rows = [
            (
                *(update.id, life.state, life.progress, life.error, life.reason, life.from_device, life.new_version),
                *(life.ended_at, json_text.dumps(life.history), update.waiting and not life.heard),
                update.cancel_requested and life.state not in ("cancelling", *FINAL),
            )
            for update, life in lives
        ]
        self.flush_model()
        self.env.cr.execute_values(
            f"UPDATE iiot_update u SET {', '.join(f'{name} = v.{name}' for name in _LIFE_COLUMNS)} "
            f"FROM (VALUES %s) AS v (id, {', '.join(_LIFE_COLUMNS)}) WHERE u.id = v.id",
            rows,
            template="(%s, %s, %s, %s::varchar, %s::varchar, %s, %s::varchar, %s::timestamp, %s::jsonb, %s, %s)",
            page_size=1000,
        )
        self.invalidate_model(flush=False)
        if ended:
            updates = self.browse(list(ended))
            updates._message_log_batch(ended)
            updates._look_after()

    def _store_versions(self, versions: dict[int, str]):
        """The versions that run, by device."""
        if not versions:
            return
        self.env["iiot.device.state"].flush_model(["firmware_version"])
        self.env.cr.execute_values(
            "UPDATE iiot_device_state s SET firmware_version = v.version FROM (VALUES %s) AS v (device, version), "
            "iiot_device d WHERE d.id = v.device AND s.id = d.state_id",
            sorted(versions.items()),
            page_size=1000,
        )
        self.env["iiot.device.state"].invalidate_model(flush=False)
        self.env["iiot.device"].invalidate_model(flush=False)


def _update_id(message: Message) -> str | None:
    name = message.payload.get("update_id") if isinstance(message.payload, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= 64 else None


def _report(life: UpdateLife, message: Message, state: str, version: str | None):
    payload: dict[str, Any] = message.payload
    try:
        at = usable_time(parse_rfc3339(payload.get("at")), message.received_at)
    except ValueError:
        at = message.effective_at
    progress = payload.get("progress")
    is_number = not isinstance(progress, bool) and isinstance(progress, (int, float))
    from_device = payload.get("source") != "appliance"
    life.report(
        state,
        at,
        from_device=from_device,
        progress=float(progress) if is_number and 0 <= progress <= 100 else None,
        version=version,
        error=_short(payload.get("error"), 300),
        reason=_short(payload.get("reason"), 64) or ("device" if from_device and state == "failed" else None),
    )


def _short(value: Any, characters: int) -> str | None:
    return value[:characters].replace("\0", "") if isinstance(value, str) and value else None
