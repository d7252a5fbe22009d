from calendar import timegm
from datetime import timedelta
from unittest.mock import patch

from odoo import fields
from odoo.exceptions import AccessError, UserError
from odoo.tests import Form

from ..lib.reading_text import shown_values
from ..wizards import iiot_token_dialog
from .device_case import DeviceCase, now


class TestConnectionInWords(DeviceCase):
    def words(self, device, **state):
        device.state_id.write(state)
        device.invalidate_recordset()
        return device.connection_text, device.connection_advice

    def test_an_offline_device_says_for_how_long_and_why_and_what_to_do(self):
        device = self.paired()
        text, advice = self.words(
            device, connection_status="offline", offline_code="keep_alive", connection_since=self.minutes_ago(12)
        )
        self.assertEqual(text, "Offline for 12 min: it stopped answering (keep-alive timed out)")
        self.assertIn("power", advice)

    def test_a_reason_that_is_new_here_is_told_in_the_words_of_the_gateway(self):
        text, _advice = self.words(
            self.paired(), connection_status="offline", offline_code="struck", offline_reason="lightning struck it"
        )
        self.assertEqual(text, "lightning struck it")

    def test_an_online_device_needs_no_advice_unless_another_one_uses_its_name(self):
        device = self.paired()
        since = self.minutes_ago(185)
        self.assertEqual(
            self.words(device, connection_status="online", connection_since=since), ("Online for 3 h 5 min", "")
        )
        self.assertIn("copy", self.words(device, is_contested=True)[1])

    def test_while_the_gateway_is_silent_it_is_the_gateway_that_is_to_be_looked_at(self):
        device = self.paired()
        self.gateway.report_id.last_contact = self.minutes_ago(20)
        text, advice = self.words(device, connection_status="unknown")
        self.assertEqual(text, "Unknown: no contact with its gateway for 20 min")
        self.assertIn(self.gateway.name, advice)

    def test_before_and_after_its_service_a_device_says_what_is_next(self):
        device = self.env["iiot.device"].create({"serial_number": "SN-NEW", "profile_id": self.profile.id})
        self.assertIn("Generate a token", device.connection_advice)
        device.action_generate_token()
        self.assertEqual(device.connection_text, "Waiting for the device to use its token")
        device.action_disable()
        self.assertEqual(device.connection_text, "Switched off in Odoo")
        device.action_retire()
        self.assertEqual((device.connection_text, device.connection_advice), ("Out of service", ""))

    def test_a_button_says_what_it_has_done_and_when_the_gateway_learns_it(self):
        device = self.paired()
        self.gateway.report_id.last_contact = fields.Datetime.now()
        said = device.action_disable()["params"]
        self.assertEqual(said["message"], "Switched off. The gateway is told within seconds.")
        self.assertEqual((said["title"], said["type"]), (device.display_name, "success"))
        self.gateway.report_id.last_contact = self.minutes_ago(20)
        said = device.action_enable()["params"]
        self.assertEqual(
            said["message"], f"Switched on. {self.gateway.name} has no contact now, and is told when it is back."
        )
        self.assertEqual(said["type"], "warning")
        device.action_revoke()
        self.assertEqual(device.action_retire()["params"]["message"], "Out of service. Its history stays.")
        self.assertEqual(device.action_unretire()["params"]["message"], "Back in service. It needs a new token.")

    def test_whoever_may_not_read_the_business_record_opens_the_device_all_the_same(self):
        company = self.env["res.company"].create({"name": "Not theirs"})
        device = self.paired(business_ref=f"res.company,{company.id}").with_user(self.user)
        asked = {"name": {}, "business_ref": {"fields": {"display_name": {}}}}
        (row,) = device.web_read(asked)
        self.assertEqual(row["name"], device.name)
        self.assertEqual(row["business_ref"]["id"], {"id": company.id, "model": "res.company"})
        self.assertNotIn("Not theirs", row["business_ref"]["display_name"])
        self.assertEqual(device.sudo().web_read(asked)[0]["business_ref"]["display_name"], "Not theirs")

    def test_names_of_business_records_are_shown_to_those_who_may_read_them(self):
        partner = self.env["res.partner"].create({"name": "Press hall"})
        device = self.paired(business_ref=f"res.partner,{partner.id}")
        self.assertEqual(device.business_name, "Press hall")
        company = self.env["res.company"].create({"name": "Not theirs"})
        secret = self.paired(business_ref=f"res.company,{company.id}")
        seen = (device | secret).with_user(self.user)
        self.assertEqual(seen.mapped("business_name"), ["Press hall", False])
        partner.unlink()
        device.invalidate_recordset()
        self.assertFalse(device.business_name)


