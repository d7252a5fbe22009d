from odoo import fields, models


class IiotGatewaySecret(models.TransientModel):
    """A dialog that shows a code or key once. Nothing of it is stored."""

    _name = "iiot.gateway.secret"
    _description = "IIoT Gateway Secret"

    secret = fields.Char(store=False, readonly=True)
    command = fields.Char(store=False, readonly=True)
    lines = fields.Text(store=False, readonly=True, help="What the gateway's settings need, for a key.")
    warning = fields.Char(store=False, readonly=True)
    expires_at = fields.Datetime("Valid Until", store=False, readonly=True)
