import json
import uuid

from odoo.tests import tagged

from ..lib.batch import MAX_BODY_BYTES, MAX_MESSAGES
from .contract_case import RouteCase
from .mutations import mutated

BODIES = 200
"""At each route."""


@tagged("post_install", "-at_install")
class TestRoutes(RouteCase):
    def setUp(self):
        super().setUp()
        self.gateway = self.make_gateway()
        self.device = self.make_device(self.gateway)
        self.key = self.key_of(self.gateway)

    def full_batch(self):
        messages = [
            self.message(1, self.device),
            self.message(2, self.device, {"status": "online", "since": "2026-11-22T10:00:00Z"}, kind="presence"),
            self.message(3, self.device, {"command_id": "c-1", "state": "done"}, kind="command_state"),
            self.message(4, self.device, {"command_id": "c-1", "status": "ok"}, kind="command_response"),
            self.message(5, self.device, {"update_id": "u-1", "state": "downloading"}, kind="ota_status"),
            self.message(6, "-", {"event": "new_epoch", "device_id": self.device.device_id}, kind="gateway_event"),
        ]
        more = {"stored": 0, "below": 0, "start": None, "database_uuid": self.gateway._own_database_uuid()}
        return self.batch(self.gateway, messages, epoch=str(uuid.uuid4()), **more)

    def full_sync(self):
        return self.sync_body(
            self.gateway,
            cursor="5-abc",
            problems=["the disk is full"],
            backlog={"waiting": 5, "parked": 0, "oldest_at": "2026-11-22T10:00:00Z", "drain_s": 5.5},
            ledger=dict.fromkeys(("received", "stored", "waiting", "parked", "removed", "refused", "repeated"), 5),
            disk={"free_bytes": 5, "total_bytes": 10},
            api_url="https://box:8000",
        )

    def assert_refuses_but_never_fails(self, path, body, *, method="POST"):
        answered = set()
        for number, content in enumerate(mutated(body, BODIES)):
            answer = self.call(path, data=content, key=self.key, method=method)
            self.assertLess(answer.status_code, 500, f"{number}: {content[:500]} {answer.text[:500]}")
            if answer.status_code >= 400:
                self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
                self.assertTrue(answer.json()["code"], content[:300])
            answered.add(answer.status_code)
        self.assertIn(422, answered)
        self.assertIn(400, answered)

    def test_a_mutated_batch_never_makes_odoo_fail(self):
        self.assert_refuses_but_never_fails("/iiot/webhook", self.full_batch())

    def test_a_mutated_message_never_makes_odoo_fail(self):
        body = self.full_batch()["messages"][1]
        self.assertEqual(body["kind"], "presence")
        self.assert_refuses_but_never_fails(f"/iiot/webhook/{self.device.device_id}", body)

    def test_a_mutated_sync_never_makes_odoo_fail(self):
        self.assert_refuses_but_never_fails("/iiot/gateway/sync", self.full_sync())

    def test_a_mutated_claim_never_makes_odoo_fail(self):
        body = {"serial": self.device.serial_number, "token": self.device._generate_token(), "request_id": "r-1"}
        self.assert_refuses_but_never_fails(
            "/iiot/config", {**body, "firmware_version": "1.0", "hardware": "esp32", "contract": 1}
        )

    def test_a_mutated_enrolment_never_makes_odoo_fail(self):
        body = {"contract": 1, "code": self.gateway._new_code(), "gateway_uid": self.gateway.uid, "name": "line 1"}
        more = {"version": "1", "api_url": "https://box:8000", "api_key": "k" * 40, "ca_pem": "-----", "recover": False}
        self.assert_refuses_but_never_fails("/iiot/gateway/enroll", {**body, **more})

    def test_a_mutated_identity_never_makes_odoo_fail(self):
        body = {"contract": 1, "gateway": self.gateway.uid, "identity": "QUJD", "start": None, "database_uuid": None}
        self.assert_refuses_but_never_fails("/iiot/gateway/identity", body, method="PUT")

    def test_a_body_of_another_kind_without_length_or_too_long_is_refused(self):
        for content_type in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", ""):
            answer = self.call("/iiot/webhook", data=b"a=1", key=self.key, headers={"Content-Type": content_type})
            self.assertEqual(self.outcome(answer), (415, "unsupported_media_type"), content_type)
        answer = self.call("/iiot/webhook", data=iter([b"{}"]), key=self.key)
        self.assertEqual(self.outcome(answer), (411, "length_required"))
        answer = self.call("/iiot/webhook", data=b" " * (MAX_BODY_BYTES + 1), key=self.key)
        self.assertEqual(self.outcome(answer), (413, "too_large"))
        messages = [self.message(seq, self.device) for seq in range(1, MAX_MESSAGES + 2)]
        answer = self.call("/iiot/webhook", self.batch(self.gateway, messages, epoch=str(uuid.uuid4())), key=self.key)
        self.assertEqual(self.outcome(answer), (413, "too_large"))

    def test_a_large_body_with_a_wrong_key_is_answered_and_not_cut_off(self):
        answer = self.call("/iiot/webhook", data=b" " * 3_000_000, key="wrong")
        self.assertEqual(self.outcome(answer), (401, "unauthorized"))

    def test_what_is_in_the_query_counts_for_nothing(self):
        body = self.batch(self.gateway, [], epoch=str(uuid.uuid4()))
        answer = self.call("/iiot/webhook?gateway=5&device_name=x", body, key=self.key)
        self.assertEqual(answer.status_code, 200, answer.text)

    def test_numbers_and_texts_that_no_database_takes_are_rejected_one_by_one(self):
        good, bad = self.message(1, self.device), ('{"a": 1e400}', '{"a": "\\u0000"}', '{"a": "\\ud800"}')
        messages = [json.dumps(good)] + [
            json.dumps(self.message(seq, self.device, "PAYLOAD")).replace('"PAYLOAD"', text)
            for seq, text in enumerate(bad, 2)
        ]
        frame = json.dumps(self.batch(self.gateway, "MESSAGES", epoch=str(uuid.uuid4())))
        content = frame.replace('"MESSAGES"', f"[{','.join(messages)}]").encode()
        results = self.call("/iiot/webhook", data=content, key=self.key).json()["results"]
        self.assertEqual([result["status"] for result in results], ["stored", "rejected", "rejected", "rejected"])
        self.assertEqual({result["code"] for result in results[1:]}, {"not_storable"})

    def test_a_gateway_that_is_switched_off_or_of_another_database_is_refused(self):
        sync = self.sync_body(self.gateway)
        self.gateway.is_enabled = False
        self.assertEqual(self.outcome(self.call("/iiot/gateway/sync", sync, key=self.key)), (403, "gateway_disabled"))
        claim = {"serial": self.device.serial_number, "token": self.device._generate_token()}
        # 403 would be the device's own answer, after which it gives up
        self.assertEqual(self.outcome(self.call("/iiot/config", claim, key=self.key)), (503, "gateway_disabled"))
        self.gateway.write({"is_enabled": True, "database_uuid": "another"})
        for path, body in (("/iiot/gateway/sync", sync), ("/iiot/webhook", self.full_batch())):
            self.assertEqual(self.outcome(self.call(path, body, key=self.key)), (409, "wrong_database"))
        self.assertEqual(self.outcome(self.call("/iiot/config", claim, key=self.key)), (503, "wrong_database"))

    def test_wrong_keys_are_limited_and_a_right_one_is_not(self):
        outcomes = [self.call("/iiot/gateway/sync", {}, key=f"wrong {number}").status_code for number in range(120)]
        self.assertEqual(set(outcomes), {401, 429})
        answer = self.call("/iiot/gateway/sync", {}, key="wrong")
        self.assertEqual(self.outcome(answer), (429, "rate_limited"))
        self.assertGreater(int(answer.headers["Retry-After"]), 0)
        sync = self.call("/iiot/gateway/sync", self.sync_body(self.gateway), key=self.key)
        self.assertEqual(sync.status_code, 200, sync.text)
