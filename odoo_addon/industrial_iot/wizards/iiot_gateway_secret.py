from odoo import fields, models


class IiotGatewaySecret(models.TransientModel):
    """A dialog that shows a code or key once. Nothing of it is stored."""

    _name = "iiot.gateway.secret"
    _description = "IIoT Gateway Secret"

    secret = fields.Char(store=False, readonly=True)
    command = fields.Char(store=False, readonly=True)
    address_line = fields.Char("First Line", store=False, readonly=True)
    key_line = fields.Char("Second Line", store=False, readonly=True)
    warning = fields.Char(store=False, readonly=True)
    expires_at = fields.Datetime("Valid Until", store=False, readonly=True)