class TestLive(DeviceCase):
    def test_the_open_form_gets_last_values_and_a_chart(self):
        self.profile.metrics = "temperature\n$.motor.rpm"
        device = self.paired()
        readings = [
            self.told(
                device,
                "telemetry",
                {"alarm": n, "temperature": 20.0 + n, "motor": {"rpm": n}},
                at=now() - timedelta(minutes=n),
            )
            for n in range(30)
        ]
        self.env["iiot.telemetry"]._take(readings)
        live = device.with_user(self.user).get_live("temperature", 1)
        self.assertEqual(
            live["values"],
            [
                {"name": "temperature", "value": "20.0"},
                {"name": "motor.rpm", "value": "0"},
                {"name": "alarm", "value": "0"},
            ],
        )
        self.assertEqual((live["metrics"], live["metric"]), (["temperature", "$.motor.rpm"], "temperature"))
        self.assertEqual(len(live["points"]), 30)
        self.assertEqual([point[1] for point in live["points"]], [20.0 + n for n in reversed(range(30))])
        newest = timegm(fields.Datetime.now().timetuple())
        self.assertLess(abs(live["points"][-1][0] - newest), 120)
        week = device.get_live("$.motor.rpm", 168)
        self.assertEqual(week["metric"], "$.motor.rpm")
        self.assertEqual(sum(point[3] >= point[1] >= point[2] for point in week["points"]), len(week["points"]))
        self.assertTrue(week["points"])

    def test_a_chart_begins_with_an_hour_until_there_are_two_hours_of_values(self):
        self.profile.metrics = "t"
        device = self.paired()
        self.assertEqual(device.get_live()["hours"], 24)
        self.env["iiot.telemetry"]._take([self.told(device, "telemetry", {"t": 1}, at=now() - timedelta(minutes=110))])
        self.assertEqual((device.get_live()["hours"], device.get_live()["step_s"]), (1, 15))
        self.assertEqual(device.get_live("t", 24)["hours"], 24)
        self.env["iiot.telemetry"]._take([self.told(device, "telemetry", {"t": 1}, at=now() - timedelta(minutes=130))])
        self.assertEqual(device.get_live()["hours"], 24)

    def test_values_of_a_device_that_is_away_are_said_to_be_old(self):
        device = self.paired()
        self.env["iiot.telemetry"]._take([self.told(device, "telemetry", {"t": 1}, at=self.minutes_ago(50))])
        device.state_id.connection_status = "offline"
        device.invalidate_recordset()
        self.assertEqual(device.get_live()["old"], "From 50 min ago: the machine may have other values by now.")
        device.state_id.connection_status = "online"
        device.invalidate_recordset()
        self.assertFalse(device.get_live()["old"])

    def test_a_chart_never_has_more_points_than_a_screen_shows(self):
        self.profile.metrics = "t"
        device = self.paired()
        start = now() - timedelta(hours=23)
        self.env["iiot.telemetry"]._take(
            [self.told(device, "telemetry", {"t": n}, at=start + timedelta(seconds=60 * n)) for n in range(1200)]
        )
        self.assertLessEqual(len(device.get_live("t", 24)["points"]), 241)

    def test_it_is_for_those_who_may_see_the_device(self):
        device = self.paired()
        with self.assertRaises(AccessError):
            device.with_user(self.outsider).get_live()

    def test_without_readings_and_without_metrics_there_is_nothing_to_draw(self):
        live = self.paired().get_live("../../etc", 10_000)
        self.assertEqual((live["values"], live["points"], live["metric"], live["hours"]), ([], [], False, 24))

    def test_values_of_a_reading_are_told_with_their_path(self):
        shown = shown_values({"a": {"b": 1, "c": [1, 2]}, "d": [{"e": "x"}], "f": None, "g": {}})
        self.assertEqual(
            [(each["name"], each["value"]) for each in shown],
            [("a.b", "1"), ("a.c", "[1, 2]"), ("d[0].e", "x"), ("f", "null"), ("g", "{}")],
        )
        self.assertEqual(shown_values(7), [{"name": "value", "value": "7"}])
        self.assertEqual(len(shown_values({str(n): n for n in range(1000)})), 40)
        self.assertEqual(shown_values(False), [])
        self.assertEqual(shown_values({"ts": 1, "msg_id": "x", "a": {"ts": 2}}), [{"name": "a.ts", "value": "2"}])
        self.assertEqual([each["name"] for each in shown_values({"ts": 1})], ["ts"])


