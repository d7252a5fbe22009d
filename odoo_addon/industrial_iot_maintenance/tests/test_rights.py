from odoo.exceptions import AccessError
from odoo.tests import new_test_user

from .machine_case import MachineCase

VIEWS = [(False, kind) for kind in ("form", "list", "kanban", "search")]
OLDER_VIEWS = [(view, "tree" if kind == "list" else kind) for view, kind in VIEWS]


class TestRights(MachineCase):
    def views(self, user):
        equipment = self.env["maintenance.equipment"].with_user(user)
        return equipment.get_views(OLDER_VIEWS if self.older() else VIEWS)

    def older(self):
        return "tree" in dict(self.env["ir.ui.view"]._fields["type"].selection)

    def test_whoever_has_no_rights_for_devices_sees_machines_and_nothing_else(self):
        self.offline(self.press, last_telemetry=self.minutes_ago(12))
        views = self.views(self.fitter)
        self.assertNotIn("iiot", str({kind: view["arch"] for kind, view in views["views"].items()}))
        press = self.press.with_user(self.fitter)
        names = [name for name in press.fields_get() if name.startswith("iiot")]
        self.assertEqual(names, [])
        self.assertEqual(press.read(["name"]), [{"id": press.id, "name": "Press 1"}])
        press.note = "<p>oiled</p>"
        for access in (
            lambda: press.read(["iiot_connection"]),
            lambda: press.search([("iiot_connection", "=", "offline")]).ids,
            lambda: press.action_open_iiot_devices(),
        ):
            self.env.invalidate_all()
            with self.assertRaises(AccessError):
                access()

    def test_an_engineer_sees_devices_and_only_administrators_connect_them(self):
        arch = self.views(self.engineer)["views"]["form"]["arch"]
        self.assertIn("action_open_iiot_devices", arch)
        self.assertNotIn("action_connect_iiot_device", arch)
        self.engineer.write({self.groups_field(): [(4, self.env.ref("industrial_iot.group_iiot_admin").id)]})
        self.assertIn("action_connect_iiot_device", self.views(self.engineer)["views"]["form"]["arch"])

    def groups_field(self):
        return "group_ids" if "group_ids" in self.env["res.users"]._fields else "groups_id"

    def test_a_guest_sees_neither_machines_nor_devices(self):
        guest = new_test_user(self.env, "guest", groups="base.group_portal")
        self.offline(self.press)
        self.press.message_subscribe(partner_ids=guest.partner_id.ids)
        for name in ("name", "iiot_connection", "iiot_device_ids"):
            with self.assertRaises(AccessError):
                self.press.with_user(guest).read([name])

    def test_devices_of_other_companies_are_not_there(self):
        elsewhere = self.env["res.company"].create({"name": "Elsewhere"})
        gateway = self.make_gateway("Elsewhere", company_id=elsewhere.id)
        device = self.paired(
            company_id=elsewhere.id, gateway_id=gateway.id, business_ref=f"maintenance.equipment,{self.press.id}"
        )
        device.state_id.connection_status = "offline"
        self.env.invalidate_all()
        press = self.press.with_user(self.engineer)
        self.assertEqual((press.iiot_device_count, press.iiot_connection, press.iiot_warning), (0, False, False))
        equipment = self.env["maintenance.equipment"].with_user(self.engineer)
        self.assertFalse(equipment.search([("iiot_connection", "=", "offline"), ("id", "=", press.id)]))
        self.engineer.company_ids += elsewhere
        both = {"allowed_company_ids": [self.env.company.id, elsewhere.id]}
        self.env.invalidate_all()
        self.assertEqual(press.with_context(**both).iiot_device_ids, device)
        found = equipment.with_context(**both).search([("iiot_connection", "=", "offline"), ("id", "=", press.id)])
        self.assertEqual(found.ids, press.ids)
