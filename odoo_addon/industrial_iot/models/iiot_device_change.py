from odoo import models


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    def _note_change(self):
        """Let the gateways of these devices learn, with their next sync, that something of them has changed."""