class TestLabel(DeviceCase):
    def dialog(self, device):
        action = device.with_user(self.user).action_generate_token()
        model = self.env["iiot.token.dialog"].with_user(self.user).with_context(**action["context"])
        return Form(model), action["context"]["default_token"]

    def test_the_label_carries_serial_token_address_and_fingerprint_as_text_and_as_code(self):
        self.gateway.write({"mqtt_host": "gateway.example", "enrolled_at": now().replace(microsecond=0)})
        self.gateway.report_id.ca_fingerprint = "SHA256:AB:CD"
        device = self.env["iiot.device"].create(
            {"serial_number": "SN-LABEL", "name": "<b>Press</b>", "profile_id": self.profile.id}
        )
        dialog, token = self.dialog(device)
        for text in ("SN-LABEL", token, "gateway.example", "SHA256:AB:CD", "data:image/png;base64,"):
            self.assertIn(text, dialog.label_html)
        self.assertIn("&lt;b&gt;Press", dialog.label_html)
        self.assertEqual(dialog.gateway_address, "gateway.example")
        self.assertFalse(dialog.qr_problem)

    def test_of_several_gateways_one_is_chosen_for_the_label_and_what_it_lacks_is_said(self):
        known = {"enrolled_at": now().replace(microsecond=0)}
        self.gateway.write({"mqtt_host": "one.example", **known})
        self.gateway.report_id.ca_fingerprint = "SHA256:AB:CD"
        other = self.env["iiot.gateway"].create({"name": "Hall 2", "mqtt_host": "two.example", **known})
        device = self.env["iiot.device"].create({"serial_number": "SN-TWO", "profile_id": self.profile.id})
        dialog, token = self.dialog(device)
        self.assertFalse(dialog.gateway_id)
        self.assertIn("Choose the gateway", dialog.label_problem)
        self.assertNotIn("example", dialog.label_html)
        dialog.gateway_id = other
        self.assertIn("two.example", dialog.label_html)
        self.assertIn(token, dialog.label_html)
        self.assertIn("Hall 2 has not told the fingerprint", dialog.label_problem)
        dialog.gateway_id = self.gateway
        for text in ("one.example", "SHA256:AB:CD"):
            self.assertIn(text, dialog.label_html)
        self.assertFalse(dialog.label_problem)
        self.assertFalse(device.gateway_id)
        device.gateway_id = other
        self.assertEqual(self.dialog(device)[0].gateway_id, other)

    def test_until_when_a_token_is_good_is_told_until_it_is_used(self):
        device, other = self.env["iiot.device"].create(
            [{"serial_number": f"SN-UNTIL-{n}", "profile_id": self.profile.id} for n in range(2)]
        )
        self.assertFalse(device.token_until)
        device.with_user(self.user).action_generate_token()
        (device | other).invalidate_recordset()
        token = self.env["iiot.device.token"].search([("device_id", "=", device.id)])
        self.assertEqual(device.with_user(self.user).token_until, token.expires_at)
        self.assertFalse(other.token_until)
        token.claimed_at = token.expires_at
        device.invalidate_recordset()
        self.assertFalse(device.token_until)

    def test_without_the_package_for_the_code_the_label_says_so_and_is_as_good(self):
        device = self.env["iiot.device"].create({"serial_number": "SN-PLAIN", "profile_id": self.profile.id})
        with patch.object(iiot_token_dialog, "qrcode", None):
            dialog, token = self.dialog(device)
        self.assertIn("qrcode", dialog.qr_problem)
        self.assertIn(token, dialog.label_html)
        self.assertNotIn("data:image", dialog.label_html)

    def test_the_printed_label_of_the_menu_has_no_token(self):
        device = self.paired()
        report = self.env["ir.actions.report"]
        html = report._render_qweb_html("industrial_iot.report_device_label", device.ids)[0].decode()
        self.assertIn(device.serial_number, html)
        self.assertNotIn("Token", html)


