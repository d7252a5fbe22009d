from odoo import fields, models


class IiotGateway(models.Model):
    """An edge appliance in a factory, as Odoo knows it."""

    _name = "iiot.gateway"
    _description = "IIoT Gateway"
    _inherit = ["mail.thread", "mail.activity.mixin"]
    _order = "name, id"

    name = fields.Char(required=True, tracking=True)
    company_id = fields.Many2one("res.company", required=True, index=True, default=lambda self: self.env.company)
    active = fields.Boolean(default=True)
    uid = fields.Char("Gateway ID", readonly=True, copy=False, index=True, help="The appliance's own name (UUID).")
    user_id = fields.Many2one("res.users", "Responsible", tracking=True, default=lambda self: self.env.user)
    device_ids = fields.One2many("iiot.device", "gateway_id", "Devices")
    mqtt_host = fields.Char(
        "MQTT Host", help="What devices are told. Empty: the system parameter, else what the appliance knows."
    )
    mqtt_port = fields.Integer("MQTT Port", help="0: the system parameter, else what the appliance knows.")
    mqtt_use_tls = fields.Selection(
        [("True", "Yes"), ("False", "No")], "MQTT over TLS", help="Empty: the system parameter."
    )
