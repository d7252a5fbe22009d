from datetime import datetime, timedelta
from unittest.mock import patch

from lxml import etree
from odoo import fields
from odoo.exceptions import AccessError
from odoo.tests import Form

from ..models.iiot_demo import IiotDemo, reading
from ..models.ir_ui_view import older_arch, without_labels
from .device_case import DeviceCase, now
from .telemetry_case import TelemetryCase


class TestGatewayInWords(DeviceCase):
    def report(self, **values):
        self.gateway.report_id.write({"last_contact": self.minutes_ago(1), **values})
        self.gateway.invalidate_recordset()
        return self.gateway

    def test_its_condition_is_one_word(self):
        self.assertEqual(self.gateway.condition, "new")
        self.assertEqual(self.report(status="degraded").condition, "degraded")
        self.assertEqual(self.report(last_contact=self.minutes_ago(16)).condition, "silent")
        self.assertEqual(self.report(is_silent=True).condition, "silent")
        self.gateway.is_enabled = False
        self.assertEqual(self.gateway.condition, "off")

    def test_a_backlog_says_how_much_how_old_and_how_long_it_takes(self):
        self.assertEqual(self.report(waiting=0).backlog_text, "No messages waiting")
        gateway = self.report(waiting=12_345, oldest_waiting_at=self.minutes_ago(125), drain_s=90)
        self.assertEqual(
            gateway.backlog_text, "12,345 messages waiting, the oldest for 2 h 5 min; delivered in about 1 min"
        )

    def test_the_ledger_adds_up_or_says_how_many_are_missing(self):
        gateway = self.report(ledger_received=100, ledger_stored=90, ledger_waiting=6, ledger_parked=4)
        gateway._compare_ledger(first=True)
        self.assertTrue(gateway.ledger_adds_up)
        self.assertEqual(gateway.ledger_text, "Every one of 100 readings is accounted for.")
        self.assertEqual([row["cells"][1] for row in gateway.ledger_table["rows"]][:2], ["100", "90"])
        gateway = self.report(ledger_received=103)
        gateway._compare_ledger(first=False)
        self.assertFalse(gateway.ledger_adds_up)
        self.assertIn("3 readings are not accounted for", gateway.ledger_text)

    def test_disk_and_clock_are_told_in_words(self):
        gateway = self.report(disk_free_mb=512, disk_total_mb=2048, clock_ahead_s=-75, uptime_s=200)
        self.assertEqual(gateway.disk_text, "512 MB free of 2.0 GB")
        self.assertEqual(gateway.disk_used_percent, 75)
        self.assertEqual((gateway.clock_text, gateway.uptime_text), ("1 min behind Odoo", "3 min"))

    def test_how_many_of_its_devices_are_online_is_one_text(self):
        self.assertFalse(self.gateway.devices_text)
        self.assertEqual(self.report(devices_online=6, devices_paired=7).devices_text, "6 of 7")

    def test_its_buttons_lead_to_its_devices_and_events(self):
        device = self.paired()
        action = self.gateway.action_open_devices()
        self.assertEqual(self.env["iiot.device"].search(action["domain"]), device)
        self.assertEqual(self.gateway.device_count, 1)
        self.assertEqual(self.gateway.action_open_events()["domain"], [("gateway_id", "=", self.gateway.id)])


class TestCards(DeviceCase):
    def test_what_the_menus_list_has_cards_for_phones(self):
        for name in (
            "device",
            "device_profile",
            "gateway",
            "command",
            "telemetry_rule",
            "telemetry",
            "firmware",
            "update",
        ):
            action = self.env.ref(f"industrial_iot.iiot_{name}_action")
            self.assertIn("kanban", action.view_mode.split(","), name)
            views = self.env[action.res_model].get_views([(False, "kanban")])["views"]
            self.assertIn("<field", views["kanban"]["arch"])


