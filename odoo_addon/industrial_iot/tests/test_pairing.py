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

    def test_a_claim_is_repeated_by_its_request_alone_and_notes_what_the_device_says(self):
        gateway, device = self.make_gateway(), self.make_device()
        body = {"serial": device.serial_number, "token": device._generate_token(), "request_id": "one"}
        told = {"firmware_version": "2.1.0", "hardware": "esp32"}
        claim = self.env["iiot.device.token"].sudo()._claim
        device.secret_version = 4
        first = claim(gateway, read_claim({**body, **told}))
        self.assertEqual(first["secret_version"], 4)
        self.assertEqual((device.firmware_version, device.hardware), ("2.1.0", "esp32"))
        self.assertEqual(claim(gateway, read_claim(body)), first)
        other = self.make_gateway("Line 2")
        for who, asked in (
            (gateway, {**body, "request_id": "two"}),
            (gateway, {**body, "request_id": None}),
            (other, body),
        ):
            self.assert_refused(410, "token_used", claim, who, read_claim(asked))

    def test_a_claim_without_request_id_is_repeated_until_the_device_is_heard_of(self):
        gateway, device = self.make_gateway(), self.make_device()
        asked = read_claim({"serial": device.serial_number, "token": device._generate_token()})
        claim = self.env["iiot.device.token"].sudo()._claim
        self.assertEqual(claim(gateway, asked), claim(gateway, asked))
        self.env.flush_all()
        batch = self.batch(gateway, [self.message(1, device)], epoch="e-1")
        self.env["iiot.inbox"]._accept_batch(gateway, batch)
        self.env.invalidate_all()
        self.assert_refused(410, "token_used", claim, gateway, asked)

    def test_a_device_of_another_company_is_not_there(self):
        company = self.env["res.company"].create({"name": "Another"})
        gateway = self.make_gateway(company_id=company.id)
        device = self.make_device()
        self.assert_refused(403, "invalid_token", self.claim, gateway, device, device._generate_token())

    def test_a_new_token_ends_the_one_before_it(self):
        gateway, device = self.make_gateway(), self.make_device()
        first = device._generate_token()
        second = device._generate_token()
        self.assert_refused(403, "invalid_token", self.claim, gateway, device, first)
        self.assertTrue(self.claim(gateway, device, second))

    def test_a_token_is_kept_as_its_digest_alone(self):
        device = self.make_device()
        token = device._generate_token()
        self.env.flush_all()
        self.env.cr.execute("SELECT string_agg(t::text, '') FROM iiot_device_token t")
        self.assertNotIn(token, self.env.cr.fetchone()[0])

    def test_an_operator_who_removed_the_device_at_the_appliance_has_ended_its_pairing(self):
        gateway, device = self.make_gateway(), self.make_device()
        self.claim(gateway, device, device._generate_token())
        device.paired_at = "2026-11-22 09:00:00"
        removed = {"event": "device_removed", "device_id": device.device_id}
        early = self.message(1, "-", removed, kind="gateway_event", at="2026-11-22T08:00:00Z")
        late = self.message(2, "-", removed, kind="gateway_event")
        self.env["iiot.inbox"]._accept_batch(gateway, self.batch(gateway, [early], epoch="e-1"))
        self.assertTrue(device.paired_at, "it was paired anew since")
        self.env["iiot.inbox"]._accept_batch(gateway, self.batch(gateway, [late], epoch="e-1"))
        self.assertEqual((device.paired_at, device.state), (False, "draft"))
