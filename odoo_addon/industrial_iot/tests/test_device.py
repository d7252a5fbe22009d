from datetime import timedelta

from odoo import fields
from odoo.exceptions import AccessError, UserError, ValidationError
from odoo.tests import Form
from odoo.tools import mute_logger
from psycopg2 import IntegrityError

from .device_case import DeviceCase


class TestDevice(DeviceCase):
    def make(self, **values):
        return self.env["iiot.device"].create({"serial_number": "SN-7", "profile_id": self.profile.id, **values})

    def changes(self, devices):
        """How many times the gateways were told to look at these devices again."""
        self.env.flush_all()
        self.env.cr.execute("SELECT count(*) FROM iiot_device_change WHERE device_id IN %s", (tuple(devices.ids),))
        return self.env.cr.fetchone()[0]

    # --- names -----------------------------------------------------------------------------------------------

    def test_a_device_needs_no_more_than_a_serial_number_and_a_template(self):
        device = self.make(serial_number="AA:BB:01")
        self.assertEqual((device.device_id, device.name, device.state), ("AA-BB-01", "AA-BB-01", "draft"))
        self.assertEqual(device.connection_status, "unknown")

    def test_the_form_makes_a_device(self):
        with Form(self.env["iiot.device"].with_user(self.user)) as form:
            form.serial_number = "SN-9"
            form.profile_id = self.profile
        self.assertEqual(form.record.device_id, "SN-9")

    def test_names_that_the_contract_does_not_allow_are_refused(self):
        for values in (
            {"serial_number": "a b"},
            {"serial_number": "-a"},
            {"serial_number": "x" * 65},
            {"device_id": "a:b"},
            {"device_id": "a/b"},
            {"device_id": "重"},
        ):
            with self.subTest(values), self.assertRaises(ValidationError):
                self.make(**values)

    @mute_logger("odoo.sql_db")
    def test_serial_number_and_device_id_are_unique_in_the_database(self):
        other = self.env["res.company"].create({"name": "Other"})
        self.make(device_id="d-7")
        for values in ({"device_id": "d-8"}, {"serial_number": "SN-8", "device_id": "d-7"}):
            with self.assertRaises(IntegrityError), self.env.cr.savepoint():
                self.make(company_id=other.id, **values)

    def test_names_may_be_changed_until_the_device_is_paired(self):
        device = self.make()
        device.write({"serial_number": "SN-8", "device_id": "d-8"})
        device.write({"gateway_id": self.gateway.id, "paired_at": fields.Datetime.now(), "state": "active"})
        for values in ({"serial_number": "SN-9"}, {"device_id": "d-9"}):
            with self.assertRaises(UserError):
                device.write(values)
        device.write({"name": "Press 9", "serial_number": "SN-8"})
        device.action_revoke()
        with self.assertRaises(UserError):
            device.device_id = "d-9"

    def test_kinds_of_business_records_are_offered_that_people_work_with_and_any_can_be_bound(self):
        def offered():
            return [
                model
                for model, _name in self.env["iiot.device"].fields_get(["business_ref"])["business_ref"]["selection"]
            ]

        self.assertIn("res.partner", offered())
        self.assertFalse({"res.bank", "res.country", "res.currency", "ir.model", "iiot.command"} & set(offered()))
        action = self.env["ir.actions.act_window"].create({"name": "Places", "res_model": "res.country"})
        top = self.env["ir.ui.menu"].create({"name": "Our Places"})
        setup = self.env["ir.ui.menu"].create({"name": "Configuration", "parent_id": top.id})
        menu = self.env["ir.ui.menu"].create(
            {"name": "Places", "parent_id": setup.id, "action": f"ir.actions.act_window,{action.id}"}
        )
        self.assertNotIn("res.country", offered())
        menu.parent_id = top
        self.assertIn("res.country", offered())
        self.assertNotIn("res.bank", offered())
        bank = self.env["res.bank"].create({"name": "Bank"})
        device = self.make(business_ref=f"res.bank,{bank.id}")
        self.assertEqual(device.business_ref, bank)
        self.assertIn("res.bank", offered())

    def test_business_records_are_found_by_an_index(self):
        self.env.cr.execute(
            "SELECT 1 FROM pg_indexes WHERE tablename = 'iiot_device' AND indexdef LIKE '%(business_ref)%'"
        )
        self.assertTrue(self.env.cr.fetchone())
        partner = self.env["res.partner"].create({"name": "Machine"})
        device = self.make(business_ref=f"res.partner,{partner.id}")
        self.assertEqual(device.business_ref, partner)
        found = self.env["iiot.device"].search([("business_ref", "=", f"res.partner,{partner.id}")])
        self.assertEqual(found, device)

    # --- life ------------------------------------------------------------------------------------------------

    def test_a_token_is_shown_and_only_its_hash_is_kept(self):
        device = self.make()
        action = device.with_user(self.user).action_generate_token()
        token = action["context"]["default_token"]
        self.assertRegex(token, r"^[A-Z2-9]{4}-[A-Z2-9]{4}-[A-Z2-9]{4}$")
        self.assertEqual(device.state, "provisioned")
        dialog = Form(self.env["iiot.token.dialog"].with_user(self.user).with_context(**action["context"]))
        self.assertEqual((dialog.token, dialog.serial_number), (token, "SN-7"))
        record = dialog.save()
        self.env.flush_all()
        self.assertFalse(record.with_context(default_token=False).browse(record.id).token)
        self.env.cr.execute("SELECT to_jsonb(t)::text FROM iiot_device_token t")
        self.assertNotIn(token, str(self.env.cr.fetchall()))

    def test_a_switched_off_device_gets_no_token(self):
        device = self.make(is_active=False)
        self.assertEqual(device.state, "disabled")
        with self.assertRaises(UserError):
            device.action_generate_token()

    def test_switching_off_and_on_brings_back_the_state_before_and_tells_the_gateway(self):
        draft, provisioned, paired = self.make(), self.make(serial_number="SN-8"), self.paired()
        provisioned.action_generate_token()
        before = self.changes(paired)
        devices = draft | provisioned | paired
        devices.action_disable()
        self.assertEqual(devices.mapped("state"), ["disabled"] * 3)
        self.assertFalse(any(devices.mapped("is_active")))
        devices.action_enable()
        self.assertEqual(devices.mapped("state"), ["draft", "provisioned", "active"])
        self.assertEqual(self.changes(paired), before + 2)

    def test_retiring_ends_the_pairing_and_what_waits(self):
        device = self.paired()
        command = device.send_command("reset")
        device.action_retire()
        self.assertEqual((device.state, device.is_active, device.paired_at), ("retired", False, False))
        self.assertEqual((command.state, command.reason), ("cancelled", "revoked"))
        with self.assertRaises(UserError):
            device.is_active = True
        device.action_unretire()
        self.assertEqual((device.state, device.is_active), ("draft", True))

    def test_revoking_tells_the_gateway_and_leaves_the_status_unknown(self):
        device = self.paired()
        device.state_id.write({"connection_status": "online", "reported_status": "online"})
        before = self.changes(device)
        device.action_revoke()
        self.assertEqual((device.state, device.paired_at, device.connection_status), ("draft", False, "unknown"))
        self.assertTrue(device.revoked_at)
        self.assertGreater(self.changes(device), before)

    def test_a_new_secret_is_counted_and_told(self):
        device = self.paired()
        before = self.changes(device)
        device.with_user(self.admin).action_rotate_secret()
        self.assertEqual(device.secret_version, 1)
        self.assertEqual(self.changes(device), before + 1)
        with self.assertRaises(UserError):
            self.make().action_rotate_secret()

    def test_a_device_that_was_paired_is_retired_and_not_deleted(self):
        device = self.paired()
        with self.assertRaises(UserError):
            device.unlink()
        device.action_revoke()
        with self.assertRaises(UserError):
            device.unlink()
        draft = self.make()
        state = draft.state_id
        draft.unlink()
        self.assertFalse(state.exists())

    def test_a_paired_device_does_not_change_its_gateway_by_hand(self):
        device = self.paired()
        other = self.make_gateway("Line 2")
        with self.assertRaises(UserError):
            device.with_user(self.admin).gateway_id = other

    # --- what devices are told -------------------------------------------------------------------------------

    def test_the_configuration_is_the_contracts(self):
        self.profile.write({"settings": '{"interval_s": 3}', "max_packet_bytes": 512})
        device = self.paired()
        told = device._wire_config()
        self.assertEqual(
            told,
            {
                "device_id": device.device_id,
                "config_version": device.config_version,
                "secret_version": 0,
                "topics": {},
                "settings": {"interval_s": 3},
                "command_template": '{"action": "{{ action }}", "params": {{ params | tojson }}}',
                "command_is_json": True,
                "command_add_id": True,
                "command_expires_in_s": 60,
                "command_response_limit_s": 60,
                "max_packet_bytes": 512,
                "local_topics": None,
                "mqtt": {"host": None, "port": None, "tls": None},
            },
        )

    def test_a_change_of_the_profile_that_devices_are_told_counts_up_and_is_noted(self):
        devices = self.paired(count=3)
        versions, before = devices.mapped("config_version"), self.changes(devices)
        self.profile.write({"name": "Other name", "inactivity_limit_min": 5, "history_days": 3, "settings": "{ }"})
        self.assertEqual(devices.mapped("config_version"), versions)
        self.profile.settings = '{"interval_s": 5}'
        self.assertEqual(devices.mapped("config_version"), [version + 1 for version in versions])
        self.assertEqual(self.changes(devices), before + 3)

    def test_another_profile_counts_up_only_where_it_tells_something_else(self):
        device = self.paired()
        version = device.config_version
        device.profile_id = self.profile.copy({"name": "Same"})
        self.assertEqual(device.config_version, version)
        device.profile_id = self.profile.copy({"name": "Other", "command_expires_in_s": 5})
        self.assertEqual(device.config_version, version + 1)

    def test_the_address_is_the_gateways_else_the_parameters_else_nothing(self):
        device = self.paired()
        set_param = self.env["ir.config_parameter"].set_param
        version = device.config_version
        set_param("iiot.mqtt_port", "1884")
        set_param("iiot.mqtt_use_tls", "False")
        self.assertEqual(device._address(), {"host": None, "port": None, "tls": None})
        set_param("iiot.mqtt_host", "mqtt.factory.lan")
        self.assertEqual(device._address(), {"host": "mqtt.factory.lan", "port": 1884, "tls": False})
        self.gateway.write({"mqtt_host": "gw1.factory.lan", "mqtt_port": 8884, "mqtt_use_tls": "True"})
        self.assertEqual(device._address(), {"host": "gw1.factory.lan", "port": 8884, "tls": True})
        self.assertGreater(device.config_version, version)

    def test_a_change_of_the_gateways_address_is_told_and_its_name_is_not(self):
        device = self.paired()
        version = device.config_version
        self.gateway.name = "Hall 3"
        self.assertEqual(device.config_version, version)
        self.gateway.mqtt_host = "gw9.lan"
        self.assertEqual(device.config_version, version + 1)

    # --- rights ----------------------------------------------------------------------------------------------

    def test_what_machines_write_is_not_written_by_people(self):
        device = self.paired()
        for values in (
            {"state": "active"},
            {"paired_at": fields.Datetime.now()},
            {"config_version": 9},
            {"secret_version": 9},
            {"connection_status": "online"},
            {"firmware_version": "9"},
            {"last_telemetry": fields.Datetime.now() + timedelta(days=1)},
        ):
            for user in (self.user, self.admin):
                with self.subTest(values), self.assertRaises(AccessError):
                    device.with_user(user).write(values)
                with self.assertRaises(AccessError):
                    values = {"serial_number": "SN-x", "profile_id": self.profile.id, **values}
                    self.env["iiot.device"].with_user(user).create(values)

    def test_users_pair_devices_and_administrators_take_them_out_of_service(self):
        device = self.paired()
        for method in ("action_revoke", "action_retire", "action_rotate_secret"):
            with self.subTest(method), self.assertRaises(AccessError):
                getattr(device.with_user(self.user), method)()
        device.with_user(self.user).action_disable()
        device.with_user(self.user).action_enable()
        with self.assertRaises(AccessError):
            device.with_user(self.user).unlink()
        with self.assertRaises(AccessError):
            device.with_user(self.outsider).read(["name"])

    def test_devices_of_other_companies_are_not_seen(self):
        other = self.env["res.company"].create({"name": "Other"})
        device = self.make(company_id=other.id)
        self.assertFalse(self.env["iiot.device"].with_user(self.user).search([("id", "=", device.id)]))
        with self.assertRaises(AccessError):
            device.with_user(self.user).send_command("reset")

    def test_the_columns_of_the_connection_are_searched_and_grouped(self):
        devices = self.paired(count=3)
        devices[0].state_id.write({"connection_status": "online"})
        found = self.env["iiot.device"].search([("connection_status", "=", "online"), ("id", "in", devices.ids)])
        self.assertEqual(found, devices[0])
        groups = self.env["iiot.device"]._read_group([("id", "in", devices.ids)], ["connection_status"], ["__count"])
        self.assertEqual(dict(groups), {"online": 1, "unknown": 2})
