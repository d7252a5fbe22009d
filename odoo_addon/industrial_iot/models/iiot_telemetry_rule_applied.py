from odoo import fields, models
from odoo.tools import SQL

from .constraints import ensure_index
from .plain_link import PlainMany2one


class IiotTelemetryRuleApplied(models.Model):
    """What a rule did last for a device, and what went wrong: apart from the rule, so that people can edit that."""

    _name = "iiot.telemetry.rule.applied"
    _description = "IIoT Telemetry Rule's Last Work"
    _order = "last_error_at desc nulls last, id desc"
    _rec_name = "device_id"
    _log_access = False

    rule_id = PlainMany2one("iiot.telemetry.rule", required=True, readonly=True)
    device_id = fields.Many2one("iiot.device", required=True, readonly=True, index=True, ondelete="cascade")
    at = fields.Datetime("Applied Reading", readonly=True, help="Time of the newest reading that took effect.")
    failures = fields.Integer(readonly=True)
    is_failing = fields.Boolean("Failing", readonly=True, help="It failed with the newest readings that it met.")
    last_error = fields.Char(readonly=True)
    last_error_at = fields.Datetime(readonly=True)

    def init(self):
        # what orders readings of the same time; 64 bits, which no field has
        table = SQL.identifier(self._table)
        self.env.cr.execute(SQL("ALTER TABLE %s ADD COLUMN IF NOT EXISTS seq bigint", table))
        ensure_index(self, "rule_device", "(rule_id, device_id)", unique=True)
        return super().init()
