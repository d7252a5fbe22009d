from odoo import fields, models


class IiotTokenDialog(models.TransientModel):
    """Shows a configuration token once. Nothing of it is stored: the values come with the dialog's context."""

    _name = "iiot.token.dialog"
    _description = "IIoT Configuration Token"

    token = fields.Char(store=False, readonly=True)
    serial_number = fields.Char(store=False, readonly=True)
    valid_days = fields.Integer(store=False, readonly=True)
