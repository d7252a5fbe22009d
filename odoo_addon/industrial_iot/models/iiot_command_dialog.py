from odoo import _, fields, models
from odoo.exceptions import UserError

from ..lib import json_text


class IiotCommandDialog(models.TransientModel):
    """What somebody types to send a command to one device or many."""

    _name = "iiot.command.dialog"
    _description = "IIoT Send Command"

    device_ids = fields.Many2many("iiot.device", string="Devices", required=True)
    action = fields.Char(required=True)
    params = fields.Text("Parameters", default="{}", help='A JSON object such as {"delay": 5}.')
    expires_in_s = fields.Integer("Expires After (s)", help="0: as the configuration template says.")

    def action_send(self):
        """Send it, and say where it stands."""
        self.ensure_one()
        try:
            params = json_text.loads(self.params or "{}")
        except ValueError as error:
            raise UserError(_("Parameters are no JSON: %s", error)) from None
        devices = self.device_ids
        if self.expires_in_s:
            devices = devices.with_context(iiot_expires_in_s=self.expires_in_s)
        return devices.send_command(self.action, params)._told_to_user()
