from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
from typing import Any
from urllib.parse import urlsplit

from odoo import _, api, fields, models
from odoo.exceptions import UserError, ValidationError

from .constraints import declare

_logger = logging.getLogger(__name__)

VERSION_CHARACTERS = 64
URL_CHARACTERS = 2048
_sha256 = re.compile(r"[0-9a-f]{64}").fullmatch
FIXED_ONCE_USED = ("version", "profile_id", "file", "url", "size", "sha256", "signature")


class IiotFirmware(models.Model):
    """A version of the firmware for devices of one profile: a file kept here, or the address of one elsewhere."""

    _name = "iiot.firmware"
    _description = "IIoT Firmware"
    _inherit = ["mail.thread", "mail.activity.mixin"]
    _order = "profile_id, id desc"
    _rec_name = "version"
    _rec_names_search = ("version", "profile_id")

    version = fields.Char(required=True, tracking=True)
    profile_id = fields.Many2one(
        "iiot.device.profile",
        "Configuration Template",
        index=True,
        ondelete="restrict",
        tracking=True,
        help="Which devices it is for. Empty: for all.",
    )
    company_id = fields.Many2one("res.company", index=True, help="Empty: for all companies.")
    active = fields.Boolean(default=True)
    file = fields.Binary(attachment=True, copy=False, help="Up to about 96 MB; larger files by their address.")
    file_name = fields.Char(copy=False)
    url = fields.Char(
        "Address",
        tracking=True,
        help="Where the gateway downloads the file, by http or https, instead of a file kept here.",
    )
    size = fields.Float("Size (bytes)", digits=(16, 0), tracking=True, help="Computed for a file.")
    sha256 = fields.Char(
        "SHA-256", tracking=True, help="Computed for a file; one that is typed in must match. The device checks it."
    )
    signature = fields.Char(help="Handed to the device as it is, where its firmware checks one.")
    notes = fields.Text("Release Notes")
    update_ids = fields.One2many("iiot.update", "firmware_id", "Updates")
    update_count = fields.Integer(compute="_compute_update_count")

    declare(
        vars(),
        version_unique=("UNIQUE(profile_id, version)", "There is a firmware with this version already."),
        # where no template is named, which is NULL: of those any number is unique
        version_unique_for_all=(
            "EXCLUDE USING btree (version WITH =) WHERE (profile_id IS NULL)",
            "There is a firmware for all devices with this version already. It may be archived.",
        ),
    )

    def init(self):
        """Say which versions keep the database from refusing others: Odoo goes on without a constraint that fails."""
        self.env.cr.execute(
            "SELECT version, array_agg(id ORDER BY id) FROM iiot_firmware WHERE profile_id IS NULL "
            "GROUP BY version HAVING count(*) > 1 ORDER BY version"
        )
        for version, ids in self.env.cr.fetchall():
            _logger.warning(
                "Firmware %s for all devices is there more than once (iiot.firmware %s). Give all but one another "
                "version or a template, and update the add-on again: until then more of them can be made.",
                version,
                ", ".join(map(str, ids)),
            )
        return super().init()

    @api.depends("version", "profile_id")
    def _compute_display_name(self):
        for firmware in self:
            firmware.display_name = " ".join(filter(None, (firmware.profile_id.name, firmware.version)))

    def _compute_update_count(self):
        groups = self.env["iiot.update"]._read_group([("firmware_id", "in", self.ids)], ["firmware_id"], ["__count"])
        counts = {firmware.id: count for firmware, count in groups}
        for firmware in self:
            firmware.update_count = counts.get(firmware.id, 0)

    @api.constrains("version", "url", "file", "sha256", "size", "profile_id")
    def _check_firmware(self):
        for firmware in self:
            if not 0 < len(firmware.version.strip()) <= VERSION_CHARACTERS:
                raise ValidationError(_("A version has 1 to %s characters.", VERSION_CHARACTERS))
            if bool(firmware.url) == bool(firmware._file_attachment()):
                raise ValidationError(_("A firmware version needs either a file or an address."))
            if firmware.url:
                firmware._check_url()
            if firmware.sha256 and not _sha256(firmware.sha256):
                raise ValidationError(_("A SHA-256 checksum has 64 hexadecimal digits."))
            if firmware.size < 0 or firmware.size != int(firmware.size):
                raise ValidationError(_("A size is a number of bytes."))

    def _check_url(self):
        url = self.url
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not url.isascii() or not url.isprintable() or " " in url or len(url) > URL_CHARACTERS:
            raise ValidationError(_("The address must look like https://files.example.com/firmware.bin."))
        if parts.username is not None or parts.password is not None:
            raise ValidationError(_("The address must not hold a user name or password: it is shown in logs."))

    @api.model_create_multi
    def create(self, vals_list):
        return super().create([self._with_checksum(vals) for vals in vals_list])

    def write(self, vals):
        if any(field in vals for field in FIXED_ONCE_USED):
            self._check_unused(vals)
        return super().write(self._with_checksum(vals))

    def _check_unused(self, vals):
        for firmware in self:
            changed = any(
                firmware[field] != vals[field] for field in FIXED_ONCE_USED if field in vals and field != "profile_id"
            )
            changed = changed or ("profile_id" in vals and firmware.profile_id.id != (vals["profile_id"] or False))
            if changed and firmware.sudo().update_ids.filtered(lambda update: update.state != "draft"):
                raise UserError(
                    _(
                        "%s has been sent to devices: what they got must not change. Create a new version.",
                        firmware.version,
                    )
                )

    @api.model
    def _with_checksum(self, vals: dict[str, Any]) -> dict[str, Any]:
        """The values with size and checksum of a file; ``ValidationError`` where one that is given does not match."""
        if vals.get("sha256"):
            vals = {**vals, "sha256": vals["sha256"].strip().lower()}
        if not vals.get("file"):
            return vals
        try:
            content = base64.b64decode(vals["file"], validate=False)
        except (binascii.Error, ValueError):
            raise ValidationError(_("The file must be encoded in base64.")) from None
        if not content:
            raise ValidationError(_("The file is empty."))
        sha256 = hashlib.sha256(content).hexdigest()
        if vals.get("sha256") and vals["sha256"] != sha256:
            raise ValidationError(
                _(
                    "The checksum does not match: the file has %(found)s, not %(typed)s.",
                    found=sha256,
                    typed=vals["sha256"],
                )
            )
        if vals.get("size") and int(vals["size"]) != len(content):
            raise ValidationError(
                _("The file has %(found)s bytes, not %(typed)s.", found=len(content), typed=vals["size"])
            )
        return {**vals, "sha256": sha256, "size": len(content)}

    @api.constrains("sha256", "size")
    def _check_file_matches(self):
        """A checksum typed in later must be the file's, too."""
        for firmware in self:
            attachment = firmware._file_attachment()
            if attachment:
                content = attachment.raw or b""
                if firmware.sha256 != hashlib.sha256(content).hexdigest() or int(firmware.size) != len(content):
                    raise ValidationError(_("Size and checksum must be those of the file."))

    def _file_attachment(self):
        """Where the file is kept, to be read by its route; empty for one by address."""
        self.ensure_one()
        domain = [("res_model", "=", self._name), ("res_field", "=", "file"), ("res_id", "=", self.id)]
        return self.env["ir.attachment"].sudo().search(domain, limit=1)

    def _wire_params(self) -> dict[str, Any]:
        """The parameters of ``start_update``; an address that begins with ``/`` is one of this Odoo."""
        self.ensure_one()
        params = {
            "version": self.version,
            "url": self.url or f"/iiot/firmware/{self.id}/file",
            "size": int(self.size) or None,
            "sha256": self.sha256 or None,
            "signature": self.signature or None,
        }
        return {key: value for key, value in params.items() if value is not None}

    @api.ondelete(at_uninstall=False)
    def _unlink_except_used(self):
        if self.sudo().update_ids.filtered(lambda update: update.state != "draft"):
            raise UserError(_("It has been sent to devices. Archive it instead."))

    def action_open_updates(self):
        """The updates to this version."""
        self.ensure_one()
        return {
            **self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_update_action"),
            "domain": [("firmware_id", "=", self.id)],
            "context": {"default_firmware_id": self.id},
        }
