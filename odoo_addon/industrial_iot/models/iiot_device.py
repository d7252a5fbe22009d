from __future__ import annotations

from odoo import _, api, fields, models
from odoo.exceptions import AccessError, UserError, ValidationError

from ..lib import topics
from .constraints import declare

TOKEN_VALID_S = 7 * 86_400
OWN_MACHINE_FIELDS = frozenset(("state", "state_id", "paired_at", "revoked_at", "config_version", "secret_version"))
"""Written by what the add-on does, never by a form or over RPC."""

TECHNICAL = frozenset(
    (
        *("auth_totp", "base", "base_import", "bus", "decimal", "digest", "discuss", "fetchmail", "iap", "iiot", "ir"),
        *("mail", "onboarding", "phone", "privacy", "properties", "report", "rtc", "sms", "snailmail", "web_editor"),
        *("web_tour", "auth_passkey", "html_editor", "utm", "rating", "barcodes", "publisher_warranty"),
        *("res.config", "res.lang", "res.currency.rate", "res.device", "res.device.log", "res.groups"),
        *("res.groups.privilege", "res.users.apikeys", "res.users.deletion", "res.users.log", "res.users.settings"),
        *("res.users.settings.volumes", "res.users.settings.embedded.action", "res.country.group"),
    )
)
"""Beginnings of models' names, and whole ones, that nobody would look for behind a device."""


