from odoo import api, models


class IrCron(models.Model):
    _inherit = "ir.cron"

    @api.model
    def _iiot_run_for_ever(self):
        """In 17 a scheduled action runs once unless it says otherwise; later series have no such field."""
        if "numbercall" not in self._fields:
            return
        data = self.env["ir.model.data"].search([("module", "=", "industrial_iot"), ("model", "=", "ir.cron")])
        crons = self.with_context(active_test=False).browse(data.mapped("res_id")).exists()
        crons.filtered(lambda cron: cron.numbercall != -1).write({"numbercall": -1})
