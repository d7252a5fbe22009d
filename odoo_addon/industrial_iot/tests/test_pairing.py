from odoo.tests import tagged

from ..lib.claim import read_claim
from .contract_case import ContractCase


@tagged("post_install", "-at_install")
class TestPairing(ContractCase):
    """What a claim makes of a device, and what is left of it when the pairing ends."""

    def claim(self, gateway, device, token):
        asked = read_claim({"serial": device.serial_number, "token": token, "request_id": "one"})
        return self.env["iiot.device.token"].sudo()._claim(gateway, asked)

    def test_a_token_makes_a_device_active_at_the_gateway_that_asks(self):
        gateway, device = self.make_gateway(), self.make_device()
        answer = self.claim(gateway, device, device._generate_token())
        self.assertEqual(answer["device_id"], device.device_id)
        self.assertEqual((device.state, device.gateway_id), ("active", gateway))
        self.assertTrue(device.paired_at)

    def test_an_ended_pairing_is_told_to_the_gateway_and_leaves_no_token(self):
        gateway, device = self.make_gateway(), self.make_device()
        self.claim(gateway, device, device._generate_token())
        changes = self.env["iiot.device.change"]
        cursor = changes._since(gateway, None)["cursor"]
        token = device._generate_token()
        device.action_revoke()
        self.assertEqual((device.state, device.paired_at), ("draft", False))
        self.assertEqual(changes._since(gateway, cursor)["revoked"], [device.device_id])
        self.assert_refused(403, "invalid_token", self.claim, gateway, device, token)

    def test_a_device_that_is_paired_elsewhere_is_revoked_where_it_was(self):
        one, other, device = self.make_gateway("One"), self.make_gateway("Other"), self.make_device()
        self.claim(one, device, device._generate_token())
        cursor = self.env["iiot.device.change"]._since(one, None)["cursor"]
        self.claim(other, device, device._generate_token())
        self.assertEqual(device.gateway_id, other)
        self.assertEqual(self.env["iiot.device.change"]._since(one, cursor)["revoked"], [device.device_id])

    def test_a_retired_device_is_not_paired_and_back_in_service_it_needs_a_new_token(self):
        gateway, device = self.make_gateway(), self.make_device()
        self.claim(gateway, device, device._generate_token())
        device.action_retire()
        self.assertEqual((device.state, device.paired_at), ("retired", False))
        device.action_unretire()
        self.assertEqual(device.state, "draft")
        self.claim(gateway, device, device._generate_token())
        self.assertEqual(device.state, "active")
