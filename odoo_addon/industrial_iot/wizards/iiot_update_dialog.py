from odoo import _, api, fields, models
from odoo.exceptions import UserError


class IiotUpdateDialog(models.TransientModel):
    """Which firmware devices are to get, and what that means for the machines."""

    _name = "iiot.update.dialog"
    _description = "IIoT Start Update"

    device_ids = fields.Many2many("iiot.device", string="Devices", required=True)
    profile_ids = fields.Many2many("iiot.device.profile", compute="_compute_profiles")
    firmware_id = fields.Many2one(
        "iiot.firmware",
        required=True,
        compute="_compute_firmware",
        store=True,
        readonly=False,
        domain="['|', ('profile_id', '=', False), ('profile_id', 'in', profile_ids)]",
    )
    choice_text = fields.Char(compute="_compute_choice_text")
    notes = fields.Text(related="firmware_id.notes")
    table = fields.Json("Versions", compute="_compute_table")
    startable = fields.Integer(compute="_compute_table")
    problem = fields.Char(compute="_compute_table")

    @api.depends("device_ids")
    def _compute_profiles(self):
        for dialog in self:
            dialog.profile_ids = dialog.device_ids.profile_id

    def _firmware_for(self, profiles):
        return self.env["iiot.firmware"].search(["|", ("profile_id", "=", False), ("profile_id", "in", profiles.ids)])

    @api.depends("device_ids")
    def _compute_firmware(self):
        """The newest one for the devices, where they are of one kind."""
        for dialog in self:
            profile = dialog.device_ids.profile_id
            possible = dialog._firmware_for(profile) if len(profile) == 1 else self.env["iiot.firmware"]
            own = possible.filtered("profile_id") or possible
            dialog.firmware_id = own.sorted("id")[-1:]

    @api.depends("device_ids")
    def _compute_choice_text(self):
        """What somebody who chooses has to know: that there is nothing to choose, or that it is not for all."""
        for dialog in self:
            profiles = dialog.device_ids.profile_id
            names = ", ".join(profiles.mapped("name"))
            if not dialog._firmware_for(profiles):
                dialog.choice_text = _("There is no firmware for %s yet. Add it under Firmware Versions.", names)
            elif len(profiles) > 1:
                dialog.choice_text = _("A version is for one kind of device, and these are of several: %s.", names)
            else:
                dialog.choice_text = False

    @api.depends("device_ids", "firmware_id")
    def _compute_table(self):
        for dialog in self:
            # while it is typed the dialog has drafts of devices, of which no update knows
            rows = [dialog._row(device) for device in dialog.device_ids._origin]
            dialog.startable = sum(not hindered for _cells, _look, hindered in rows)
            if dialog.startable or not rows:
                dialog.problem = False
            elif len(rows) == 1:
                dialog.problem = rows[0][0][-1]
            else:
                dialog.problem = _("None of these devices can be updated now: the table says why.")
            dialog.table = {
                "head": [_("Device"), _("Version Now"), _("Connection"), ""],
                "rows": [{"cells": cells, "look": look} for cells, look, _hindered in rows],
            }

    def _row(self, device):
        hindrance = self._hindrance(device)
        note, look = hindrance, "danger" if hindrance else ""
        if not hindrance and device.connection_status != "online":
            note, look = _("Starts when the device is back."), "warning"
        if not hindrance and self.firmware_id and device.firmware_version == self.firmware_id.version:
            note, look = _("Runs this version already."), "warning"
        return [device.name, device.firmware_version or "?", device.connection_text, note], look, bool(hindrance)

    def _hindrance(self, device):
        """Why this device cannot be updated now; empty where it can."""
        if device._why_no_command():
            return _("Not paired, or not active.")
        if device.running_update_id:
            return _("An update is running: cancel it first.")
        wanted = self.firmware_id.profile_id
        if wanted and wanted != device.profile_id:
            return _("The firmware is for another kind of device.")
        return ""

    def action_start(self):
        """Order the update for all devices that can have it."""
        self.ensure_one()
        devices = self.device_ids.filtered(lambda device: not self._hindrance(device))
        if not devices:
            raise UserError(_("None of these devices can be updated now: the table says why."))
        updates = self.env["iiot.update"].create(
            [{"device_id": device.id, "firmware_id": self.firmware_id.id} for device in devices]
        )
        updates.action_start()
        return updates._opened()


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    update_count = fields.Integer(compute="_compute_update_count")

    @api.depends("update_ids")
    def _compute_update_count(self):
        groups = self.env["iiot.update"]._read_group([("device_id", "in", self.ids)], ["device_id"], ["__count"])
        counts = {device.id: count for device, count in groups}
        for device in self:
            device.update_count = counts.get(device.id, 0)

    def action_update_firmware(self):
        """A dialog that asks for the firmware."""
        self._check_operator()
        return {
            "type": "ir.actions.act_window",
            "name": _("OTA Update"),
            "res_model": "iiot.update.dialog",
            "view_mode": "form",
            "target": "new",
            "context": {"default_device_ids": self.ids},
        }
