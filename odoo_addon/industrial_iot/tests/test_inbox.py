import uuid
from unittest.mock import patch

import psycopg2
from odoo.tests import tagged
from odoo.tools import mute_logger

from ..lib.problems import LaterError, RejectedError
from .contract_case import ContractCase, RouteCase

INBOX = "odoo.addons.industrial_iot.models.iiot_inbox"


class InboxCase(ContractCase):
    def setUp(self):
        super().setUp()
        self.gateway = self.make_gateway()
        self.device = self.make_device(self.gateway)
        self.epoch = str(uuid.uuid4())

    def accept(self, messages, **more):
        self.env.flush_all()
        body = self.batch(self.gateway, messages, epoch=self.epoch, **more)
        return self.env["iiot.inbox"]._accept_batch(self.gateway, body)

    def results(self, messages, **more):
        return [result["status"] for result in self.accept(messages, **more)["results"]]

    def take(self, *seqs, **more):
        return self.results([self.message(seq, self.device) for seq in seqs], **more)

    def receipts(self):
        self.env.cr.execute(
            "SELECT seq FROM iiot_receipt JOIN iiot_gateway_epoch epoch ON epoch.id = epoch_id WHERE epoch = %s "
            "ORDER BY seq",
            (self.epoch,),
        )
        return [row[0] for row in self.env.cr.fetchall()]

    def history(self):
        return sorted(
            row.payload["n"] for row in self.env["iiot.telemetry"].search([("device_id", "=", self.device.id)])
        )

    def numbered(self, *seqs, **members):
        return [self.message(seq, self.device, {"n": seq}, **members) for seq in seqs]


