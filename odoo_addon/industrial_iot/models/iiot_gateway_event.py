from datetime import timedelta
from typing import Any

from odoo import _, api, fields, models

from ..lib.message import Message

EVENT_CHARACTERS = 64
DETAIL_CHARACTERS = 2000
KEPT_DAYS = 90
REMOVED_AT_A_TIME = 10_000
NEEDS_SOMEBODY = frozenset(("device_change_refused", "new_epoch", "odoo_knows_less"))
"""Something is to be put right, or understood: a device that keeps its old configuration, a copy, a restore."""


class IiotGatewayEvent(models.Model):
    """Something that an appliance told of itself, for those who look into what happened."""

    _name = "iiot.gateway.event"
    _description = "IIoT Gateway Event"
    _order = "at desc, id desc"
    _log_access = False
    _rec_name = "event"

    gateway_id = fields.Many2one("iiot.gateway", required=True, index=True, ondelete="cascade")
    company_id = fields.Many2one(related="gateway_id.company_id", store=True, index=True)
    device_id = fields.Many2one("iiot.device", index=True, ondelete="set null")
    at = fields.Datetime("Time", required=True, index=True)
    event = fields.Char(required=True)
    detail = fields.Text(help="Everything the gateway reported about it, as JSON.")

    def _ask_somebody(self) -> None:
        """An activity for the gateway's responsible, unless there is one of the same words already."""
        record = self.device_id or self.gateway_id
        summary = _("The gateway reports: %s", self.event)
        user = self.gateway_id.user_id
        if not user or record.activity_ids.filtered(lambda each: each.summary == summary):
            return
        record.activity_schedule("mail.mail_activity_data_warning", summary=summary, note=self.detail, user_id=user.id)

    def _end_pairing(self) -> None:
        """An operator removed the device at the appliance: its secret is worth nothing there any more."""
        device = self.device_id
        if device.paired_at and device.paired_at <= self.at and device.gateway_id == self.gateway_id:
            device._revoke_pairing()

    @api.autovacuum
    def _remove_old(self):
        limit = fields.Datetime.now() - timedelta(days=KEPT_DAYS)
        self.search([("at", "<", limit)], limit=REMOVED_AT_A_TIME).unlink()


class IiotGateway(models.Model):
    _inherit = "iiot.gateway"

    def _take_events(self, messages: list[Message]) -> None:
        """Messages of the kind ``gateway_event``: written down, and an activity for those that need somebody."""
        devices = self._devices_named(messages)
        rows: list[dict[str, Any]] = []
        for message in messages:
            said = message.payload if isinstance(message.payload, dict) else {}
            event, named = said.get("event"), said.get("device_id")
            rows.append(
                {
                    "gateway_id": self.id,
                    "device_id": message.device or (devices.get(named, False) if isinstance(named, str) else False),
                    "at": message.effective_at.replace(microsecond=0),
                    "event": event[:EVENT_CHARACTERS] if isinstance(event, str) and event else "unknown",
                    "detail": message.payload_json[:DETAIL_CHARACTERS],
                }
            )
        for row in self.env["iiot.gateway.event"].create(rows):
            if row.event in NEEDS_SOMEBODY:
                row._ask_somebody()
            elif row.event == "device_removed":
                row._end_pairing()

    def _devices_named(self, messages: list[Message]) -> dict[str, int]:
        """Devices of this gateway that events speak of, by name."""
        names = {
            name
            for message in messages
            if isinstance(message.payload, dict) and isinstance(name := message.payload.get("device_id"), str)
        }
        if not names:
            return {}
        domain = [("gateway_id", "=", self.id), ("device_id", "in", sorted(names))]
        return {device.device_id: device.id for device in self.env["iiot.device"].search(domain)}
