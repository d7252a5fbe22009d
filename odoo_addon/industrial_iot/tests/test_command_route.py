import json

from odoo.tests import new_test_user, tagged

from .contract_case import RouteCase


@tagged("post_install", "-at_install")
class TestCommandRoute(RouteCase):
    def setUp(self):
        super().setUp()
        self.gateway = self.make_gateway()
        self.device = self.make_device(self.gateway)
        self.device.write({"paired_at": "2026-11-22 10:00:00", "state": "active"})
        self.user = new_test_user(self.env, "iiot-caller", groups="industrial_iot.group_iiot_user")
        self.path = f"/iiot/command/{self.device.device_id}"

    def user_key(self, user):
        model = self.env["res.users.apikeys"].with_user(user)
        if "expiration_date" in model._fields:
            return model.sudo()._generate("rpc", "test", None)
        return model._generate("rpc", "test")

    def test_an_api_key_of_odoo_sends_a_command(self):
        body = {"action": "reset", "params": {"delay": 5}, "expires_in_s": 5, "deliver": "at_most_once"}
        answer = self.call(self.path, body, key=self.user_key(self.user))
        self.assertEqual(answer.status_code, 202)
        command = self.device.command_ids
        self.assertEqual(answer.json(), {"command_id": command.command_id, "state": "queued", "reason": None})
        self.assertEqual((command.user_id, command.deliver), (self.user, "at_most_once"))
        self.assertEqual(json.loads(command.params), {"delay": 5})

    def test_who_is_logged_in_sends_a_command(self):
        self.authenticate("iiot-caller", "iiot-caller")
        self.assertEqual(self.call(self.path, {"action": "reset"}).status_code, 202)
        self.assertEqual(self.device.command_ids.user_id, self.user)

    def test_a_form_of_another_site_sends_nothing(self):
        self.authenticate("iiot-caller", "iiot-caller")
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            answer = self.call(self.path, data=b'{"action": "reset"}', headers={"Content-Type": kind})
            self.assertEqual(self.outcome(answer), (415, "unsupported_media_type"))
        self.assertFalse(self.device.command_ids)

    def test_nobody_else_sends_a_command(self):
        body = {"action": "reset"}
        self.assertEqual(self.outcome(self.call(self.path, body)), (401, "unauthorized"))
        self.assertEqual(self.outcome(self.call(self.path, body, key="wrong")), (401, "unauthorized"))
        gateway_key = self.key_of(self.gateway)
        self.assertEqual(self.outcome(self.call(self.path, body, key=gateway_key)), (401, "unauthorized"))
        outsider = new_test_user(self.env, "iiot-nobody", groups="base.group_user")
        self.assertEqual(self.outcome(self.call(self.path, body, key=self.user_key(outsider))), (403, "forbidden"))
        self.assertFalse(self.device.command_ids)

    def test_what_is_wrong_is_said(self):
        key = self.user_key(self.user)
        self.device.profile_id.command_template = '{"delay": {{ params.delay }}}'
        for body, outcome in (
            ([1], (422, "bad_request")),
            ({}, (422, "bad_request")),
            ({"action": 5}, (422, "bad_request")),
            ({"action": "x", "params": [1]}, (422, "bad_request")),
            ({"action": "x"}, (422, "bad_request")),
            ({"action": "x", "params": {"delay": 1}, "expires_in_s": "soon"}, (422, "bad_request")),
        ):
            with self.subTest(body):
                self.assertEqual(self.outcome(self.call(self.path, body, key=key)), outcome)
        for data in (b"{", b'{"a": NaN}', b"[" * 100_000):
            self.assertEqual(self.outcome(self.call(self.path, key=key, data=data)), (400, "bad_request"))
        answer = self.call("/iiot/command/nobody", {"action": "x"}, key=key)
        self.assertEqual(self.outcome(answer), (404, "unknown_device"))

    def test_a_device_of_another_company_is_unknown(self):
        other = self.env["res.company"].create({"name": "Other"})
        self.device.gateway_id.company_id = other
        self.device.company_id = other
        answer = self.call(self.path, {"action": "x"}, key=self.user_key(self.user))
        self.assertEqual(self.outcome(answer), (404, "unknown_device"))

    def test_a_device_that_is_not_paired_says_so(self):
        self.device.action_revoke()
        answer = self.call(self.path, {"action": "x"}, key=self.user_key(self.user))
        self.assertEqual(
            (answer.status_code, answer.json()["state"], answer.json()["reason"]), (202, "failed", "not_paired")
        )