class TestInbox(InboxCase):
    def test_a_message_is_stored_once_and_what_lies_below_the_floor_needs_no_receipt(self):
        self.assertEqual(self.take(1, 2, 3), ["stored"] * 3)
        self.assertEqual(self.take(2, 3, 4, 4), ["duplicate", "duplicate", "stored", "duplicate"])
        self.assertEqual(self.receipts(), [1, 2, 3, 4])
        self.assertEqual(self.take(5, floor=4), ["stored"])
        self.assertEqual(self.receipts(), [4, 5])
        self.assertEqual(self.take(3), ["duplicate"])

    def test_numbers_beyond_an_integer_of_odoo_are_taken(self):
        self.assertEqual(self.take(2**40, 2**61), ["stored", "stored"])
        self.assertEqual(self.take(2**61 + 1, floor=2**61), ["stored"])

    def test_a_device_of_another_gateway_is_unknown(self):
        other = self.make_device(self.make_gateway("Line 2"))
        results = self.accept([self.message(1, other), self.message(2, self.device)])["results"]
        self.assertEqual([result["status"] for result in results], ["rejected", "stored"])
        self.assertEqual(results[0]["code"], "unknown_device")
        self.assertEqual(self.receipts(), [2])

    def test_what_a_gateway_still_has_of_a_device_that_left_it_is_taken_but_not_how_it_is_connected(self):
        self.device.write({"paired_at": "2026-11-22 09:00:00", "state": "active"})
        other = self.make_gateway("Line 2")
        self.device.write({"gateway_id": other.id, "paired_at": "2026-11-22 09:30:00"})
        presence = {"status": "offline", "since": "2026-11-22T10:00:00Z", "reason_code": "revoked", "reason": "x"}
        messages = [*self.numbered(1), self.message(2, self.device, presence, kind="presence")]
        self.assertEqual(self.results(messages), ["stored", "stored"])
        self.assertEqual(self.history(), [1])
        self.assertEqual(self.device.connection_status, "unknown")

    def test_one_message_that_fails_is_rejected_with_a_reason_and_the_others_are_stored(self):
        def take(model, messages):
            if any(message.seq == 5 for message in messages):
                raise KeyError("of a module")
            return original(model, messages)

        original = type(self.env["iiot.telemetry"])._take
        with patch.object(type(self.env["iiot.telemetry"]), "_take", take), mute_logger(INBOX):
            results = self.accept(self.numbered(*range(1, 9)))["results"]
        self.assertEqual([result["status"] for result in results].count("stored"), 7)
        self.assertEqual((results[4]["status"], results[4]["code"]), ("rejected", "failed"))
        self.assertIn("KeyError", results[4]["message"])
        self.assertEqual(self.history(), [1, 2, 3, 4, 6, 7, 8])
        self.assertEqual(self.receipts(), [1, 2, 3, 4, 6, 7, 8])
        self.assertEqual(self.results(self.numbered(5)), ["stored"], "a repeat is judged anew")

    def test_what_fails_in_the_database_alone_is_found_too(self):
        def take(model, messages):
            if any(message.seq == 2 for message in messages):
                model.env.cr.execute("SELECT 1 / 0")

        with patch.object(type(self.env["iiot.telemetry"]), "_take", take), mute_logger(INBOX, "odoo.sql_db"):
            self.assertEqual(self.take(1, 2, 3), ["stored", "rejected", "stored"])

    def test_a_conflict_with_another_transaction_is_for_the_whole_batch(self):
        def take(model, messages):
            raise psycopg2.errors.SerializationFailure("another one was faster")

        with (
            patch.object(type(self.env["iiot.telemetry"]), "_take", take),
            self.assertRaises(psycopg2.errors.SerializationFailure),
        ):
            self.take(1)

    def test_what_is_to_come_again_holds_up_the_later_ones_of_its_device_but_no_telemetry(self):
        other = self.make_device(self.gateway)

        def take(model, messages):
            if any(message.seq == 2 for message in messages):
                raise LaterError

        messages = [
            self.message(1, self.device, kind="command_state"),
            self.message(2, self.device, kind="command_state"),
            self.message(3, self.device, kind="command_state"),
            self.message(4, other, kind="command_state"),
            self.message(5, self.device),
        ]
        with patch.object(type(self.env["iiot.command"]), "_take_states", take):
            self.assertEqual(self.results(messages), ["stored", "retry", "retry", "stored", "stored"])
        self.assertEqual(self.receipts(), [1, 4, 5])
        self.assertEqual(self.results(messages), ["duplicate", "stored", "stored", "duplicate", "duplicate"])

    def test_a_stored_message_that_would_be_rejected_by_now_is_a_duplicate(self):
        message = self.message(1, self.device)
        self.assertEqual(self.results([message]), ["stored"])
        self.assertEqual(self.results([{**message, "kind": "gossip"}]), ["duplicate"])
        self.device.unlink()
        self.assertEqual(self.results([message]), ["duplicate"])

    def test_a_rejected_message_is_rejected_by_the_part_that_knows_it(self):
        def take(model, messages):
            raise RejectedError("no_sense", "it makes none")

        with patch.object(type(self.env["iiot.update"]), "_take_statuses", take):
            results = self.accept([self.message(1, self.device, kind="ota_status")])["results"]
        expected = {"seq": 1, "status": "rejected", "code": "no_sense", "message": "it makes none"}
        self.assertEqual(results, [expected])

    def test_an_odoo_that_knows_less_leaves_no_trace_of_the_batch(self):
        refusal = self.assert_refused(409, "behind", self.take, 9, floor=9, settled=8)
        self.assertEqual(refusal.extra, {"highest": 0, "floor": 0})
        self.take(1, 2)
        refusal = self.assert_refused(409, "behind", self.take, 9, floor=9, settled=8)
        self.assertEqual(refusal.extra, {"highest": 2, "floor": 1})
        self.assert_refused(409, "behind", self.take, 9, floor=3, settled=2, stored=2, below=3)
        self.assertEqual(self.take(3, floor=3, settled=2, stored=2, below=2), ["stored"])

    def test_odoo_counts_readings_itself_beside_the_ledger(self):
        self.take(1, 2, 3)
        self.results([self.message(4, self.device, kind="presence")])
        self.env.invalidate_all()
        self.assertEqual(self.gateway.readings_stored, 3)
        self.assertTrue(self.gateway.last_contact)

    def test_an_event_is_written_down_and_one_that_needs_somebody_is_an_activity_once(self):
        refused = {"event": "device_change_refused", "device_id": self.device.device_id, "reason": "topics"}
        messages = [
            self.message(1, "-", refused, kind="gateway_event"),
            self.message(2, "-", refused, kind="gateway_event"),
            self.message(3, "-", {"event": "whatever"}, kind="gateway_event"),
            self.message(4, "-", "text", kind="gateway_event"),
        ]
        chatter = len(self.gateway.message_ids), len(self.device.message_ids)
        self.assertEqual(self.results(messages), ["stored"] * 4)
        events = self.env["iiot.gateway.event"].search([("gateway_id", "=", self.gateway.id)], order="id")
        self.assertEqual(events.mapped("event"), ["device_change_refused"] * 2 + ["whatever", "unknown"])
        self.assertEqual(events[0].device_id, self.device)
        self.assertEqual(len(self.device.activity_ids), 1)
        self.assertEqual((len(self.gateway.message_ids), len(self.device.message_ids)), chatter)

    def test_five_hundred_messages_need_hardly_more_queries_than_fifty(self):
        devices = self.env["iiot.device"].concat(*(self.make_device(self.gateway) for _ in range(20)))

        def queries(first, count):
            messages = [self.message(first + n, devices[n % 20], {"temperature": n}) for n in range(count)]
            self.env.flush_all()
            self.env.invalidate_all()
            before = self.env.cr.sql_log_count
            self.assertEqual(set(self.results(messages)), {"stored"})
            self.env.flush_all()
            return self.env.cr.sql_log_count - before

        queries(1, 50)  # what is cached for good
        fifty, five_hundred = queries(1001, 50), queries(2001, 500)
        self.assertLessEqual(five_hundred - fifty, 20)
        self.assertLess(fifty, 60)


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

    def test_a_conflict_is_tried_again_at_once_and_an_endless_one_is_503(self):
        gateway = self.make_gateway()
        device = self.make_device(gateway)
        key = self.key_of(gateway)
        left = [2]

        def hand_over(inbox, gateway, messages):
            if left[0]:
                left[0] -= 1
                raise psycopg2.errors.SerializationFailure("another one was faster")

        def post(seq):
            return self.call("/iiot/webhook", self.batch(gateway, [self.message(seq, device)], epoch="e-1"), key=key)

        with patch.object(type(self.env["iiot.inbox"]), "_hand_over", hand_over):
            self.assertEqual(post(1).json()["results"], [{"seq": 1, "status": "stored"}])
            left[0] = 99
            with mute_logger("odoo.addons.industrial_iot.controllers.requests"):
                self.assertEqual(self.outcome(post(2)), (503, "unavailable"))
            left[0] = 0
            self.assertEqual(post(2).json()["results"], [{"seq": 2, "status": "stored"}])
