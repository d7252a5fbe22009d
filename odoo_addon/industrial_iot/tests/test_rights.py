from odoo.exceptions import AccessError, UserError
from odoo.tests import tagged

from .device_case import DeviceCase

MENUS = {
    "Device Management": ["Device Configuration Templates", "IIoT Devices"],
    "Telemetry Management": ["Telemetry Rules"],
    "OTA Management": ["Firmware Versions", "OTA Update Records"],
}
FIELDS_NOBODY_READS = {
    "iiot.gateway": ["api_key", "api_url", "ca_pem", "code_digest"],
    "iiot.gateway.key": ["digest"],
    "iiot.device.token": ["digest"],
}


@tagged("post_install", "-at_install")
class TestRights(DeviceCase):
    def models(self):
        return [
            self.env[name]
            for name in sorted(self.env.registry)
            if name.startswith("iiot.") and not self.env[name]._abstract
        ]

    def test_the_groups_stand_under_their_own_category(self):
        user, admin = self.env.ref("industrial_iot.group_iiot_user"), self.env.ref("industrial_iot.group_iiot_admin")
        self.assertEqual((user.name, admin.name), ("IIoT User", "IIoT Administrator"))
        self.assertIn(user, admin.implied_ids)
        category = self.env.ref("industrial_iot.module_category_iiot")
        for group in (user, admin):
            if "privilege_id" in group._fields:
                self.assertEqual(group.privilege_id.category_id, category)
            else:
                self.assertEqual(group.category_id, category)
        self.assertTrue(self.env.ref("base.user_admin").has_group("industrial_iot.group_iiot_admin"))

    def test_the_menus_are_those_of_the_documents(self):
        root = self.env.ref("industrial_iot.menu_iiot")
        self.assertEqual(root.name, "Industrial IoT")
        found = {menu.name: menu.child_id.mapped("name") for menu in root.child_id}
        for name, children in MENUS.items():
            self.assertEqual([child for child in found[name] if child in children], children)
        visible = self.env["ir.ui.menu"].with_user(self.user)._visible_menu_ids()
        self.assertIn(self.env.ref("industrial_iot.menu_device").id, visible)
        outside = self.env["ir.ui.menu"].with_user(self.outsider)._visible_menu_ids()
        self.assertNotIn(root.id, outside)

    def test_every_action_of_the_menus_opens(self):
        root = self.env.ref("industrial_iot.menu_iiot")
        menus = self.env["ir.ui.menu"].search(
            [("id", "child_of", root.id), ("action", "like", "ir.actions.act_window,")]
        )
        self.assertGreater(len(menus), 6)
        for menu in menus:
            model = self.env[menu.action.res_model].with_user(self.env.ref("base.user_admin"))
            for kind in menu.action.view_mode.split(","):
                kind = (
                    "tree"
                    if kind == "list" and self.env["ir.ui.view"]._fields["type"].get_values(self.env)[0] == "tree"
                    else kind
                )
                with self.subTest(f"{menu.name} {kind}"):
                    self.assertTrue(model.get_view(view_type=kind)["arch"])

    def test_people_without_a_group_see_nothing_of_it(self):
        for model in self.models():
            if model._transient:
                continue
            with self.subTest(model._name), self.assertRaises(AccessError):
                model.with_user(self.outsider).search([]).read()

    def test_users_operate_and_administrators_configure(self):
        may = {
            "iiot.device": ("read", "write", "create"),
            "iiot.update": ("read", "write", "create"),
        }
        operations = ("read", "write", "create", "unlink")
        access = self.env["ir.model.access"]
        for model in self.models():
            if model._transient:
                continue
            allowed = [each for each in operations if access.with_user(self.user).check(model._name, each, False)]
            with self.subTest(model._name):
                self.assertLessEqual(set(allowed), set(may.get(model._name, ("read",))))
        for name in ("iiot.device.profile", "iiot.firmware", "iiot.gateway", "iiot.telemetry.rule"):
            for operation in operations:
                self.assertTrue(access.with_user(self.admin).check(name, operation, False), f"{name} {operation}")
        for name in ("iiot.command", "iiot.device.state", "iiot.telemetry"):
            for operation in operations[1:]:
                self.assertFalse(access.with_user(self.admin).check(name, operation, False), f"{name} {operation}")

    def test_secrets_are_read_by_nobody(self):
        self.gateway.sudo().write({"api_url": "https://gw", "api_key": "secret-key", "ca_pem": "pem"})
        self.gateway.sudo()._new_code()
        self.env["iiot.gateway.key"].sudo()._make(self.gateway, "test")
        self.paired().sudo()._generate_token()
        for name, fields in FIELDS_NOBODY_READS.items():
            for user in (self.user, self.admin, self.env.ref("base.user_admin")):
                model = self.env[name].with_user(user)
                for field in fields:
                    with self.subTest(f"{name}.{field} {user.login}"):
                        self.assertNotIn(field, model.fields_get())
                        with self.assertRaises(AccessError):
                            self.env[name].sudo().search([], limit=1).with_user(user).read([field])
                        with self.assertRaises(AccessError):
                            model.search_read([], [field])
                        with self.assertRaises(UserError):
                            self.env[name].sudo().search([], limit=1).with_user(user).export_data([field])
                        try:
                            found = model.search([(field, "=like", "%")])
                        except (AccessError, ValueError):
                            found = None
                        self.assertIsNone(found, "asked letter by letter, a search tells a secret")

    def test_companies_see_their_own(self):
        other = self.env["res.company"].create({"name": "Other"})
        gateway = self.make_gateway("Other", company_id=other.id)
        profile = self.env["iiot.device.profile"].create({"name": "Other", "company_id": other.id})
        device = self.paired(company_id=other.id, gateway_id=gateway.id, profile_id=profile.id)
        command = device.send_command("x")
        firmware = self.env["iiot.firmware"].create(
            {"version": "9", "url": "https://f.example/f", "company_id": other.id}
        )
        update = self.env["iiot.update"].create({"device_id": device.id, "firmware_id": firmware.id})
        for record in (gateway, profile, device, command, firmware, update):
            with self.subTest(record._name):
                self.assertFalse(record.with_user(self.user).search([("id", "=", record.id)]))
                with self.assertRaises(AccessError):
                    record.with_user(self.user).read()
