from __future__ import annotations

from markupsafe import Markup
from odoo import _, api, fields, models
from odoo.addons.industrial_iot.models.iiot_device_screen import shown_values
from odoo.addons.industrial_iot.models.rights import readable
from odoo.exceptions import UserError
from odoo.tools import format_datetime

from .maintenance_equipment import MODEL


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    equipment_id = fields.Many2one(
        MODEL, compute="_compute_equipment_id", help="The business record, where it is a machine that one may see."
    )
    open_request_count = fields.Integer("Open Requests", compute="_compute_open_request_count")

    @api.depends("business_ref")
    @api.depends_context("uid", "allowed_company_ids")
    def _compute_equipment_id(self):
        linked = {
            device: device.business_ref.id
            for device in self
            if device.business_ref and device.business_ref._name == MODEL
        }
        seen = set(readable(self.env[MODEL].browse(sorted(set(linked.values()))).exists()).ids)
        for device in self:
            device.equipment_id = linked.get(device) in seen and linked[device]

    @api.depends("equipment_id")
    def _compute_open_request_count(self):
        domain = [("equipment_id", "in", self.equipment_id.ids), *self._open_requests()]
        counts = {
            equipment.id: count
            for equipment, count in self.env["maintenance.request"]._read_group(domain, ["equipment_id"], ["__count"])
        }
        for device in self:
            device.open_request_count = counts.get(device.equipment_id.id, 0)

    def _open_requests(self) -> list:
        return [("stage_id.done", "=", False), ("archive", "=", False)]

    # --- in words ----------------------------------------------------------------------------------------------

    def _connection_in_short(self) -> str | bool:
        """How they are connected, in so few words that a button or card has room for them; nothing of none."""
        if len(self) > 1:
            told = self.mapped("connection_status")
            for status, text in (
                ("offline", _("%(count)s of %(all)s offline", count=told.count("offline"), all=len(self))),
                ("unknown", _("%(count)s of %(all)s unknown", count=told.count("unknown"), all=len(self))),
            ):
                if status in told:
                    return text
            return _("All %s online", len(self))
        if not self:
            return False
        if self.state == "active" and self.paired_at:
            if self.connection_status == "online":
                return _("Online")
            span = self.env["iiot.wording"]._since(self.connection_since)
            if self.connection_status == "offline":
                return _("Offline for %s", span) if span else _("Offline")
            return _("Unknown")
        return self.connection_text

    def _old_values_in_words(self) -> str | bool:
        """A warning for each that has sent something, and does not now."""
        lines = []
        for device in self:
            if device.last_telemetry and device.connection_status != "online":
                age = self.env["iiot.wording"]._since(device.last_telemetry)
                text = _(
                    "%(connection)s. Its last values are from %(age)s ago: the machine may have others by now.",
                    connection=device.connection_text,
                    age=age,
                )
                lines.append(f"{device.name}: {text}" if len(self) > 1 else text)
        return "\n".join(lines) or False

    def _what_is_wrong(self) -> str | bool:
        """In one line, for somebody who is to see to it; nothing where nothing is known to be wrong."""
        self.ensure_one()
        machine = self.equipment_id.name or self.name
        if self.state == "active" and self.connection_status == "offline":
            return _("%(machine)s is offline: %(reason)s", machine=machine, reason=self._offline_words()[0])
        if self.state == "active" and self.connection_status == "unknown":
            return f"{machine}: {self.connection_text}"
        update, command = self.update_ids[:1], self.command_ids[:1]
        if update.state == "failed":
            return _(
                "%(machine)s: the update to %(version)s failed: %(error)s",
                machine=machine,
                version=update.version,
                error=update.error or update.reason,
            )
        if command.state == "failed":
            return _(
                "%(machine)s: the command %(action)s failed: %(reason)s",
                machine=machine,
                action=command.action,
                reason=command.reason_text or command.response,
            )
        return False

    def _described(self) -> Markup:
        """What is known of the device now, for a request that is read later."""
        self.ensure_one()
        told = _("The gateway says: %s", self.offline_reason)
        lines = [
            _("Device %(name)s (%(device_id)s)", name=self.name, device_id=self.device_id),
            self.connection_text,
            self.connection_advice,
            self.connection_status == "offline" and self.offline_reason and told,
        ]
        text = Markup().join(Markup("<p>%s</p>") % line for line in lines if line)
        if self.last_telemetry:
            at = format_datetime(self.env, self.last_telemetry)
            age = self.env["iiot.wording"]._since(self.last_telemetry)
            text += Markup("<p>%s</p>") % _("Last values, of %(at)s (%(age)s ago):", at=at, age=age)
            values = shown_values(self.last_values)
            items = (Markup("<li>%s: %s</li>") % (each["name"], each["value"]) for each in values)
            text += Markup("<ul>%s</ul>") % Markup().join(items)
        return text

    # --- buttons -----------------------------------------------------------------------------------------------

    def action_new_maintenance_request(self):
        """The form of a new request for the machine, with what is known of the device."""
        self.ensure_one()
        self._check_operator()
        equipment = self.equipment_id
        if not equipment:
            raise UserError(_("Choose the machine of the device first."))
        return {
            "type": "ir.actions.act_window",
            "name": _("Maintenance Request"),
            "res_model": "maintenance.request",
            "view_mode": "form",
            "context": {
                "default_equipment_id": equipment.id,
                "default_company_id": (equipment.company_id or self.company_id).id,
                "default_name": self._what_is_wrong(),
                "default_description": self._described(),
            },
        }

    def action_open_maintenance_requests(self):
        """What is open of the machine: the request, or the list of them."""
        self.ensure_one()
        domain = [("equipment_id", "=", self.equipment_id.id), *self._open_requests()]
        requests = self.env["maintenance.request"].search(domain)
        if len(requests) == 1:
            action = {"type": "ir.actions.act_window", "res_model": "maintenance.request", "view_mode": "form"}
            return {**action, "res_id": requests.id}
        action = self.env["ir.actions.act_window"]._for_xml_id("maintenance.hr_equipment_request_action_from_equipment")
        return {**action, "domain": domain, "context": {"default_equipment_id": self.equipment_id.id}}
