from odoo import _, api, fields, models
from odoo.exceptions import ValidationError

from ..lib.jsonpath import PathError, compile_metric

MAX_METRICS = 64


class IiotDeviceProfile(models.Model):
    _inherit = "iiot.device.profile"

    rule_ids = fields.One2many("iiot.telemetry.rule", "profile_id", "Telemetry Rules")
    rollup_days = fields.Integer(
        "Keep Hourly Values (days)",
        default=1825,
        help="Minimum, maximum and average of each hour and day. 0: forever.",
    )

    @api.constrains("metrics")
    def _check_metrics(self):
        for profile in self:
            names = profile._metric_names()
            if len(names) > MAX_METRICS:
                raise ValidationError(_("A configuration template lists at most %s metrics.", MAX_METRICS))
            for name in names:
                try:
                    compile_metric(name)
                except PathError as error:
                    told = self.env["iiot.wording"]._told(error)
                    raise ValidationError(_("The metric cannot be used: %s", told)) from None

    @api.constrains("history_days", "rollup_days")
    def _check_days(self):
        if any(profile.history_days < 0 or profile.rollup_days < 0 for profile in self):
            raise ValidationError(_("The number of days cannot be below 0."))

    def _metric_names(self) -> list[str]:
        """The metrics it names, each once, in their order."""
        return list(dict.fromkeys(line.strip() for line in (self.metrics or "").splitlines() if line.strip()))

    def _kept_days(self) -> list[tuple[str, str, int]]:
        """Table, column of the time, and days to keep, of all that is kept of readings."""
        return [
            ("iiot_telemetry", "at", self.history_days),
            ("iiot_telemetry_value", "at", self.history_days),
            ("iiot_telemetry_hour", "hour", self.rollup_days),
            ("iiot_telemetry_day", "day", self.rollup_days),
        ]

    def write(self, vals):
        result = super().write(vals)
        if vals.keys() & {"keep_history", "metrics"}:
            self.env.registry.clear_cache()  # the plan of the telemetry rules
        return result
