import shutil
import unittest

from odoo.tests import HttpCase, tagged


@tagged("post_install", "-at_install")
@unittest.skipUnless(shutil.which("chromium") or shutil.which("google-chrome"), "needs chromium")
class TestTours(HttpCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.profile = cls.env["iiot.device.profile"].create({"name": "Tour press"})

    def walk(self, tour):
        menu = self.env.ref("industrial_iot.menu_iiot")
        self.start_tour(f"/web#menu_id={menu.id}", tour, login="admin")

    def test_a_device_is_made_and_shows_its_token(self):
        self.walk("industrial_iot_pair_device")
        device = self.env["iiot.device"].search([("serial_number", "=", "SN-TOUR-1")])
        self.assertEqual(device.state, "provisioned")

    def test_a_command_is_sent_and_found(self):
        gateway = self.env["iiot.gateway"].create({"name": "Tour gateway"})
        device = self.env["iiot.device"].create(
            {
                "name": "Tour device",
                "serial_number": "SN-TOUR-2",
                "profile_id": self.profile.id,
                "gateway_id": gateway.id,
            }
        )
        device.write({"state": "active", "paired_at": "2026-11-22 09:00:00"})
        self.walk("industrial_iot_send_command")
        command = self.env["iiot.command"].search([("device_id", "=", device.id)])
        self.assertEqual(command.mapped("action"), ["reset"])