class TestCommandDialog(DeviceCase):
    def dialog(self, devices):
        return Form(self.env["iiot.command.dialog"].with_user(self.user).with_context(default_device_ids=devices.ids))

    def test_parameters_typed_one_a_line_are_sent_as_what_they_are(self):
        device = self.paired()
        dialog = self.dialog(device)
        dialog.action = "configure"
        for name, value, kind in (
            ("threshold", "25.5", "number"),
            ("mode", "auto", "text"),
            ("loud", "true", "yes/no"),
            ("code", '"007"', "text"),
        ):
            with dialog.param_ids.new() as line:
                line.name, line.value = name, value
                self.assertEqual(line.kind, kind)
        self.assertIn('"threshold": 25.5', dialog.preview)
        dialog.save().action_send()
        self.assertEqual(device.command_ids.params, '{"threshold": 25.5, "mode": "auto", "loud": true, "code": "007"}')

    def test_what_cannot_be_sent_is_said_before_it_is_sent(self):
        self.profile.command_template = (
            '{% if action == "run" %}{"speed": {{ params.speed + 1 }} }{% else %}{}{% endif %}'
        )
        dialog = self.dialog(self.paired())
        self.assertIn("run", dialog.known_actions)
        dialog.action = "run"
        self.assertIn("Press", dialog.preview_problem)
        dialog.as_json = True
        dialog.params = "{"
        self.assertIn("not JSON", dialog.params_problem)
        self.assertFalse(dialog.preview)
        dialog.params = '{"speed": 4}'
        self.assertFalse(dialog.params_problem or dialog.preview_problem)
        self.assertIn('"speed": 5', dialog.preview)

    def test_it_warns_of_devices_that_are_away_and_of_those_that_cannot_have_it(self):
        away = self.paired()
        away.state_id.write({"connection_status": "offline", "offline_code": "keep_alive"})
        draft = self.env["iiot.device"].create({"serial_number": "SN-DRAFT", "profile_id": self.profile.id})
        dialog = self.dialog(away | draft)
        self.assertIn(f"{draft.name}: not paired", dialog.warning)
        self.assertIn(f"{away.name}: it stopped answering", dialog.warning)
        self.assertIn("waits for it 1 min, then", dialog.warning)
        dialog.expires_in_s = 7200
        self.assertIn("waits for it 2 h, then", dialog.warning)

    def test_it_offers_what_devices_of_the_same_kind_were_sent_lately_the_most_used_first(self):
        device, other = self.paired(count=2)
        (device | other).send_command("stop")
        device.send_command("configure", {"a": 1})
        old = device.send_command("ancient")
        old.sudo().queued_at = self.minutes_ago(60 * 24 * 100)
        foreign = self.paired(profile_id=self.env["iiot.device.profile"].create({"name": "Other"}).id)
        foreign.send_command("fly")
        self.assertEqual(self.dialog(other).known_actions, "stop, configure")


