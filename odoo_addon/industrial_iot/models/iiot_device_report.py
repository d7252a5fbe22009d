from __future__ import annotations

from datetime import timedelta

from odoo import api, fields, models

from ..lib.message import Message

DAYS_KEPT = 90
REMOVED_AT_A_TIME = 10_000


class IiotDeviceReport(models.Model):
    """What a device or its appliance said that belongs to no record here: kept to be seen, never dropped in silence."""

    _name = "iiot.device.report"
    _description = "IIoT Device Report"
    _order = "id desc"
    _log_access = False

    device_id = fields.Many2one("iiot.device", required=True, readonly=True, index=True, ondelete="cascade")
    kind = fields.Char(required=True, readonly=True)
    at = fields.Datetime("Time", required=True, readonly=True, index=True)
    reason = fields.Char("Reason Code", readonly=True, help="Why it could not be assigned.")
    payload = fields.Text(readonly=True)

    @api.model
    def _keep(self, reports: list[tuple[Message, str]]):
        """Keep each message with the code that says why it stands here."""
        rows = [
            (message.device, message.kind, message.effective_at, reason, message.payload_json)
            for message, reason in reports
            if message.device
        ]
        if rows:
            self.env.cr.execute_values(
                "INSERT INTO iiot_device_report (device_id, kind, at, reason, payload) VALUES %s",
                rows,
                page_size=1000,
            )

    @api.model
    def _cron_remove_old(self):
        before = fields.Datetime.now() - timedelta(days=DAYS_KEPT)
        self.search([("at", "<", before)], limit=REMOVED_AT_A_TIME, order="id").unlink()