class IiotDevice(models.Model):
    """A machine's controller that speaks MQTT to an edge appliance.

    Serial number and device id are unique in the database, not per company or gateway: a token is claimed by serial
    number alone, and the routes ``/iiot/webhook/<device_id>`` and ``/iiot/command/<device_id>`` name nothing else.
    """

    _name = "iiot.device"
    _description = "IIoT Device"
    _inherit = ["mail.thread", "mail.activity.mixin"]
    _inherits = {"iiot.device.state": "state_id"}
    _order = "name, id"
    _check_company_auto = True

    name = fields.Char(
        required=True, tracking=True, compute="_compute_name", store=True, readonly=False, precompute=True
    )
    state_id = fields.Many2one("iiot.device.state", "Live State", required=True, ondelete="cascade", copy=False)
    company_id = fields.Many2one("res.company", required=True, index=True, default=lambda self: self.env.company)
    serial_number = fields.Char(
        required=True,
        copy=False,
        tracking=True,
        help="As printed on the device; it cannot be changed once the device is paired.",
    )
    device_id = fields.Char(
        "Device ID",
        required=True,
        copy=False,
        tracking=True,
        compute="_compute_device_id",
        store=True,
        readonly=False,
        precompute=True,
        help="Its name on MQTT. Left empty, it is made from the serial number; fixed once the device is paired.",
    )
    profile_id = fields.Many2one(
        "iiot.device.profile",
        "Configuration Template",
        required=True,
        index=True,
        ondelete="restrict",
        tracking=True,
        check_company=True,
    )
    gateway_id = fields.Many2one(
        "iiot.gateway",
        index=True,
        ondelete="restrict",
        tracking=True,
        copy=False,
        check_company=True,
        help="The gateway that the device is paired with. If none is set: the first one that pairs it.",
    )
    business_ref = fields.Reference(
        selection="_business_models",
        string="Business Record",
        index=True,
        help="What the device belongs to, such as a machine of Maintenance.",
    )
    is_active = fields.Boolean(
        "Active", default=True, tracking=True, help="A device that is not active gets no access and no commands."
    )
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
        help="Draft, provisioned (it has a token), active (it is paired), disabled, retired.",
    )
    paired_at = fields.Datetime(readonly=True, copy=False)
    config_version = fields.Integer(
        default=1, readonly=True, copy=False, help="Number of changes to the device's configuration."
    )
    secret_version = fields.Integer(default=0, readonly=True, copy=False)

    declare(
        vars(),
        serial_number_unique=("UNIQUE(serial_number)", "There is a device with this serial number already."),
        device_id_unique=("UNIQUE(device_id)", "There is a device with this device ID already."),
    )

    def _business_models(self):
        """Kinds of records that somebody would call a machine, an order or a place; none of Odoo's own workings."""
        models = self.env["ir.model"].sudo().search([("transient", "=", False)])
        return [
            (model.model, model.name)
            for model in models
            if model.model in self.env
            and not self.env[model.model]._abstract
            and model.model.partition(".")[0] not in TECHNICAL
            and model.model not in TECHNICAL
        ]

    @api.depends("serial_number")
    def _compute_device_id(self):
        for device in self:
            device.device_id = device.device_id or (device.serial_number or "").replace(":", "-") or False

    @api.depends("device_id")
    def _compute_name(self):
        for device in self:
            device.name = device.name or device.device_id

    @api.constrains("serial_number", "device_id")
    def _check_names(self):
        for device in self:
            if not topics.is_serial(device.serial_number or ""):
                raise ValidationError(
                    _(
                        "The serial number %s cannot be used: letters, digits and . _ : - only, 64 at most, the first "
                        "a letter or digit.",
                        device.serial_number,
                    )
                )
            if not topics.is_device_id(device.device_id or ""):
                raise ValidationError(
                    _(
                        "The device ID %s cannot be used: letters, digits and . _ - only, 64 at most, the first a "
                        "letter or digit.",
                        device.device_id,
                    )
                )

    # --- create, write, delete -------------------------------------------------------------------------------

    @api.model_create_multi
    def create(self, vals_list):
        machine_fields = self._machine_fields()
        for vals in vals_list:
            if not self.env.su and machine_fields & vals.keys():
                raise AccessError(_("These fields are kept by the system: %s", ", ".join(machine_fields & vals.keys())))
        # people may not write states, but each device has one
        states = self.env["iiot.device.state"].sudo()
        without = [vals for vals in vals_list if not vals.get("state_id")]
        for vals, state in zip(without, states.create([{} for _vals in without]), strict=True):
            vals["state_id"] = state.id
        devices = super().create(vals_list)
        inactive = devices.filtered(lambda device: not device.is_active)
        if inactive:
            inactive.sudo().write({"state": "disabled"})
        return devices

    def write(self, vals):
        if not self.env.su and self._machine_fields() & vals.keys():
            raise AccessError(
                _("These fields are kept by the system: %s", ", ".join(sorted(self._machine_fields() & vals.keys())))
            )
        self._check_frozen(vals)
        told = vals.keys() & {"profile_id", "gateway_id", "device_id", "serial_number"}
        before = {device: (device.profile_id._wire_part(), device._address()) for device in self} if told else {}
        switched = (
            self.filtered(lambda device: device.is_active != bool(vals["is_active"]))
            if "is_active" in vals
            else self.browse()
        )
        revoked = self.filtered("paired_at") if "paired_at" in vals and not vals["paired_at"] else self.browse()
        if revoked:
            vals = {**vals, "revoked_at": fields.Datetime.now()}
        done = super().write(vals)
        revoked.sudo()._note_revoked()
        changed = self.filtered(
            lambda device: device in before and (device.profile_id._wire_part(), device._address()) != before[device]
        )
        changed.sudo()._count_config_up()
        if switched:
            switched.sudo()._follow_switch()
        return done

    def unlink(self):
        states = self.sudo().state_id
        done = super().unlink()
        states.unlink()
        return done

    @api.ondelete(at_uninstall=False)
    def _unlink_except_paired(self):
        for device in self:
            if device.paired_at or device.revoked_at:
                raise UserError(_("%s has been paired: its history is kept. Retire it instead.", device.display_name))

    def _machine_fields(self) -> frozenset[str]:
        inherited = {name for name, field in self._fields.items() if field.inherited}
        return OWN_MACHINE_FIELDS | inherited

    def _check_frozen(self, vals):
        """What a paired device is called and where it belongs is not changed behind its back."""
        for field in ("serial_number", "device_id"):
            if field in vals and any(
                device[field] != vals[field] and (device.paired_at or device.revoked_at) for device in self
            ):
                raise UserError(
                    _(
                        "Serial number and device ID are fixed once a device has been paired. "
                        "Create a new device instead."
                    )
                )
        moves = "gateway_id" in vals and not self.env.su
        if moves and any(device.paired_at and device.gateway_id.id != (vals["gateway_id"] or False) for device in self):
            raise UserError(_("The device is paired with its gateway. Revoke the pairing first."))
        if vals.get("is_active") and any(device.state == "retired" for device in self) and "state" not in vals:
            raise UserError(_("A retired device cannot be active. Take it back into service first."))

    # --- life ------------------------------------------------------------------------------------------------

    def _follow_switch(self):
        """``is_active`` was switched: the state follows, the gateways learn it, nothing waits for what is off."""
        for device in self.filtered(lambda device: device.state != "retired"):
            device.state = device._state_when_on() if device.is_active else "disabled"
        self.filtered(lambda device: not device.is_active)._end_waiting_commands("device_disabled")
        self._note_change()

    def _state_when_on(self) -> str:
        if self.paired_at:
            return "active"
        return "provisioned" if self._has_open_token() else "draft"

    def action_generate_token(self):
        """Make a one-time token and show it; it is kept nowhere but as its hash."""
        self.ensure_one()
        self._check_operator("write")
        if not self.is_active or self.state in ("disabled", "retired"):
            raise UserError(_("%s is not active: enable it first.", self.display_name))
        token = self.sudo()._generate_token(TOKEN_VALID_S)
        if self.state == "draft":
            self.sudo().state = "provisioned"
        return {
            "type": "ir.actions.act_window",
            "name": _("Configuration Token"),
            "res_model": "iiot.token.dialog",
            "view_mode": "form",
            "target": "new",
            # in the dialog's context, so that it never reaches the database
            "context": {
                "default_token": token,
                "default_device_id": self.id,
                "default_serial_number": self.serial_number,
                "default_valid_days": TOKEN_VALID_S // 86_400,
            },
        }

    def action_disable(self):
        """Off: no connection, no commands, until it is enabled again."""
        self.write({"is_active": False})
        return self._told(_("Switched off."), self.filtered("paired_at"))

    def action_enable(self):
        """On again, with the pairing it had."""
        self.write({"is_active": True})
        return self._told(_("Switched on."), self.filtered("paired_at"))

    def action_rotate_secret(self):
        """The device gets a new secret; the present one ends when it has logged in with that."""
        self._check_administrator()
        if any(not device.paired_at for device in self):
            raise UserError(_("Only a paired device has a password."))
        for device in self.sudo():
            device.secret_version += 1
        self.sudo()._note_change()
        self._log_all(_("A new password was requested."))
        return self._told(_("A new password was requested."), self)

    def action_revoke(self):
        """The pairing ends at once: its secret and its tokens open nothing any more."""
        self._check_administrator()
        paired = self.filtered("paired_at")
        self.sudo()._revoke_pairing()
        self._log_all(_("The pairing was revoked."))
        return self._told(_("The pairing was revoked."), paired)

    def action_retire(self):
        """Out of service for good; its history stays."""
        self._check_administrator()
        devices, paired = self.sudo(), self.filtered("paired_at")
        devices._revoke_pairing()
        devices.write({"is_active": False, "state": "retired"})
        return self._told(_("Out of service. Its history stays."), paired)

    def action_unretire(self):
        """Back into service: it needs a new token."""
        self._check_administrator()
        retired = self.sudo().filtered(lambda device: device.state == "retired")
        retired.write({"state": "draft", "is_active": True})
        return self._told(_("Back in service. It needs a new token."))

    def _note_revoked(self):
        """These have just lost their pairing: what waits for them ends, and nobody knows how they are connected."""
        self._end_waiting_commands("revoked")
        self.state_id.write({"connection_status": "unknown", "reported_status": "unknown", "is_contested": False})

    def _log_all(self, text):
        for device in self:
            device.message_post(body=text)

    # --- rights ----------------------------------------------------------------------------------------------

    def _check_operator(self, operation: str = "read"):
        """An IIoT user who may see (or change) these devices; ``AccessError`` otherwise."""
        if self.env.su:
            return
        if not self.env.user.has_group("industrial_iot.group_iiot_user"):
            raise AccessError(_("Only IIoT users may do this."))
        if hasattr(self, "check_access"):
            self.check_access(operation)
        else:
            self.check_access_rights(operation)
            self.check_access_rule(operation)

    def _check_administrator(self):
        if not self.env.su and not self.env.user.has_group("industrial_iot.group_iiot_admin"):
            raise AccessError(_("Only IIoT administrators may do this."))
        self._check_operator("write")
