from odoo.exceptions import AccessError, UserError
from odoo.tests import Form

from .machine_case import MachineCase


class TestRequest(MachineCase):
    def request_of(self, device):
        """The request that the button begins, saved as it is."""
        action = device.with_user(self.engineer).action_new_maintenance_request()
        form = Form(self.env["maintenance.request"].with_user(self.engineer).with_context(**action["context"]))
        form.name = form.name or "Something"
        return form.save()

    def test_a_request_for_an_offline_device_says_what_is_known_of_it(self):
        device = self.offline(self.press, last_telemetry=self.minutes_ago(12), last_values={"oil": {"bar": "<b>9</b>"}})
        request = self.request_of(device)
        self.assertEqual(request.equipment_id, self.press)
        self.assertEqual(request.name, "Press 1 is offline: it stopped answering (keep-alive timed out)")
        for text in (device.device_id, "Offline for 12 min", "Check the power", "12 min ago", "oil.bar: &lt;b&gt;9"):
            self.assertIn(text, request.description)

    def test_a_request_is_named_after_what_failed_last(self):
        device = self.device_of(self.press, connection_status="online")
        self.assertFalse(device.action_new_maintenance_request()["context"]["default_name"])
        command = device.send_command("start")
        command.sudo().write({"state": "failed", "reason": "device", "response": '{"status": "error"}'})
        self.assertIn("Press 1: the command start failed", self.request_of(device).name)
        firmware = self.env["iiot.firmware"].create(
            {"version": "9.9", "url": "https://x.example/9", "sha256": "ab" * 32}
        )
        update = self.env["iiot.update"].create({"device_id": device.id, "firmware_id": firmware.id})
        update.sudo().write({"state": "failed", "error": "no room"})
        self.assertEqual(self.request_of(device).name, "Press 1: the update to 9.9 failed: no room")
        self.gateway.report_id.last_contact = self.minutes_ago(20)
        device.state_id.connection_status = "unknown"
        self.env.invalidate_all()
        self.assertIn("20 min", self.request_of(device).name)

    def test_a_device_counts_the_open_requests_of_its_machine_and_opens_them(self):
        device = self.device_of(self.press).with_user(self.engineer)
        self.assertEqual(device.open_request_count, 0)
        requests = self.env["maintenance.request"].create(
            [{"name": name, "equipment_id": self.press.id} for name in ("one", "two", "three", "four")]
        )
        requests[2].stage_id = self.env["maintenance.stage"].search([("done", "=", True)], limit=1)
        requests[3].archive_equipment_request()
        self.env.invalidate_all()
        self.assertEqual(device.open_request_count, 2)
        action = device.action_open_maintenance_requests()
        self.assertEqual(self.env["maintenance.request"].search(action["domain"]), requests[:2])
        requests[0].archive_equipment_request()
        self.assertEqual(device.action_open_maintenance_requests()["res_id"], requests[1].id)

    def test_without_a_machine_that_one_may_see_there_is_nothing_to_request(self):
        partner = self.env["res.partner"].create({"name": "No machine"})
        other = self.paired(business_ref=f"res.partner,{partner.id}")
        device = self.device_of(self.press)
        self.assertEqual((device | other | self.paired()).mapped("equipment_id"), self.press)
        seen = device.with_user(self.user)  # who follows no machine
        self.assertFalse(seen.equipment_id)
        with self.assertRaises(UserError):
            seen.action_new_maintenance_request()
        with self.assertRaises(AccessError):
            device.with_user(self.fitter).action_new_maintenance_request()
        self.press.unlink()
        self.env.invalidate_all()
        self.assertFalse(device.equipment_id)
