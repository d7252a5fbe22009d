import uuid
from datetime import timedelta
from pathlib import Path

from odoo import fields
from odoo.exceptions import AccessError, UserError, ValidationError
from odoo.tests import new_test_user, tagged

from ..lib.enrolment import read_enrolment, read_identity
from ..lib.sync import read_sync
from ..models.iiot_gateway_key import OVERLAP_DAYS
from .contract_case import ContractCase, RouteCase

SECRETS = {
    "iiot.gateway": ("code_digest", "api_url", "api_key", "ca_pem", "identity", "admission", "cursors_given"),
    "iiot.gateway.report": ("identity", "admission", "cursors_given"),
    "iiot.gateway.key": ("digest",),
    "iiot.device.token": ("digest", "request_digest"),
}


class TestGateway(ContractCase):
    def enrol(self, code, uid=None, **more):
        body = {"contract": 1, "code": code, "gateway_uid": uid or str(uuid.uuid4()), "name": "line 1", "version": "1"}
        return self.env["iiot.gateway"]._enroll(read_enrolment({**body, **more}))

    def new_gateway(self, **values):
        return self.env["iiot.gateway"].create({"name": "Line 1", **values})

    def owner(self, key):
        return self.env["iiot.gateway.key"]._owner(key)

    def test_a_code_makes_a_key_and_is_kept_as_its_digest_alone(self):
        gateway = self.new_gateway()
        code, uid = gateway._new_code(), str(uuid.uuid4())
        told = {"api_url": "https://box:8000", "api_key": "of-the-box", "ca_pem": "PEM"}
        answer = self.enrol(code, uid, **told)
        self.assertEqual(self.owner(answer["api_key"]), gateway.id)
        self.assertEqual((gateway.uid, gateway.api_url, gateway.api_key), (uid, "https://box:8000", "of-the-box"))
        self.assertTrue(gateway._is_bound_here())
        self.env.flush_all()
        for table in ("iiot_gateway", "iiot_gateway_key", "iiot_gateway_report", "mail_message"):
            self.env.cr.execute(f"SELECT string_agg(t::text, '') FROM {table} t")
            text = self.env.cr.fetchone()[0]
            self.assertNotIn(code, text)
            self.assertNotIn(answer["api_key"], text)
        self.assert_refused(410, "code_used", self.enrol, code)

    def test_a_code_ends_with_its_time_or_with_the_next_one(self):
        gateway = self.new_gateway()
        first = gateway._new_code()
        second = gateway._new_code()
        self.assert_refused(403, "invalid_code", self.enrol, first)
        gateway.code_expires_at = fields.Datetime.now() - timedelta(seconds=1)
        self.assert_refused(410, "code_expired", self.enrol, second)

    def test_a_code_is_typed_in_small_letters_and_with_blanks(self):
        gateway = self.new_gateway()
        answer = self.enrol(f" {gateway._new_code().lower()} ")
        self.assertEqual(self.owner(answer["api_key"]), gateway.id)

    def test_an_appliance_that_is_another_gateway_already_is_told_which_and_its_code_stays_good(self):
        known = self.make_gateway("Line 7")
        gateway = self.new_gateway()
        code = gateway._new_code()
        refusal = self.assert_refused(409, "already_enrolled", self.enrol, code, known.uid)
        self.assertIn("Line 7", str(refusal))
        self.assertTrue(self.enrol(code)["api_key"])

    def test_a_new_key_lets_the_earlier_ones_live_for_a_while_and_a_revoked_one_is_dead_at_once(self):
        gateway = self.make_gateway()
        first = self.key_made_by(gateway.action_new_key)
        second = self.key_made_by(gateway.action_new_key)
        self.assertEqual([self.owner(key) for key in (first, second, "x", "")], [gateway.id, gateway.id, None, None])
        oldest, newest = gateway.key_ids.sorted("id")
        self.assertFalse(newest.expires_at)
        self.assertEqual((oldest.expires_at - fields.Datetime.now() + timedelta(hours=1)).days, OVERLAP_DAYS)
        self.env.cr.execute("UPDATE iiot_gateway_key SET expires_at = '2026-01-01' WHERE id = %s", (oldest.id,))
        self.assertIsNone(self.owner(first))
        newest.action_revoke()
        self.env.flush_all()
        self.assertIsNone(self.owner(second))

    def key_made_by(self, action):
        key = action()["context"]["default_secret"]
        self.env.flush_all()
        return key

    def test_the_dialog_says_what_to_do_with_a_code_and_with_a_key(self):
        parameters = self.env["ir.config_parameter"]
        parameters.set_param("web.base.url", "https://odoo.example.com")
        gateway = self.make_gateway()
        shown = gateway.action_new_code()["context"]
        self.assertIn(
            f"enroll --odoo https://odoo.example.com --code {shown['default_secret']} ", shown["default_command"]
        )
        self.assertFalse(shown["default_warning"])
        shown = gateway.action_new_key()["context"]
        self.assertEqual(shown["default_address_line"], "ODOO_BASE_URL=https://odoo.example.com")
        self.assertEqual(shown["default_key_line"], f"ODOO_API_KEY={shown['default_secret']}")
        self.assertNotIn("default_command", shown, "it is no command")
        for url in ("http://127.0.0.1:8069", "http://localhost:8069", "http://[::1]"):
            parameters.set_param("web.base.url", url)
            self.assertIn(url, gateway.action_new_code()["context"]["default_warning"])

    def test_an_empty_port_is_none_and_a_wrong_one_is_refused(self):
        gateway = self.make_gateway()
        self.assertFalse(gateway.mqtt_port_text)
        gateway.mqtt_port_text = " 8884 "
        gateway.invalidate_recordset(["mqtt_port_text"])
        self.assertEqual((gateway.mqtt_port, gateway.mqtt_port_text), (8884, "8884"))
        gateway.mqtt_port_text = ""
        self.assertEqual(gateway.mqtt_port, 0)
        for text in ("99999", "x", "-1"):
            with self.assertRaises(ValidationError):
                gateway.mqtt_port_text = text

    def test_an_identity_is_kept_for_a_replacement_and_handed_out_with_recover_alone(self):
        gateway = self.make_gateway()
        body = {"contract": 1, "gateway": gateway.uid, "identity": "QUJD"}
        gateway._keep_identity(read_identity(body))
        answer = self.enrol(gateway._new_code(), recover=True)
        self.assertEqual((answer["identity"], answer["gateway_uid"]), ("QUJD", gateway.uid))
        self.assertNotIn("identity", self.enrol(gateway._new_code(), gateway.uid))
        gateway._keep_identity(read_identity({**body, "identity": None}))
        self.assert_refused(404, "no_identity", self.enrol, gateway._new_code(), recover=True)

    def test_a_gateway_made_by_hand_takes_its_id_from_its_first_sync_and_keeps_it(self):
        gateway = self.new_gateway()
        body = self.sync_body(self.make_gateway())
        gateway._sync(read_sync({**body, "gateway": "the-first"}))
        self.assertEqual(gateway.uid, "the-first")
        self.assert_refused(403, "wrong_gateway", gateway._sync, read_sync({**body, "gateway": "another"}))

    def test_a_copy_of_the_database_refuses_and_is_not_bound(self):
        gateway = self.make_gateway()
        own = gateway._own_database_uuid()
        self.env["ir.config_parameter"].set_param("database.uuid", "of-the-copy")
        gateway.invalidate_recordset()
        self.assertTrue(gateway.is_copy)
        self.assertFalse(gateway._is_bound_here())
        body = self.sync_body(gateway, database_uuid=own)
        refusal = self.assert_refused(409, "wrong_database", gateway._sync, read_sync(body))
        self.assertEqual(refusal.extra["database_uuid"], "of-the-copy")
        self.enrol(gateway._new_code(), gateway.uid)
        self.assertTrue(gateway._is_bound_here(), "whoever enrols it here means it")

    def test_a_neutralized_copy_has_no_keys_and_no_addresses(self):
        gateway = self.new_gateway()
        key = self.enrol(gateway._new_code(), api_url="https://box:8000", api_key="of-the-box")["api_key"]
        token = self.make_device(gateway)._generate_token()
        self.assertTrue(token)
        self.env.flush_all()
        self.env.cr.execute((Path(__file__).parent.parent / "data" / "neutralize.sql").read_text())
        self.env.invalidate_all()
        self.assertIsNone(self.owner(key))
        self.assertEqual((gateway.is_enabled, gateway.api_url, gateway.api_key), (False, False, False))
        self.assertFalse(self.env["iiot.device.token"].search([]))
        with self.assertRaises(UserError):
            gateway.action_new_code()

    def test_nobody_reads_a_secret_and_users_make_no_codes(self):
        gateway = self.new_gateway()
        self.enrol(gateway._new_code(), api_url="https://box:8000", api_key="of-the-box")
        self.make_device(gateway)._generate_token()
        admin = new_test_user(self.env, "an-admin", groups="industrial_iot.group_iiot_admin")
        user = new_test_user(self.env, "a-user", groups="industrial_iot.group_iiot_user")
        for model, names in SECRETS.items():
            for name in names:
                self.assertIn(name, self.env[model]._fields)
                with self.assertRaises(AccessError):
                    self.env[model].with_user(admin).search([]).read([name])
                with self.assertRaises(AccessError):
                    self.env[model].with_user(admin).search([(name, "=", "x")])
            self.assertFalse(set(names) & set(self.env[model].with_user(admin).fields_get()))
        self.assertTrue(gateway.with_user(admin).action_new_code())
        for action in ("action_new_code", "action_new_key", "action_forget_address"):
            with self.assertRaises(AccessError):
                getattr(gateway.with_user(user), action)()
        self.assertEqual(gateway.api_key, "of-the-box")
        with self.assertRaises(AccessError):
            self.env["iiot.gateway.key"].with_user(user).search([])
        key = gateway.with_user(admin).key_ids[:1] or self.fail("no key to revoke")
        with self.assertRaises(AccessError):
            key.with_user(user).action_revoke()
        self.assertTrue(key.is_good)
        key.action_revoke()
        self.assertFalse(key.is_good)

    def test_the_gateways_user_sees_one_gateways_devices_and_nobody_else_by_claiming_to_be_one(self):
        company = self.env["res.company"].create({"name": "Another"})
        gateway, other = self.make_gateway(), self.make_gateway("Line 2", company_id=company.id)
        own = self.make_device(gateway)
        foreign = self.make_device(other, company_id=company.id)
        devices = self.env["iiot.device"].with_context(iiot_gateway_id=other.id)
        gateways_user = self.env.ref("industrial_iot.user_gateway")
        self.assertEqual(devices.with_user(gateways_user).search([]), foreign)
        self.assertFalse(self.env["iiot.device"].with_user(gateways_user).search([]))
        admin = new_test_user(self.env, "an-admin", groups="industrial_iot.group_iiot_admin")
        self.assertIn(own, devices.with_user(admin).search([]))
        self.assertNotIn(foreign, devices.with_user(admin).search([]))
        for model in ("iiot.gateway", "iiot.gateway.key", "iiot.device.token", "res.partner"):
            with self.assertRaises(AccessError):
                self.env[model].with_user(gateways_user).search([])

    def test_an_administrator_makes_and_removes_a_gateway(self):
        admin = new_test_user(self.env, "an-admin", groups="industrial_iot.group_iiot_admin")
        gateway = self.env["iiot.gateway"].with_user(admin).create({"name": "Line 9"})
        gateway.sudo()._sync(read_sync({**self.sync_body(self.make_gateway()), "gateway": "nine"}))
        gateway.unlink()
        self.env.cr.execute("SELECT count(*) FROM iiot_gateway_epoch WHERE gateway_id = %s", (gateway.id,))
        self.assertEqual(self.env.cr.fetchone()[0], 0)

    def test_a_report_is_shown_and_changes_nothing_that_people_edit(self):
        gateway = self.make_gateway()
        written = gateway.write_date
        ledger = dict.fromkeys(("received", "stored", "waiting", "parked", "removed", "refused"), 3000000000)
        more = {"ledger": {**ledger, "repeated": 0}, "disk": {"free_bytes": 5_000_000, "total_bytes": 9_000_000}}
        backlog = {"waiting": 7, "parked": 1, "oldest_at": "2026-11-22T10:00:00.500Z", "drain_s": 2.5}
        gateway._sync(
            read_sync(self.sync_body(gateway, backlog=backlog, status="degraded", problems=["a", "b"], **more))
        )
        self.assertEqual((gateway.waiting, gateway.parked, gateway.drain_s), (7, 1, 2.5))
        self.assertEqual(gateway.oldest_waiting_at, fields.Datetime.to_datetime("2026-11-22 10:00:00"))
        self.assertEqual((gateway.status, gateway.problems, gateway.disk_free_mb), ("degraded", "a\nb", 5))
        self.assertEqual(gateway.ledger_received, 3_000_000_000)
        self.assertLess(abs(gateway.clock_ahead_s), 60)
        self.assertEqual(gateway.write_date, written)
        self.assertEqual(
            self.env["iiot.gateway"].search([("status", "=", "degraded"), ("uid", "=", gateway.uid)]), gateway
        )

    def test_a_silent_gateway_is_one_activity_until_it_is_heard_again(self):
        gateway = self.make_gateway(silence_limit_min=10)
        never = self.make_gateway("never heard of")
        gateway._sync(read_sync(self.sync_body(gateway)))
        gateway.report_id.last_contact = fields.Datetime.now() - timedelta(minutes=11)
        for _ in range(2):
            self.env["iiot.gateway"]._find_silent()
        self.assertTrue(gateway.is_silent)
        self.assertEqual(len(gateway.activity_ids), 1)
        self.assertEqual(gateway.activity_ids.user_id, gateway.user_id)
        self.assertFalse(never.is_silent)
        gateway._sync(read_sync(self.sync_body(gateway)))
        self.assertFalse(gateway.is_silent)
        self.assertFalse(gateway.activity_ids)

    def test_the_scheduled_action_runs_for_ever(self):
        cron = self.env.ref("industrial_iot.cron_silent_gateways")
        self.assertTrue(cron.active)
        self.assertEqual(cron.numbercall if "numbercall" in cron._fields else -1, -1)
        cron.method_direct_trigger()


