from odoo import api, fields, models


class IiotFirmware(models.Model):
    _inherit = "iiot.firmware"

    size_text = fields.Char("Size", compute="_compute_size_text")

    @api.depends("size")
    def _compute_size_text(self):
        wording = self.env["iiot.wording"]
        for firmware in self:
            size = firmware.size
            firmware.size_text = (
                wording._megabytes(size / 2**20) if size >= 2**20 else f"{size / 1024:.0f} KB" if size else False
            )