class TestProfileForm(DeviceCase):
    def test_errors_of_the_template_name_their_line_and_those_of_settings_their_reason(self):
        form = Form(self.profile)
        form.command_template = '{"a": 1,\n "b": {{ params.delay + 1 }}}'
        form.preview_params = "{}"
        self.assertTrue(form.preview_problem.startswith("Line 2: "), form.preview_problem)
        self.assertEqual((form.template_mark["line"], form.template_problem), (2, False))
        form.preview_params = '{"delay": 3}'
        self.assertEqual((form.template_mark, form.preview_problem), (False, False))
        self.assertTrue(form.preview_size)
        form.preview_params = "[1]"
        self.assertIn("not JSON", form.preview_problem)
        form.settings = '{\n"a": }'
        self.assertIn("not JSON", form.settings_problem)
        self.assertEqual(form.settings_mark["line"], 2)
        form.settings = "[]"
        self.assertIn("object", form.settings_problem)
        self.assertFalse(form.settings_mark)

    def test_what_is_wrong_with_a_template_in_any_case_is_said_once_and_marked(self):
        form = Form(self.profile)
        form.command_template = '{"a": 1,\n\n "b": {{ params. }}}'
        self.assertIn("line 3", form.template_problem)
        self.assertEqual(form.template_mark, {"line": 3, "text": form.template_problem})
        self.assertFalse(form.preview_problem or form.template_note or form.preview_size)
        # the line of a text that is no JSON is not one of the template
        form.command_template = '{% for n in [1] %}\n{% endfor %}\n{"a": }'
        self.assertTrue(form.template_problem)
        self.assertFalse(form.template_mark)

    def test_topics_are_shown_as_a_device_gets_them(self):
        device = self.paired()
        form = Form(self.profile)
        self.assertEqual(form.topic_table["rows"][0]["cells"][1], f"telemetry/{device.device_id}/data")
        form.telemetry_topic_template = "plant/{device}/values"
        self.assertEqual(form.topic_table["rows"][0]["cells"][1], f"plant/{device.device_id}/values")
        form.telemetry_topic_template = "plant/#"
        self.assertEqual(form.topic_table["rows"][0]["look"], "danger")


class TestRuleTrial(TelemetryCase):
    def form(self, **values):
        form = Form(self.env["iiot.telemetry.rule"].with_user(self.author))
        form.profile_id = self.profile
        for name, value in values.items():
            form[name] = value
        return form

    def target(self, form, field="color"):
        form.target_model_id = self.env["ir.model"]._get("res.partner")
        form.target_field_id = self.env["ir.model.fields"]._get("res.partner", field)

    def test_a_rule_that_is_not_saved_yet_shows_what_it_would_write(self):
        self.take(self.message({"temperature": 7}), self.message({"temperature": 8}, at=1))
        form = self.form(json_path="$.temperature", trial_device_id=self.device)
        self.assertEqual(form.trial_problem, "Choose what kind of record is written.")
        self.target(form)
        self.assertFalse(form.trial_problem)
        cells = [row["cells"][1:] for row in form.trial_table["rows"]]
        self.assertEqual(
            cells,
            [["8", "Partner 1", "0", "8", "would be written"], ["7", "Partner 1", "0", "7", "would be written"]],
        )
        newest = fields.Datetime.to_string(self.device.last_telemetry)
        self.assertEqual(form.trial_table["rows"][0]["cells"][0], {"time": newest}, "UTC: the browser knows its zone")
        form.factor = 2
        self.assertEqual(form.trial_table["rows"][0]["cells"][4], "16")
        self.assertEqual(self.partner().color, 0)

    def test_a_pasted_reading_counts_and_what_is_wrong_with_it_is_said(self):
        form = self.form(json_path="$.oil", trial_device_id=self.device)
        self.target(form)
        self.assertIn("paste one", form.trial_table["note"])
        form.trial_payload = '{"oil": 3, "motor": {"rpm": 1}}'
        self.assertEqual(form.known_paths, "$.oil, $.motor.rpm")
        self.assertEqual(form.trial_table["rows"][0]["cells"][4], "3")
        form.trial_payload = '{"water": 3}'
        self.assertEqual(form.trial_table["rows"][0]["cells"][1], "nothing found")
        form.trial_payload = "{"
        self.assertIn("not JSON", form.trial_problem)

    def test_what_saving_would_be_refused_for_is_said_while_typing(self):
        form = self.form(json_path="$..temperature", trial_device_id=self.device)
        self.target(form)
        self.assertTrue(form.trial_problem)
        form.json_path = "$.temperature"
        form.target_model_id = self.env["ir.model"]._get("res.users")
        form.target_field_id = self.env["ir.model.fields"]._get("res.users", "login")
        self.assertIn("may not write", form.trial_problem)

    def test_a_saved_rule_is_tried_again_on_readings_that_it_has_applied(self):
        self.make_rule()
        self.take(self.message({"temperature": 5}))
        rule = self.env["iiot.telemetry.rule"].with_user(self.author).search([])
        form = Form(rule)
        self.assertEqual(form.trial_table["rows"][0]["cells"][6], "The field has this value already.")
        form.offset = 1
        self.assertEqual(form.trial_table["rows"][0]["cells"][5:], ["6", "would be written"])
        self.assertEqual(self.partner().color, 5)

    def test_without_a_choice_the_newest_reading_of_each_of_some_devices_is_tried(self):
        form = self.form(json_path="$.temperature")
        self.target(form)
        self.assertIn("paste one", form.trial_table["note"])
        devices = self.env["iiot.device"].search([("profile_id", "=", self.profile.id)])
        self.assertEqual(len(devices), 3)
        for number, device in enumerate(devices):
            self.take(
                self.message({"temperature": 1}, device=device),
                self.message({"temperature": 10 + number}, at=1, device=device),
            )
        form = self.form(json_path="$.temperature")
        self.target(form)
        self.assertEqual(form.trial_table["head"][0], "Device")
        self.assertEqual(form.known_paths, "$.temperature")
        shown = [(row["cells"][0], row["cells"][2]) for row in form.trial_table["rows"]]
        self.assertEqual(shown, [(device.name, str(10 + number)) for number, device in enumerate(devices)])
        form.trial_payload = '{"temperature": 99}'
        self.assertEqual([row["cells"][5] for row in form.trial_table["rows"]], ["99"])
        with patch("odoo.addons.industrial_iot.models.iiot_telemetry_rule_trial.DEVICES", 1):
            form.trial_payload = False
            self.assertEqual(len(form.trial_table["rows"]), 1)