@tagged("post_install", "-at_install")
class TestEnrolmentRoute(RouteCase):
    def test_an_appliance_is_enrolled_without_a_key_and_speaks_with_the_one_it_gets(self):
        gateway = self.env["iiot.gateway"].create({"name": "Line 1"})
        uid = str(uuid.uuid4())
        body = {"contract": 1, "code": gateway._new_code(), "gateway_uid": uid, "name": "line 1", "version": "1"}
        answer = self.call("/iiot/gateway/enroll", body)
        self.assertEqual(answer.status_code, 200, answer.text)
        sync = self.call("/iiot/gateway/sync", self.sync_body(gateway), key=answer.json()["api_key"])
        self.assertEqual(sync.status_code, 200, sync.text)
        self.assertEqual(sync.json()["database_uuid"], answer.json()["database_uuid"])
        self.assertTrue(gateway.key_ids.last_used_at)

    def test_guessed_codes_are_limited_and_the_right_one_works_all_the_same(self):
        gateway = self.env["iiot.gateway"].create({"name": "Line 1"})
        body = {"contract": 1, "gateway_uid": str(uuid.uuid4()), "name": "line 1", "version": "1"}
        statuses = [
            self.call("/iiot/gateway/enroll", {**body, "code": f"AAAA-{number}"}).status_code for number in range(110)
        ]
        self.assertEqual(set(statuses), {403, 429})
        answer = self.call("/iiot/gateway/enroll", {**body, "code": gateway._new_code()})
        self.assertEqual(answer.status_code, 200, answer.text)
