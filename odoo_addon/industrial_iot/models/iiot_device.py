from odoo import fields, models


class IiotDevice(models.Model):
    """A machine's controller that speaks MQTT to an edge appliance."""

    _name = "iiot.device"
    _description = "IIoT Device"
    _inherit = ["mail.thread", "mail.activity.mixin"]
    _inherits = {"iiot.device.state": "state_id"}
    _order = "name, id"
    _check_company_auto = True

    name = fields.Char(required=True, tracking=True)
    state_id = fields.Many2one("iiot.device.state", "Live State", required=True, ondelete="cascade", copy=False)
    company_id = fields.Many2one("res.company", required=True, index=True, default=lambda self: self.env.company)
    serial_number = fields.Char(required=True, copy=False, index=True, tracking=True)
    device_id = fields.Char("Device ID", required=True, copy=False, index=True, tracking=True, help="Its name on MQTT.")
    profile_id = fields.Many2one("iiot.device.profile", required=True, index=True, ondelete="restrict", tracking=True)
    gateway_id = fields.Many2one("iiot.gateway", index=True, ondelete="restrict", tracking=True, copy=False)
    business_ref = fields.Reference(selection="_business_models", string="Business Record", index=True)
    is_active = fields.Boolean("Active", default=True, tracking=True)
    state = fields.Selection(
        [
            ("draft", "Draft"),
            ("provisioned", "Provisioned"),
            ("active", "Active"),
            ("disabled", "Disabled"),
            ("retired", "Retired"),
        ],
        default="draft",
        required=True,
        readonly=True,
        copy=False,
        index=True,
        tracking=True,
    )
    paired_at = fields.Datetime(readonly=True, copy=False)
    config_version = fields.Integer(default=1, readonly=True, copy=False)
    secret_version = fields.Integer(default=0, readonly=True, copy=False)

    def _business_models(self):
        return [(model.model, model.name) for model in self.env["ir.model"].sudo().search([("transient", "=", False)])]