class TestDashboard(DeviceCase):
    def test_it_counts_devices_and_names_those_that_need_somebody(self):
        online, offline = self.paired(count=2)
        online.state_id.connection_status = "online"
        offline.state_id.write({"connection_status": "offline", "offline_code": "keep_alive"})
        figures = self.env["iiot.dashboard"].with_user(self.user).get_figures()
        counts = {tile["title"]: tile["count"] for tile in figures["tiles"]}
        known = self.env["iiot.device"].search_count([("state", "=", "active"), ("connection_status", "=", "online")])
        self.assertEqual(counts["Online"], known)
        self.assertIn(offline.name, [problem["name"] for problem in figures["problems"]])
        for tile in figures["tiles"]:
            action = self.env.ref(tile["action"]["xmlid"])
            names = set(
                etree.fromstring(self.env[action.res_model].get_view(view_type="search")["arch"]).xpath("//@name")
            )
            for key in tile["action"]["context"]:
                self.assertIn(key.replace("search_default_", ""), names)

    def test_first_steps_are_shown_until_the_last_one_was_taken(self):
        self.paired()
        rules = self.env["iiot.telemetry.rule"].search([])
        rules.unlink()
        steps = self.env["iiot.dashboard"].get_figures()["steps"]
        self.assertFalse(steps[-1]["done"])
        self.assertTrue(steps[2]["done"])

    def test_it_is_for_users_of_the_add_on(self):
        with self.assertRaises(AccessError):
            self.env["iiot.dashboard"].with_user(self.outsider).get_figures()


class TestOlderViews(DeviceCase):
    def test_the_words_of_newer_views_become_those_of_17(self):
        arch = older_arch(
            '<form><field name="x"><list editable="bottom"><field name="y"/></list></field><chatter/><a/></form>'
        )
        root = etree.fromstring(arch)
        self.assertEqual(root.xpath("//tree/field/@name"), ["y"])
        self.assertEqual(root.xpath("//div[@class='oe_chatter']/field/@name")[-1], "message_ids")
        self.assertEqual([child.tag for child in root], ["field", "div", "a"])

    def test_18_gets_lists_without_labels_of_questions(self):
        button = '<button name="a" confirm="?" confirm-label="Yes" cancel-label="No"/>'
        for arch in (
            f"<list>{button}</list>",
            f'<form><field name="x"><list><header>{button}</header></list></field></form>',
        ):
            (found,) = etree.fromstring(without_labels(arch)).iter("button")
            self.assertEqual(dict(found.attrib), {"name": "a", "confirm": "?"})
        self.assertIn("confirm-label", without_labels(f"<form>{button}</form>"))

    def test_a_card_becomes_a_box_that_opens_its_record(self):
        arch = older_arch('<kanban><templates><t t-name="card" class="row">a<b/>c</t></templates></kanban>')
        box = etree.fromstring(arch).xpath("//t[@t-name='kanban-box']/div")[0]
        self.assertIn("oe_kanban_global_click", box.get("class"))
        self.assertIn("row", box.get("class"))
        self.assertEqual("".join(box.itertext()), "ac")


