from odoo import _, api, fields, models
from odoo.exceptions import UserError


class IiotUpdateDialog(models.TransientModel):
    """Which firmware devices are to get, and what that means for the machines."""

    _name = "iiot.update.dialog"
    _description = "IIoT Start Update"

    device_ids = fields.Many2many("iiot.device", string="Devices", required=True)
    profile_ids = fields.Many2many("iiot.device.profile", compute="_compute_profiles")
    firmware_id = fields.Many2one("iiot.firmware", required=True)
    notes = fields.Text(related="firmware_id.notes")
    table = fields.Json("Versions", compute="_compute_table")
    startable = fields.Integer(compute="_compute_table")

    @api.depends("device_ids")
    def _compute_profiles(self):
        for dialog in self:
            dialog.profile_ids = dialog.device_ids.profile_id

    @api.depends("device_ids", "firmware_id")
    def _compute_table(self):
        for dialog in self:
            rows = [dialog._row(device) for device in dialog.device_ids]
            dialog.startable = sum(not hindered for _cells, _look, hindered in rows)
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
