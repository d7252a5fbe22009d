import uuid

from odoo.tests import tagged

from .contract_case import ContractCase, RouteCase


class TestInbox(ContractCase):
    def setUp(self):
        super().setUp()
        self.gateway = self.make_gateway()
        self.device = self.make_device(self.gateway)
        self.epoch = str(uuid.uuid4())

    def take(self, *seqs, **more):
        body = self.batch(self.gateway, [self.message(seq, self.device) for seq in seqs], epoch=self.epoch, **more)
        return [result["status"] for result in self.env["iiot.inbox"]._accept_batch(self.gateway, body)["results"]]

    def receipts(self):
        self.env.cr.execute(
            "SELECT seq FROM iiot_receipt JOIN iiot_gateway_epoch epoch ON epoch.id = epoch_id WHERE epoch = %s "
            "ORDER BY seq",
            (self.epoch,),
        )
        return [row[0] for row in self.env.cr.fetchall()]

    def test_a_message_is_stored_once_and_what_lies_below_the_floor_needs_no_receipt(self):
        self.assertEqual(self.take(1, 2, 3), ["stored"] * 3)
        self.assertEqual(self.take(2, 3, 4, 4), ["duplicate", "duplicate", "stored", "duplicate"])
        self.assertEqual(self.receipts(), [1, 2, 3, 4])
        self.assertEqual(self.take(5, floor=4), ["stored"])
        self.assertEqual(self.receipts(), [4, 5])
        self.assertEqual(self.take(3), ["duplicate"])

    def test_a_device_of_another_gateway_is_unknown(self):
        other = self.make_device(self.make_gateway("Line 2"))
        body = self.batch(self.gateway, [self.message(1, other), self.message(2, self.device)], epoch=self.epoch)
        results = self.env["iiot.inbox"]._accept_batch(self.gateway, body)["results"]
        self.assertEqual([result["status"] for result in results], ["rejected", "stored"])
        self.assertEqual(results[0]["code"], "unknown_device")
        self.assertEqual(self.receipts(), [2])


@tagged("post_install", "-at_install")
class TestWebhook(RouteCase):
    def test_a_batch_with_the_gateways_key_is_answered_message_by_message(self):
        gateway = self.make_gateway()
        device = self.make_device(gateway)
        body = self.batch(gateway, [self.message(1, device)], epoch=str(uuid.uuid4()))
        answer = self.call("/iiot/webhook", body, key=self.key_of(gateway))
        self.assertEqual(answer.status_code, 200, answer.text)
        self.assertEqual(answer.json(), {"results": [{"seq": 1, "status": "stored"}], "work": False})
        self.assertNotIn("Set-Cookie", answer.headers)

    def test_another_gateways_key_is_refused(self):
        gateway, other = self.make_gateway(), self.make_gateway("Line 2")
        body = self.batch(gateway, [], epoch=str(uuid.uuid4()))
        self.assertEqual(self.outcome(self.call("/iiot/webhook", body, key=self.key_of(other))), (403, "wrong_gateway"))
        self.assertEqual(self.outcome(self.call("/iiot/webhook", body, key="wrong")), (401, "unauthorized"))