class TestUpdateDialog(DeviceCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.firmware = cls.env["iiot.firmware"].create(
            {"version": "9.9", "profile_id": cls.profile.id, "url": "https://files.example/9.bin", "sha256": "ab" * 32}
        )

    def dialog(self, devices):
        action = devices.with_user(self.user).action_update_firmware()
        return Form(self.env["iiot.update.dialog"].with_user(self.user).with_context(**action["context"]))

    def test_devices_that_can_have_it_get_it_and_the_table_says_why_others_cannot(self):
        ready, busy = self.paired(count=2)
        other = self.env["iiot.device.profile"].create({"name": "Other"})
        foreign = self.paired(profile_id=other.id)
        self.env["iiot.update"].create({"device_id": busy.id, "firmware_id": self.firmware.id}).action_start()
        dialog = self.dialog(ready | busy | foreign)
        dialog.firmware_id = self.firmware
        record = dialog.save()
        notes = {row["cells"][0]: (row["cells"][3], row["look"]) for row in record.table["rows"]}
        self.assertEqual(notes[busy.name], ("An update is running: cancel it first.", "danger"))
        self.assertEqual(notes[foreign.name], ("The firmware is for another kind of device.", "danger"))
        self.assertEqual(notes[ready.name], ("Starts when the device is back.", "warning"))
        record.action_start()
        self.assertEqual((ready.update_ids.state, ready.update_count), ("waiting", 1))
        self.assertEqual((len(busy.update_ids), len(foreign.update_ids)), (1, 0))

    def test_the_newest_version_for_one_kind_of_device_is_proposed(self):
        general = self.env["iiot.firmware"].create(
            {"version": "1.0", "url": "https://files.example/1.bin", "sha256": "cd" * 32}
        )
        self.assertEqual(self.dialog(self.paired(count=2)).firmware_id, self.firmware)
        other = self.env["iiot.device.profile"].create({"name": "Other"})
        foreign = self.paired(profile_id=other.id)
        self.assertEqual(self.dialog(foreign).firmware_id, general)
        dialog = self.dialog(foreign | self.paired())
        self.assertFalse(dialog.firmware_id)
        self.assertIn("Other", dialog.choice_text)
        general.active = False
        self.assertIn("no firmware for Other", self.dialog(foreign).choice_text)
        self.assertFalse(self.dialog(self.paired()).choice_text)

    def test_that_an_update_runs_already_is_said_at_once(self):
        device = self.paired()
        self.assertFalse(self.dialog(device).problem)
        self.env["iiot.update"].create({"device_id": device.id, "firmware_id": self.firmware.id}).action_start()
        self.assertEqual(self.dialog(device).problem, "An update is running: cancel it first.")

    def test_firmware_is_found_by_the_name_of_its_template_and_an_update_without_device_has_no_name(self):
        found = self.env["iiot.firmware"].name_search("Pres")
        self.assertIn(self.firmware.id, [each[0] for each in found])
        self.assertFalse(self.env["iiot.update"].new({}).display_name)

    def test_where_none_can_have_it_nothing_is_started(self):
        draft = self.env["iiot.device"].create({"serial_number": "SN-DRAFT", "profile_id": self.profile.id})
        dialog = self.dialog(draft)
        dialog.firmware_id = self.firmware
        with self.assertRaises(UserError):
            dialog.save().action_start()
        self.assertFalse(draft.update_ids)
