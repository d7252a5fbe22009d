from odoo import fields, models


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    revoked_at = fields.Datetime(readonly=True, copy=False, help="When it lost its last pairing.")

    def _take_pairing(self, gateway):
        """It is paired with this gateway from now on; one that had it before hears that it is gone."""
        self.ensure_one()
        values = {"paired_at": fields.Datetime.now(), "revoked_at": False, "state": "active"}
        if self.gateway_id != gateway:
            values["gateway_id"] = gateway.id
        self.sudo().write(values)

    def _revoke_pairing(self):
        """Its secret and its tokens open nothing any more; it needs a new token to be paired again."""
        self._end_tokens()
        paired = self.filtered("paired_at")
        paired.sudo().write({"paired_at": False})
        self.filtered(lambda device: device.state in ("provisioned", "active")).sudo().write({"state": "draft"})
        paired.sudo()._note_change()
