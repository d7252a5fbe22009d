from __future__ import annotations

import base64
import io
import json

from odoo import _, api, fields, models

try:
    import qrcode
except ImportError:  # the label is as good without the picture: everything on it can be typed
    qrcode = None


class IiotTokenDialog(models.TransientModel):
    """Shows a configuration token once, with a label to print.

    Nothing of it is stored: the token comes with the dialog's context, and the label is made from it on the way to the
    browser, which prints it. So the token is in no table, no address, and no log.
    """

    _name = "iiot.token.dialog"
    _description = "IIoT Configuration Token"

    token = fields.Char(store=False, readonly=True)
    serial_number = fields.Char(store=False, readonly=True)
    valid_days = fields.Integer(store=False, readonly=True)
    device_id = fields.Many2one("iiot.device", store=False, readonly=True)
    gateway_id = fields.Many2one(
        "iiot.gateway",
        compute="_compute_gateway",
        readonly=False,
        domain="[('id', 'in', gateway_ids)]",
        help="Which one is to pair the device: its address and its authority are on the label.",
    )
    gateway_ids = fields.Many2many("iiot.gateway", string="Gateways to Choose From", compute="_compute_gateways")
    has_choice = fields.Boolean(compute="_compute_gateways")
    gateway_address = fields.Char(compute="_compute_label")
    label_problem = fields.Char(compute="_compute_label")
    qr_problem = fields.Char(compute="_compute_label")
    label_html = fields.Text("Label", compute="_compute_label")

    @api.depends("device_id")
    def _compute_gateways(self):
        for dialog in self:
            dialog.gateway_ids = dialog.device_id._possible_gateways()
            dialog.has_choice = len(dialog.gateway_ids) > 1

    @api.depends("device_id")
    def _compute_gateway(self):
        for dialog in self:
            dialog.gateway_id = dialog.device_id._label_gateway()

    @api.depends("token", "serial_number", "device_id", "gateway_id")
    def _compute_label(self):
        for dialog in self:
            device = dialog.device_id
            facts = device._label_facts(dialog.gateway_id) if device else {"serial": dialog.serial_number or ""}
            facts["token"] = dialog.token or ""
            dialog.gateway_address = facts.get("address")
            dialog.label_problem = dialog._label_problem(facts)
            dialog.qr_problem = (
                False
                if qrcode
                else _("There is no QR code: the server lacks the Python package qrcode. Type what the label says.")
            )
            dialog.label_html = str(
                self.env["ir.qweb"]._render("industrial_iot.label_page", {"label": _with_qr(facts)})
            )

    def _label_problem(self, facts):
        """What the label cannot tell the device, and what helps."""
        if not self.gateway_ids:
            return _("No gateway is enrolled yet: the label tells neither its address nor its authority.")
        if not self.gateway_id:
            return _("Choose the gateway: until then the label tells neither its address nor its authority.")
        if not facts.get("address"):
            return _("The address of %s is not known yet: type it on the device.", self.gateway_id.name)
        if not facts.get("fingerprint"):
            return _(
                "%s has not told the fingerprint of its authority yet: devices that check it need it from elsewhere.",
                self.gateway_id.name,
            )
        return False


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    def _possible_gateways(self):
        """Those that may pair it: the one it has, or all of its company."""
        if self.gateway_id or not self:
            return self.gateway_id
        return self.env["iiot.gateway"].search(
            [("company_id", "=", self.company_id.id), ("enrolled_at", "!=", False)], order="name"
        )

    def _label_gateway(self):
        """The one that will pair it, where there is no choice."""
        possible = self._possible_gateways()
        return possible if len(possible) == 1 else possible.browse()

    def _label_facts(self, gateway=None):
        """What stands on the device's label, for that gateway, else for the only one it can be."""
        self.ensure_one()
        gateway = gateway or self._label_gateway()
        told = self.sudo()._address(gateway.sudo())
        return {
            "name": self.name,
            "serial": self.serial_number,
            "device_id": self.device_id,
            "gateway": gateway.name or "",
            "address": told["host"] or gateway.mqtt_host or _host(gateway.reported_api_url),
            "fingerprint": gateway.ca_fingerprint or "",
        }

    def _labels(self):
        """For the printed report: labels without a token, to find a device again."""
        return [_with_qr(device._label_facts()) for device in self]


def _with_qr(facts):
    """The facts with a QR code of them as an address of the kind ``data:``, where the server can make one."""
    told = {
        "serial_number": facts["serial"],
        "token": facts.get("token"),
        "host": facts.get("address"),
        "ca_fingerprint": facts.get("fingerprint"),
    }
    return {**facts, "qr": qr_image(json.dumps({key: value for key, value in told.items() if value}))}


def qr_image(text: str) -> str:
    """A QR code as an inline PNG; empty where the package is missing."""
    if qrcode is None:
        return ""
    code = qrcode.QRCode(error_correction=qrcode.constants.ERROR_CORRECT_M, box_size=6, border=2)
    code.add_data(text)
    picture = io.BytesIO()
    code.make_image().save(picture, format="PNG")
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()


def _host(url):
    return (url or "").partition("://")[2].partition("/")[0].rpartition(":")[0] or ""
