from odoo import _, api, fields, models
from odoo.addons.base.models.res_partner import _tz_get
from odoo.exceptions import ValidationError


class ResCompany(models.Model):
    """Where its machines stand, as far as the clock goes: their days begin at midnight there."""

    _inherit = "res.company"

    iiot_tz = fields.Selection(
        _tz_get, "Time Zone of Machines", required=True, default=lambda self: self._iiot_usual_tz()
    )
    iiot_days_tz = fields.Char(
        "Time Zone of Values by Day", readonly=True, help="The time zone in which the daily values were calculated."
    )

    @api.model
    def _iiot_usual_tz(self):
        """The time zone of most users."""
        users = [("share", "=", False), ("tz", "!=", False)]
        usual = self.env["res.users"].sudo()._read_group(users, ["tz"], ["__count"], order="__count DESC", limit=1)
        return usual[0][0] if usual else "UTC"

    @api.constrains("iiot_tz")
    def _check_iiot_tz(self):
        for company in self:
            self.env.cr.execute("SELECT 1 FROM pg_timezone_names WHERE name = %s", (company.iiot_tz,))
            if not self.env.cr.rowcount:
                raise ValidationError(
                    _(
                        "The database does not know the time zone %s. Choose another one with the same time.",
                        company.iiot_tz,
                    )
                )

    def write(self, vals):
        changed = "iiot_tz" in vals and any(company.iiot_tz != vals["iiot_tz"] for company in self)
        result = super().write(vals)
        if changed and (cron := self.env.ref("industrial_iot.cron_days_anew", raise_if_not_found=False)):
            cron.sudo()._trigger()
        return result