class TestDemonstration(DeviceCase):
    def setUp(self):
        super().setUp()
        with (
            patch.object(IiotDemo, "_bind", lambda *_args: None),
            patch("odoo.addons.industrial_iot.models.iiot_demo.DAYS", 1),
            patch("odoo.addons.industrial_iot.models.iiot_demo.DAYS_BEFORE", 1),
        ):
            self.env["iiot.demo"]._make_factory()

    def device(self, name):
        return self.env["iiot.device"].search([("device_id", "=", name)])

    def work_on(self, minutes):
        for _minute in range(minutes):
            self.env["iiot.demo"]._work_on()
            self.env.invalidate_all()

    def test_the_factory_tells_its_story(self):
        press, conveyor, new = self.device("press-1"), self.device("conveyor-2"), self.device("press-4")
        self.assertTrue(press.get_live("temperature", 24)["points"])
        self.assertIn("Offline for 47 min", conveyor.connection_text)
        self.assertEqual((new.state, new.last_values), ("draft", False))
        self.assertEqual(self.env["iiot.update"].search([("state", "=", "failed")]).previous_version, "2.0.3")
        self.assertEqual(
            self.env["iiot.update"].search([("is_running", "=", True)]).device_id, self.device("conveyor-1")
        )
        self.assertIn("expired", self.env["iiot.command"].search([]).mapped("state"))
        addresses = self.env["iiot.device"].search([("paired_at", "!=", False)]).mapped("address")
        self.assertEqual(len(set(addresses)), len(addresses))
        before = press.last_telemetry
        press.state_id.last_telemetry = before - timedelta(minutes=5)
        self.work_on(1)
        self.assertGreaterEqual(press.last_telemetry, before)
        self.assertTrue(press.gateway_id.ledger_adds_up)

    def test_one_hall_is_well_and_the_other_has_a_backlog_that_gets_less(self):
        well, full = self.device("press-1").gateway_id, self.device("press-5").gateway_id
        self.assertEqual((well.condition, full.condition), ("ok", "degraded"))
        self.assertEqual([len(gateway.key_ids) for gateway in (well, full)], [1, 1])
        self.assertTrue(self.env["iiot.gateway.event"].search([("gateway_id", "=", well.id)]))
        self.assertEqual(full.parked, 1)
        self.assertIn("delivered in about 20 min", full.backlog_text)
        kept = self.env["iiot.telemetry"].search_count([("device_id", "in", full.device_ids.ids)])
        self.assertEqual(kept, full.readings_stored)
        waiting = full.waiting
        self.work_on(2)
        self.assertLess(full.waiting, waiting)
        self.assertGreater(full.waiting, 0)
        report = full.report_id
        self.assertEqual(
            report.ledger_received, report.ledger_stored + report.ledger_waiting + report.ledger_parked, "it adds up"
        )
        kept = self.env["iiot.telemetry"].search_count([("device_id", "in", full.device_ids.ids)])
        self.assertEqual(kept, full.readings_stored)
        self.work_on(19)
        self.assertEqual((full.waiting, full.oldest_waiting_at, full.parked), (0, False, 1))

    def test_devices_that_are_online_answer_commands_and_end_their_updates(self):
        running = self.env["iiot.update"].search([("is_running", "=", True)])
        near, far = self.device("press-1").send_command("reset"), self.device("conveyor-2").send_command("reset")
        self.work_on(6)
        self.assertEqual((running.state, running.device_id.firmware_version), ("installed", "1.5.0"))
        self.assertEqual((near.state, far.state), ("done", "queued"))
        running.action_rollback()
        self.work_on(3)
        self.assertEqual((running.device_id.firmware_version, running.device_id.running_update_id.id), ("1.4.2", False))

    def test_machines_are_warm_by_day_and_cool_by_night_and_the_same_each_time(self):
        noon, night = datetime(2026, 11, 22, 12), datetime(2026, 11, 22, 3)
        self.assertGreater(
            reading("Press controller", 1, noon)["temperature"],
            reading("Press controller", 1, night)["temperature"] + 15,
        )
        self.assertEqual(reading("Conveyor drive", 1, noon), reading("Conveyor drive", 1, noon))
        self.assertGreater(now(), noon)


class TestHistory(TelemetryCase):
    def test_the_history_opens_with_one_value_because_units_differ(self):
        self.env["iiot.telemetry.day"].search([]).unlink()
        user = self.user_in("iiot-history", "industrial_iot.group_iiot_user")
        hours = self.env["iiot.telemetry.hour"].with_user(user)
        days = self.env["iiot.telemetry.day"].with_user(user)
        self.assertNotIn("search_default_metric", days.action_open_history()["context"])
        self.take(self.message({"temperature": 7, "motor": {"rpm": 9}}))
        self.assertEqual(days.action_open_history()["context"]["search_default_metric"], "temperature")
        action = self.device.with_user(user).action_open_chart()
        self.assertEqual(sorted(hours.search(action["domain"]).mapped("metric")), ["$.motor.rpm", "temperature"])

    def test_the_table_has_a_line_for_each_device_only_where_they_are_few(self):
        def rows():
            return self.env["iiot.telemetry.day"].action_open_history()["context"]["pivot_row_groupby"]

        devices = self.env["iiot.device"].search_count([])
        with patch("odoo.addons.industrial_iot.models.iiot_telemetry_day.FEW_DEVICES", devices):
            self.assertEqual(rows(), ["device_id"])
        with patch("odoo.addons.industrial_iot.models.iiot_telemetry_day.FEW_DEVICES", devices - 1):
            self.assertEqual(rows(), ["day:day"])
