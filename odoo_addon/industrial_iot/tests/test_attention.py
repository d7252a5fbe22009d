from unittest.mock import patch

from dateutil.relativedelta import relativedelta
from lxml import etree
from odoo import fields
from odoo.exceptions import AccessError
from odoo.tools.safe_eval import safe_eval

from ..lib.sync import read_sync
from ..models.attention import responsible
from ..models.iiot_dashboard import FAILED_UPDATE
from .device_case import DeviceCase
from .telemetry_case import TelemetryCase


class AttentionCase(DeviceCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gateway.user_id = cls.admin

    def asked(self, record, kind):
        """The activities of that type that wait for somebody."""
        self.env.invalidate_all()
        return record.sudo().activity_search([f"industrial_iot.activity_{kind}"])

    def sync(self, *, stored, received=None, parked=0, waiting=0):
        ledger = {"received": stored + parked + waiting if received is None else received, "stored": stored}
        ledger |= {"waiting": waiting, "parked": parked, "removed": 0, "refused": 0, "repeated": 0}
        backlog = {"waiting": waiting, "parked": parked}
        self.gateway._sync(read_sync(self.sync_body(self.gateway, ledger=ledger, backlog=backlog)))
        self.env.invalidate_all()

    def count(self, readings):
        """Odoo has stored so many more."""
        self.gateway.report_id.readings_stored += readings


class TestLedger(AttentionCase):
    def test_a_ledger_of_which_both_sides_know_the_same_adds_up(self):
        self.sync(stored=0)
        self.assertEqual(self.gateway.ledger_text, "No reading was received yet.")
        self.count(100)
        self.sync(stored=100)
        self.assertTrue(self.gateway.ledger_adds_up)
        self.assertEqual(self.gateway.ledger_text, "Every one of 100 readings is accounted for.")
        self.count(15)  # on their way: the appliance does not know yet
        self.sync(stored=100, waiting=15)
        self.assertTrue(self.gateway.ledger_adds_up)
        self.assertFalse(self.asked(self.gateway, "ledger"))

    def test_the_figures_are_those_of_one_moment(self):
        self.sync(stored=0)
        self.count(10)
        self.sync(stored=10)
        self.count(5)
        self.env.invalidate_all()
        cells = {row["cells"][0]: row["cells"][1] for row in self.gateway.ledger_table["rows"]}
        self.assertEqual((cells["In Odoo, reported by the gateway"], cells["In Odoo, counted by Odoo"]), ("10", "10"))
        self.assertIn("As of", self.gateway.ledger_table["note"])

    def test_what_odoo_has_lost_becomes_somebodys_work_until_it_is_there_again(self):
        self.sync(stored=0)
        self.count(40)
        self.sync(stored=100)
        self.assertFalse(self.gateway.ledger_adds_up)
        self.assertIn("60 readings fewer", self.gateway.ledger_text)
        self.assertTrue(self.gateway.needs_attention)
        activity = self.asked(self.gateway, "ledger")
        self.assertEqual(activity.user_id, self.admin)
        self.sync(stored=100)
        self.assertEqual(self.asked(self.gateway, "ledger"), activity)
        self.count(60)
        self.sync(stored=100)
        self.assertTrue(self.gateway.ledger_adds_up)
        self.assertFalse(self.asked(self.gateway, "ledger"))
        self.assertFalse(self.gateway.needs_attention)

    def test_while_something_waits_it_may_come_again(self):
        self.sync(stored=0)
        self.count(40)
        self.sync(stored=90, waiting=50)
        self.assertTrue(self.gateway.ledger_adds_up)
        self.assertFalse(self.asked(self.gateway, "ledger"))
        # more is missing than waits: also where readings come all the time and some always wait
        self.sync(stored=137, waiting=3)
        self.assertIn("94 readings fewer", self.gateway.ledger_text)
        self.assertTrue(self.asked(self.gateway, "ledger"))

    def test_what_was_delivered_elsewhere_before_it_was_enrolled_is_not_missing(self):
        self.sync(stored=1000)
        self.assertTrue(self.gateway.ledger_adds_up)
        self.count(5)
        self.sync(stored=1005)
        self.assertTrue(self.gateway.ledger_adds_up)
        self.sync(stored=1006)
        self.assertFalse(self.gateway.ledger_adds_up)

    def test_readings_of_which_the_appliance_itself_has_lost_track_are_named(self):
        self.sync(stored=0)
        self.count(10)
        self.sync(stored=10, received=13)
        self.assertIn("3 readings are not accounted for", self.gateway.ledger_text)
        self.assertTrue(self.asked(self.gateway, "ledger"))

    def test_a_difference_that_was_looked_into_can_be_accepted(self):
        self.sync(stored=0)
        self.sync(stored=7)
        with self.assertRaises(AccessError):
            self.gateway.with_user(self.user).action_accept_ledger()
        self.gateway.with_user(self.admin).action_accept_ledger()
        self.assertFalse(self.asked(self.gateway, "ledger"))
        self.assertTrue(self.gateway.ledger_adds_up)
        self.assertIn("7 missing readings", self.gateway.message_ids[0].body)
        self.sync(stored=7)
        self.assertTrue(self.gateway.ledger_adds_up)
        self.sync(stored=8)
        self.assertFalse(self.gateway.ledger_adds_up)


class TestAttention(AttentionCase):
    def test_messages_that_are_set_aside_become_work_once_and_again_when_there_are_more(self):
        self.sync(stored=0)
        self.sync(stored=0, parked=2)
        activity = self.asked(self.gateway, "set_aside")
        self.assertEqual((len(activity), activity.user_id), (1, self.admin))
        activity.action_feedback()
        self.sync(stored=0, parked=2)
        self.assertFalse(self.asked(self.gateway, "set_aside"))
        self.sync(stored=0, parked=3)
        self.assertTrue(self.asked(self.gateway, "set_aside"))
        self.sync(stored=0, parked=0)
        self.assertFalse(self.asked(self.gateway, "set_aside"))

    def test_a_device_whose_identity_is_used_twice(self):
        device = self.paired()
        told = {"status": "online", "contested": True}
        self.env["iiot.device"]._take_presence([self.told(device, "presence", told)])
        activity = self.asked(device, "contested")
        self.assertEqual(activity.user_id, self.admin)
        self.assertIn("pair it again", activity.note)
        self.assertIn(device.name, [each["name"] for each in self.env["iiot.dashboard"].get_figures()["problems"]])
        self.env["iiot.device"]._take_presence([self.told(device, "presence", told)])
        self.assertEqual(self.asked(device, "contested"), activity)
        self.env["iiot.device"]._take_presence([self.told(device, "presence", {**told, "contested": False})])
        self.assertFalse(self.asked(device, "contested"))

    def test_the_words_are_in_the_language_of_who_reads_them(self):
        self.env["res.lang"]._activate_lang("fr_FR")
        self.admin.lang = "fr_FR"
        seen = []

        def words(gateway):
            seen.append(gateway.env.context.get("lang"))
            return "Summary", "Note"

        with patch.object(type(self.gateway), "_set_aside_words", words):
            self.sync(stored=0)
            self.sync(stored=0, parked=2)
        self.assertEqual(seen, ["fr_FR"])

    def test_without_a_responsible_an_administrator_of_the_add_on_is_asked(self):
        self.assertEqual(responsible(self.env, self.user), self.user)
        for nobody in (self.env["res.users"], self.env.ref("base.user_root"), self.env.ref("base.public_user")):
            person = responsible(self.env, nobody)
            self.assertTrue(person.has_group("industrial_iot.group_iiot_admin"), nobody)
            self.assertTrue(person.active and not person.share)


class TestFailedUpdate(AttentionCase):
    def failed(self, device, state="failed", **members):
        firmware = self.env["iiot.firmware"].search([("profile_id", "=", self.profile.id)]) or self.env[
            "iiot.firmware"
        ].create(
            {"version": "3.0", "profile_id": self.profile.id, "url": "https://files.example.com/f", "sha256": "a" * 64}
        )
        update = self.env["iiot.update"].create({"device_id": device.id, "firmware_id": firmware.id})
        update.with_user(self.user).action_start()
        self.tell(update, state, **members)
        return update

    def tell(self, update, state, **members):
        payload = {"update_id": update.update_id, "state": state, **members}
        self.env["iiot.update"]._take_statuses([self.told(update.device_id, "ota_status", payload)])

    def listed(self):
        return [
            each["id"]
            for each in self.env["iiot.dashboard"].get_figures()["problems"]
            if each["model"] == "iiot.update"
        ]

    def test_it_is_the_work_of_whoever_ordered_it_and_is_on_the_dashboard(self):
        update = self.failed(self.paired(), error="no space left")
        activity = self.asked(update, "update_failed")
        self.assertEqual(activity.user_id, self.user)
        self.assertIn("no space left", activity.note)
        self.assertIn(update.id, self.listed())

    def test_a_device_that_went_back_by_itself_too(self):
        self.assertTrue(self.asked(self.failed(self.paired(), "rolled_back"), "update_failed"))

    def test_one_that_nothing_ended_in_time_too(self):
        update = self.failed(self.paired(), "downloading")
        update.deadline = self.minutes_ago(1)
        self.env["iiot.update"]._cron_deadline()
        self.assertTrue(self.asked(update, "update_failed"))

    def test_of_nobody_that_is_still_there_it_is_the_work_of_the_gateways_responsible(self):
        update = self.failed(self.paired(), "downloading")
        update.user_id = False
        update._conclude("failed", "timeout")
        self.assertEqual(self.asked(update, "update_failed").user_id, self.admin)

    def test_another_try_ends_it(self):
        update = self.failed(self.paired())
        update.with_user(self.user).action_retry()
        self.assertFalse(self.asked(update, "update_failed"))
        self.assertNotIn(update.id, self.listed())

    def test_a_later_update_that_works_ends_it(self):
        device = self.paired()
        first = self.failed(device)
        self.failed(device, "installed", version="3.0")
        self.assertFalse(self.asked(first, "update_failed"))
        self.assertNotIn(first.id, self.listed())

    def test_a_rollback_that_was_ordered_is_no_failure(self):
        update = self.failed(self.paired(), "installed", version="3.0")
        update.with_user(self.user).action_rollback()
        order = self.env["iiot.update"].search([("rollback_of_id", "=", update.id)])
        self.tell(order, "rolled_back", version="2.0")
        self.assertEqual(order.state, "rolled_back")
        self.assertFalse(self.asked(order, "update_failed"))
        self.assertNotIn(order.id, self.listed())
        self.assertFalse(order.filtered_domain(FAILED_UPDATE))

    def test_a_draft_that_nobody_has_started_does_not_hide_the_failure(self):
        update = self.failed(self.paired())
        draft = self.env["iiot.update"].create({"device_id": update.device_id.id, "firmware_id": update.firmware_id.id})
        self.assertIn(update.id, self.listed())
        draft.with_user(self.user).action_start()
        self.assertNotIn(update.id, self.listed())

    def test_of_a_fleet_that_fails_some_become_activities(self):
        with patch("odoo.addons.industrial_iot.models.attention.AT_A_TIME", 1):
            updates = self.env["iiot.update"]
            for device in self.paired(count=2):
                updates |= self.failed(device, "downloading")
            self.env["iiot.update"].browse(updates.ids)._conclude("failed", "timeout")
        self.assertEqual(len(self.asked(updates, "update_failed")), 1)


class TestTiles(AttentionCase):
    def listed(self, action):
        """How many the list of a tile shows: filters between two separators are alternatives, all groups count."""
        opened = self.env.ref(action["xmlid"])
        wanted = {**safe_eval(opened.context or "{}"), **action["context"]}
        names = {"context_today": lambda: fields.Date.context_today(opened), "relativedelta": relativedelta}
        groups = [[]]
        for element in etree.fromstring(self.env[opened.res_model].get_view(view_type="search")["arch"]):
            if element.tag == "separator":
                groups.append([])
            elif element.tag == "filter" and wanted.get(f"search_default_{element.get('name')}"):
                domain = safe_eval(element.get("domain"), names)
                groups[-1].append(set(self.env[opened.res_model].search(domain).ids))
        return len(set.intersection(*(set.union(*group) for group in groups if group)))

    def test_the_list_that_a_tile_opens_has_as_many_as_the_tile_says(self):
        devices = self.paired(count=4)
        for device, status in zip(devices, ("online", "offline", "unknown", "unknown"), strict=True):
            device.state_id.connection_status = status
        devices[3].state = "retired"  # unknown, and of no interest
        self.env["iiot.device"].create({"serial_number": "SN-tile", "profile_id": self.profile.id})
        self.sync(stored=0)
        self.sync(stored=7)
        self.gateway.report_id.is_silent = True
        commands = devices[:3]._make_commands("reset", {})
        commands.write({"state": "failed"})
        commands[0].queued_at = self.minutes_ago(60 * 24 * 3)
        firmware = self.env["iiot.firmware"].create(
            {"version": "3.0", "profile_id": self.profile.id, "url": "https://files.example.com/f", "sha256": "a" * 64}
        )
        updates = self.env["iiot.update"].create(
            [{"device_id": device.id, "firmware_id": firmware.id} for device in devices[:3]]
        )
        updates.write({"state": "failed", "started_at": self.minutes_ago(5)})
        updates[1].started_at = self.minutes_ago(60 * 24 * 30)
        updates[2].write({"state": "rolled_back", "action": "rollback"})
        self.env.flush_all()
        for tile in self.env["iiot.dashboard"].get_figures()["tiles"]:
            self.assertEqual(self.listed(tile["action"]), tile["count"], tile["title"])
            if tile["title"] != "Updates Running":
                self.assertTrue(tile["count"], f"{tile['title']}: nothing would show that they are the same")


class TestFailingRule(TelemetryCase):
    def failing(self):
        self.env.invalidate_all()
        return self.env["iiot.telemetry.rule"].search([("is_failing", "=", True), ("profile_id", "=", self.profile.id)])

    def test_a_rule_fails_until_it_works_again(self):
        rule = self.make_rule()
        self.take(self.message({"temperature": 5}))
        self.assertFalse(rule.is_failing or self.failing())
        self.take(self.message({"temperature": "hot"}, at=1))
        self.assertEqual(self.failing(), rule)
        self.assertTrue(rule.is_failing)
        problems = self.env["iiot.dashboard"].get_figures()["problems"]
        self.assertIn(rule.id, [each["id"] for each in problems if each["model"] == "iiot.telemetry.rule"])
        self.take(self.message({"temperature": 6}, at=2))
        self.assertFalse(self.failing())
        self.assertEqual((rule.is_failing, rule.failures), (False, 1))
        self.assertIn("hot", rule.last_error)

    def test_it_fails_as_long_as_it_does_for_one_device(self):
        rule = self.make_rule()
        other = self.devices[1]
        self.take(self.message({"temperature": "hot"}), self.message({"temperature": 1}, device=other))
        self.assertEqual(self.failing(), rule)
        self.take(self.message({"temperature": 2}, device=other, at=1))
        self.assertEqual(self.failing(), rule)
        rule.action_forget_errors()
        self.assertFalse(self.failing())
        self.assertIn(rule, rule.search([("is_failing", "=", False)]))
