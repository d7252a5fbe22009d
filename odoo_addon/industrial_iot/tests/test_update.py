from datetime import timedelta

from odoo import fields
from odoo.exceptions import AccessError, UserError, ValidationError
from odoo.tests import Form
from odoo.tools import mute_logger
from psycopg2 import IntegrityError

from ..lib.times import rfc3339
from .device_case import DeviceCase, now


class TestUpdate(DeviceCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.firmware = cls.env["iiot.firmware"].create(
            {"version": "2.1.0", "profile_id": cls.profile.id, "url": "https://files.example.com/f", "sha256": "a" * 64}
        )

    def make(self, device=None, **values):
        device = device or self.paired()
        return self.env["iiot.update"].create({"device_id": device.id, "firmware_id": self.firmware.id, **values})

    def started(self, device=None, **values):
        update = self.make(device, **values)
        update.action_start()
        return update

    def offer(self, limit=500):
        return self.env["iiot.update"]._offer(self.gateway, limit)

    def status(self, update, state, *, by_appliance=False, at=None, **members):
        at = at or now()
        payload = {"update_id": update.update_id, "state": state, **members}
        if by_appliance:
            payload |= {"source": "appliance", "at": rfc3339(at)}
        return self.told(update.device_id, "ota_status", payload, at=at)

    def take(self, *messages):
        self.env["iiot.update"]._take_statuses(list(messages))

    # --- orders ----------------------------------------------------------------------------------------------

    def test_an_update_that_is_started_is_offered_until_the_appliance_tells_of_it(self):
        update = self.make()
        self.assertEqual((update.state, self.offer()["updates"]), ("draft", []))
        update.with_user(self.user).action_start()
        self.assertEqual((update.state, update.user_id), ("waiting", self.user))
        self.assertTrue(self.env["iiot.update"]._has_new(self.gateway))
        expected = {
            "update_id": update.update_id,
            "device_id": update.device_id.device_id,
            "action": "start_update",
            "params": {"version": "2.1.0", "url": "https://files.example.com/f", "sha256": "a" * 64},
        }
        self.assertEqual(self.offer(), {"updates": [expected], "more": False})
        self.assertFalse(self.env["iiot.update"]._has_new(self.gateway))
        self.assertEqual(self.offer()["updates"], [expected])
        self.take(self.status(update, "fetching", by_appliance=True))
        self.assertEqual((update.state, self.offer()["updates"]), ("fetching", []))
        self.assertEqual(self.env["iiot.update"]._offer(self.make_gateway("Line 2"), 500)["updates"], [])

    def test_the_form_makes_one_for_a_fitting_firmware(self):
        device = self.paired()
        model = self.env["iiot.update"].with_user(self.user)
        with Form(model.with_context(default_device_id=device.id)) as form:
            form.firmware_id = self.firmware
        self.assertEqual((form.record.device_id, form.record.version), (device, "2.1.0"))
        other = self.env["iiot.device.profile"].create({"name": "Other"})
        with self.assertRaises(ValidationError):
            self.make(self.paired(profile_id=other.id))
        with self.assertRaises(ValidationError):
            self.make(firmware_id=False)

    def test_a_device_has_one_running_update(self):
        device = self.paired()
        self.started(device)
        second = self.make(device)
        with self.assertRaises(UserError):
            second.action_start()
        self.assertEqual(device.running_update_id.state, "waiting")
        with mute_logger("odoo.sql_db"), self.assertRaises(IntegrityError), self.env.cr.savepoint():
            second.state = "waiting"
            second.flush_recordset()

    def test_a_device_that_is_not_paired_gets_none(self):
        draft = self.env["iiot.device"].create({"serial_number": "SN-u", "profile_id": self.profile.id})
        with self.assertRaises(UserError):
            self.make(draft).action_start()

    # --- told ------------------------------------------------------------------------------------------------

    def test_the_whole_way_to_a_new_version(self):
        update = self.started()
        device = update.device_id
        device.state_id.firmware_version = "2.0.0"
        for state in ("fetching", "queued", "offered", "delivered"):
            self.take(self.status(update, state, by_appliance=True))
            self.assertEqual(update.state, state)
        self.take(
            self.status(update, "accepted"),
            self.status(update, "downloading", progress=40),
            self.status(update, "downloading", progress=20),
        )
        self.assertEqual((update.state, update.progress), ("downloading", 40))
        self.take(self.status(update, "accepted"))
        self.assertEqual(update.state, "downloading")
        end = now()
        for state in ("downloaded", "verified", "installing", "rebooting"):
            self.take(self.status(update, state))
            self.assertEqual(update.state, state)
        self.take(self.status(update, "installed", version="2.1.0", at=end))
        self.assertEqual((update.state, update.progress, update.ended_at), ("installed", 100, end))
        self.assertEqual((device.firmware_version, update.new_version), ("2.1.0", "2.1.0"))
        self.assertIn("Installed", update.message_ids[0].body)
        self.assertIn("downloading", update.history_text)
        told = {entry["state"]: entry["by"] for entry in update.history}
        self.assertEqual((told["waiting"], told["queued"], told["installing"]), ("odoo", "appliance", "device"))
        last = update.history_table["rows"][-1]["cells"]
        self.assertEqual(last[:3], [{"time": fields.Datetime.to_string(end)}, "Installed", "Device"])

    def test_the_version_before_is_noted_when_it_starts(self):
        device = self.paired()
        device.state_id.firmware_version = "1.9"
        self.assertEqual(self.started(device).previous_version, "1.9")

    def test_installed_without_a_version_means_the_ordered_one(self):
        update = self.started()
        self.take(self.status(update, "already_installed"))
        self.assertEqual((update.state, update.device_id.firmware_version), ("already_installed", "2.1.0"))

    def test_a_failure_has_its_reason_and_what_the_appliance_concluded_yields_to_the_device(self):
        update = self.started()
        self.take(
            self.status(update, "failed", by_appliance=True, reason="timeout", error="it was downloading for too long")
        )
        self.assertEqual(
            (update.state, update.reason, update.error), ("failed", "timeout", "it was downloading for too long")
        )
        self.take(self.status(update, "downloading", progress=90))
        self.assertEqual(update.state, "failed")
        self.take(self.status(update, "installed", version="2.1.0"))
        self.assertEqual((update.state, update.error), ("installed", False))
        self.assertIn("late", update.history_text)
        self.take(self.status(update, "failed", error="no"), self.status(update, "cancelled"))
        self.assertEqual(update.state, "installed")
        self.take(self.status(update, "rolled_back", version="2.0.0"))
        self.assertEqual((update.state, update.device_id.firmware_version), ("rolled_back", "2.0.0"))

    def test_an_error_of_the_device_is_shown(self):
        update = self.started()
        self.take(self.status(update, "failed", error="no space left"))
        self.assertEqual((update.state, update.error, update.reason), ("failed", "no space left", "device"))

    def test_what_belongs_to_no_update_is_kept_and_its_version_counts(self):
        update = self.started()
        other = self.paired()
        self.take(
            self.told(other, "ota_status", {"msg_id": "1"}),
            self.told(other, "ota_status", {"update_id": update.update_id, "state": "installed", "version": "9"}),
            self.told(other, "ota_status", {"update_id": "x", "state": "melted"}),
        )
        reports = self.env["iiot.device.report"].search([("device_id", "=", other.id)], order="id")
        self.assertEqual(reports.mapped("reason"), ["no_state", "no_update", "no_state"])
        self.assertEqual((update.state, other.firmware_version), ("waiting", "9"))

    def test_five_hundred_messages_take_as_many_queries_as_fifty(self):
        updates = self.env["iiot.update"].create(
            [{"device_id": device.id, "firmware_id": self.firmware.id} for device in self.paired(count=500)]
        )
        updates.action_start()
        counts = []
        for state in ("downloading", "installed"):
            for part in (updates[:50], updates):
                messages = [self.status(update, state, version="2.1.0") for update in part]
                self.env.flush_all()
                self.env.invalidate_all()
                before = self.env.cr.sql_log_count
                self.take(*messages)
                self.env.flush_all()
                counts.append(self.env.cr.sql_log_count - before)
        self.assertLessEqual(counts[1], counts[0] + 20, counts)
        self.assertLessEqual(counts[3], counts[2] + 20, counts)
        self.assertEqual(set(updates.mapped("state")), {"installed"})
        self.assertEqual(len(updates.message_ids.filtered(lambda message: "Installed" in message.body)), 500)

    # --- cancelling, again, back -----------------------------------------------------------------------------

    def test_what_nobody_has_fetched_is_cancelled_here(self):
        update = self.started()
        update.with_user(self.user).action_cancel()
        self.assertEqual((update.state, self.offer()["updates"]), ("cancelled", []))
        with self.assertRaises(UserError):
            update.action_cancel()

    def test_a_cancellation_is_offered_until_it_or_an_end_is_told(self):
        update = self.started()
        self.offer()
        self.take(self.status(update, "delivered", by_appliance=True))
        update.action_cancel()
        order = {
            "update_id": update.update_id,
            "device_id": update.device_id.device_id,
            "action": "cancel_update",
            "params": {},
        }
        self.assertTrue(self.env["iiot.update"]._has_new(self.gateway))
        self.assertEqual(self.offer()["updates"], [order])
        self.take(self.status(update, "downloading", progress=5))
        self.assertEqual(self.offer()["updates"], [order], "a report that was under way is no answer")
        self.take(self.status(update, "cancelling", by_appliance=True))
        self.assertEqual((update.state, self.offer()["updates"]), ("cancelling", []))
        self.take(self.status(update, "cancelled"))
        self.assertEqual(update.state, "cancelled")

    def test_an_order_that_was_offered_and_is_taken_back_is_offered_as_a_cancellation_alone(self):
        update = self.started()
        self.offer()
        update.action_cancel()
        self.assertEqual([each["action"] for each in self.offer()["updates"]], ["cancel_update"])
        self.take(self.status(update, "cancelled", by_appliance=True, reason="unknown_update"))
        self.assertEqual((update.state, self.offer()["updates"]), ("cancelled", []))

    def test_the_same_again_is_an_update_of_its_own(self):
        update = self.started()
        with self.assertRaises(UserError):
            update.action_retry()
        self.take(self.status(update, "failed", error="x"))
        action = update.with_user(self.user).action_retry()
        retry = self.env["iiot.update"].browse(action["res_id"])
        self.assertEqual((retry.retry_of_id, retry.state, retry.firmware_id), (update, "waiting", self.firmware))
        self.assertEqual((retry.progress, retry.error, retry.user_id), (0, False, self.user))
        self.assertNotEqual(retry.update_id, update.update_id)

    def test_the_way_back_is_an_order_of_its_own(self):
        update = self.started()
        with self.assertRaises(UserError):
            update.action_rollback()
        self.take(self.status(update, "installed", version="2.1.0"))
        back = self.env["iiot.update"].browse(update.with_user(self.user).action_rollback()["res_id"])
        self.assertEqual((back.action, back.rollback_of_id, back.state), ("rollback", update, "waiting"))
        self.assertEqual([(each["action"], each["params"]) for each in self.offer()["updates"]], [("rollback", {})])
        self.take(self.status(back, "rolled_back", version="2.0.0"))
        self.assertEqual((back.state, back.device_id.firmware_version), ("rolled_back", "2.0.0"))

    def test_what_nothing_has_ended_in_time_has_failed_and_is_taken_back_once(self):
        update = self.started()
        self.offer()
        update.deadline = now() - timedelta(minutes=1)
        self.env["iiot.update"]._cron_deadline()
        self.assertEqual((update.state, update.reason), ("failed", "timeout"))
        self.assertEqual([each["action"] for each in self.offer()["updates"]], ["cancel_update"])
        self.assertEqual(self.offer()["updates"], [])
        self.started(update.device_id)
        self.take(self.status(update, "installed", version="2.1.0"))
        self.assertEqual(update.state, "installed")

    def test_an_offer_is_limited_and_goes_on(self):
        for _number in range(3):
            self.started()
        first = self.offer(limit=2)
        self.assertEqual((len(first["updates"]), first["more"]), (2, True))
        self.assertFalse(self.offer(limit=2)["more"])

    # --- rights ----------------------------------------------------------------------------------------------

    def test_people_choose_device_and_firmware_and_nothing_else(self):
        update = self.make()
        for user in (self.user, self.admin):
            seen = update.with_user(user)
            seen.firmware_id = self.firmware
            for values in ({"state": "installed"}, {"progress": 5}, {"offered": True}, {"update_id": "x"}):
                with self.subTest(values), self.assertRaises(AccessError):
                    seen.write(values)
                with self.assertRaises(AccessError):
                    seen.create({"device_id": update.device_id.id, "firmware_id": self.firmware.id, **values})
        update.action_start()
        for user in (self.user, self.admin):
            with self.assertRaises(AccessError):
                update.with_user(user).firmware_id = False
            with self.assertRaises(UserError):
                update.with_user(user).unlink()
        update.with_user(self.user).message_post(body="seen")
        for method in ("action_start", "action_cancel", "action_retry", "action_rollback"):
            with self.assertRaises(AccessError):
                getattr(update.with_user(self.outsider), method)()
