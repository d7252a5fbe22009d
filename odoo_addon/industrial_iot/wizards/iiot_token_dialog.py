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
    gateway_address = fields.Char(compute="_compute_label")
    qr_problem = fields.Char(compute="_compute_label")
    label_html = fields.Text("Label", compute="_compute_label")

    @api.depends("token", "serial_number", "device_id")
    def _compute_label(self):
        for dialog in self:
            device = dialog.device_id
            facts = device._label_facts() if device else {"serial": dialog.serial_number or ""}
            facts["token"] = dialog.token or ""
            dialog.gateway_address = facts.get("address")
            dialog.qr_problem = (
                False
                if qrcode
                else _("There is no QR code: the server lacks the Python package qrcode. Type what the label says.")
            )
            dialog.label_html = str(
                self.env["ir.qweb"]._render("industrial_iot.label_page", {"label": _with_qr(facts)})
            )


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    def _label_facts(self):
        """What stands on the device's label; a gateway that pairs it is the one it has, or the only one there is."""
        self.ensure_one()
        gateway = self.gateway_id
        if not gateway:
            enrolled = self.env["iiot.gateway"].search(
                [("company_id", "=", self.company_id.id), ("enrolled_at", "!=", False)], limit=2
            )
            gateway = enrolled if len(enrolled) == 1 else gateway
        told = self.sudo()._address()
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
