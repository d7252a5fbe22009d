from odoo import fields, models

from .constraints import ensure_index
from .plain_link import PlainMany2one, summed_up_by


class IiotTelemetryValue(models.Model):
    """One number of a reading, of a metric that the profile names: what charts of one device are made of."""

    _name = "iiot.telemetry.value"
    _description = "IIoT Value"
    _order = "id desc"
    _rec_name = "metric"
    _log_access = False

    device_id = fields.Many2one("iiot.device", required=True, readonly=True, ondelete="cascade")
    company_id = PlainMany2one("res.company", readonly=True)
    metric = fields.Char(required=True, readonly=True)
    at = fields.Datetime("Time", required=True, readonly=True)
    value = fields.Float(readonly=True, **summed_up_by("avg"))

    def init(self):
        self.env["iiot.telemetry"]._make_ids_wide(self._table)
        ensure_index(self, "device_metric_at", "(device_id, metric, at)")
