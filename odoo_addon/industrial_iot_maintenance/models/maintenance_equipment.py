from __future__ import annotations

from odoo import _, api, fields, models
from odoo.tools import SQL

MODEL = "maintenance.equipment"
USERS = "industrial_iot.group_iiot_user"
WORST_FIRST = ("offline", "unknown", "online")
"""What is told of a machine with several devices is what the worst of them says."""


class MaintenanceEquipment(models.Model):
    """A machine knows the devices whose business record it is; only members of *IIoT User* see anything of them."""

    _inherit = MODEL

    iiot_device_ids = fields.Many2many(
        "iiot.device", string="IIoT Devices", compute="_compute_iiot_device_ids", groups=USERS
    )
    iiot_device_count = fields.Integer("Number of IIoT Devices", compute="_compute_iiot_device_ids", groups=USERS)
    iiot_connection = fields.Selection(
        [("online", "Online"), ("offline", "Offline"), ("unknown", "Unknown")],
        "Device",
        compute="_compute_iiot_connection",
        search="_search_iiot_connection",
        groups=USERS,
        help="How the device of the machine is connected; of several devices, that of the worst.",
    )
    iiot_connection_text = fields.Char("Connection of the Device", compute="_compute_iiot_connection", groups=USERS)
    iiot_warning = fields.Text("What Is Old", compute="_compute_iiot_connection", groups=USERS)

    def _compute_iiot_device_ids(self):
        refs = [f"{MODEL},{number}" for number in self.ids]
        devices = self.env["iiot.device"].search([*self._iiot_in_service(), ("business_ref", "in", refs)])
        found: dict[int, list[int]] = {}
        for device in devices:
            found.setdefault(device.business_ref.id, []).append(device.id)
        for equipment in self:
            ids = found.get(equipment._origin.id, [])
            equipment.iiot_device_ids = devices.browse(ids)
            equipment.iiot_device_count = len(ids)

    @api.depends("iiot_device_ids")
    def _compute_iiot_connection(self):
        for equipment in self:
            devices = equipment.iiot_device_ids
            told = devices.mapped("connection_status")
            equipment.iiot_connection = next((status for status in WORST_FIRST if status in told), False)
            equipment.iiot_connection_text = devices._connection_in_short()
            equipment.iiot_warning = devices._old_values_in_words()

    def _search_iiot_connection(self, operator, value):
        if operator not in ("=", "!=", "in", "not in"):
            return NotImplemented
        values = {value} if operator in ("=", "!=") else set(value)
        negative = operator in ("!=", "not in")
        if False in values:  # those with a device of any other status are left out
            values, negative = set(WORST_FIRST) - values, not negative
        return [("id", "not in" if negative else "in", self._iiot_connected(values))]

    def _iiot_connected(self, values) -> list[int]:
        """Ids of the machines of which that is told, by the devices that the user may see."""
        devices = self.env["iiot.device"]
        devices.flush_model(["business_ref"])
        self.env["iiot.device.state"].flush_model(["connection_status"])
        seen = devices._search([*self._iiot_in_service(), ("business_ref", "=like", f"{MODEL},%")])
        self.env.cr.execute(
            SQL(
                """SELECT split_part(d.business_ref, ',', 2)::integer FROM iiot_device d
                     JOIN iiot_device_state s ON s.id = d.state_id
                    WHERE d.id IN %s
                    GROUP BY 1 HAVING min(array_position(%s, s.connection_status::text)) IN %s""",
                seen.subselect(),
                list(WORST_FIRST),
                tuple(WORST_FIRST.index(value) + 1 for value in values if value in WORST_FIRST) or (0,),
            )
        )
        return [number for (number,) in self.env.cr.fetchall()]

    def _iiot_in_service(self) -> list:
        return [("state", "!=", "retired")]

    # --- buttons -----------------------------------------------------------------------------------------------

    def action_open_iiot_devices(self):
        """The device of the machine, or the list of them."""
        self.ensure_one()
        devices = self.iiot_device_ids
        if len(devices) == 1:
            action = {"type": "ir.actions.act_window", "res_model": "iiot.device", "view_mode": "form"}
            return {**action, "res_id": devices.id}
        action = self.env["ir.actions.act_window"]._for_xml_id("industrial_iot.iiot_device_action")
        return {**action, "domain": [("id", "in", devices.ids)], "context": {}}

    def action_connect_iiot_device(self):
        """The form of a new device that belongs to the machine."""
        self.ensure_one()
        context = {"default_business_ref": f"{MODEL},{self.id}"}
        if self.company_id:
            context["default_company_id"] = self.company_id.id
        return {
            "type": "ir.actions.act_window",
            "name": _("Connect a Device"),
            "res_model": "iiot.device",
            "view_mode": "form",
            "context": context,
        }
