import json
import unittest
from pathlib import Path

from odoo.exceptions import UserError, ValidationError
from odoo.tests import Form, TransactionCase

from ..lib.rendering import publish_bytes

TABLE = Path(__file__).parents[3] / "tests" / "services" / "command_templates.json"
CONDITIONAL = """{
  "type": "command",
  "action": "{{ action }}",
  {% if params.priority %}"priority": {{ params.priority }},{% endif %}
  "data": {{ params | tojson }}
}"""


class TestProfile(TransactionCase):
    def make(self, **values):
        return self.env["iiot.device.profile"].create({"name": "Press", **values})

    # --- command templates -----------------------------------------------------------------------------------

    @unittest.skipUnless(TABLE.exists(), "the table of cases is in the checkout")
    def test_every_case_of_the_shared_table_holds_for_a_profile(self):
        table = json.loads(TABLE.read_text(encoding="utf-8"))
        for case in table["cases"]:
            template = case.get("template") or table["templates"].get(case.get("template_of"), table["default"])
            with self.subTest(case["name"]):
                if case.get("error") == "command_template" and not case["params"] and "params" not in template:
                    # wrong whatever the parameters are: not even saved
                    with self.assertRaises(ValidationError):
                        self.make(command_template=template)
                    continue
                profile = self.make(command_template=template, command_add_id=False)
                answer = profile.preview_command(case["action"], case["params"])
                if "error" in case:
                    self.assertEqual(answer["code"], case["error"])
                    self.assertTrue(answer["error"])
                elif "json" in case:
                    self.assertEqual(json.loads(answer["payload"]), case["json"])
                elif "now()" in template:
                    expected, found = json.loads(case["output"]), json.loads(answer["payload"])
                    self.assertRegex(found.pop("timestamp"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
                    self.assertEqual(found.pop("device_id"), "device-01")
                    self.assertEqual(
                        {**found, "timestamp": 0, "device_id": 0}, {**expected, "timestamp": 0, "device_id": 0}
                    )
                else:
                    self.assertEqual(answer["payload"], case["output"])

    def test_the_default_template_makes_what_the_documents_say(self):
        profile = self.make(command_add_id=False)
        self.assertEqual(
            profile.preview_command("reset", {"delay": 10})["payload"], '{"action": "reset", "params": {"delay": 10}}'
        )

    def test_a_template_that_can_never_work_is_refused_with_its_line(self):
        for template, told in (
            ("{\n{% if %}\n}", "line 2"),
            ('{"command": {{ action }}}', "JSON"),
            ("{\n\n{{ 1 / 0 }}}", "line 3"),
            ("{{ action | no_such_filter }}", "no_such_filter"),
            ("plain text", "JSON"),
            ("{% include 'x' %}", "TypeError|loader|include"),
            ("", "JSON"),
        ):
            with self.subTest(template), self.assertRaisesRegex(Exception, told) as caught:
                self.make(command_template=template)
            self.assertIsInstance(caught.exception, ValidationError)

    def test_text_is_a_command_where_the_profile_does_not_ask_for_json(self):
        profile = self.make(command_template="SET {{ action }} {{ params.level }}", command_is_json=False)
        self.assertEqual(profile.preview_command("pump", {"level": 3})["payload"], "SET pump 3")

    def test_a_conditional_template_is_saved_and_works_with_and_without_its_parameter(self):
        profile = self.make(command_template=CONDITIONAL, command_add_id=False)
        for params in ({}, {"priority": 2}, {"priority": 0, 'ü"': "'\\"}):
            answer = json.loads(profile.preview_command("x", params)["payload"])
            self.assertEqual(answer["data"], params)
            self.assertEqual(answer.get("priority"), params.get("priority") or None)

    def test_a_template_that_needs_its_parameters_is_saved_and_says_so(self):
        self.make(command_template='{"x": {{ params.axes[0].x }}, "y": {{ params.axes[1]["y"] }}}')
        profile = self.make(command_template='{"delay": {{ params.delay }}}')
        self.assertIn("needs its parameters", profile.template_note)
        answer = profile.preview_command("a", {})
        self.assertEqual((answer["payload"], answer["code"]), (False, "command_not_json"))
        self.assertFalse(self.make().template_note)

    def test_parameters_cannot_add_keys(self):
        profile = self.make(command_template='{"cmd": "{{ action }}", "to": "{{ params.to }}"}', command_add_id=False)
        evil = 'a", "admin": true, "x": "'
        self.assertEqual(json.loads(profile.preview_command(evil, {"to": evil})["payload"]), {"cmd": evil, "to": evil})

    def test_the_preview_of_the_form_follows_what_is_typed(self):
        with Form(self.env["iiot.device.profile"]) as form:
            form.name = "Press"
            form.preview_action = "beep"
            form.preview_params = '{"times": 2}'
            self.assertIn('{"action": "beep", "params": {"times": 2}', form.preview_result)
            form.preview_params = "[1]"
            self.assertIn("JSON object", form.preview_result)

    # --- topics ----------------------------------------------------------------------------------------------

    def test_topics_that_the_appliance_would_refuse_are_refused(self):
        for topic in (
            "",
            "a/+",
            "a/#",
            "telemetry",
            "x{device}",
            "$SYS/{device}",
            "test/{device}",
            "{device}/{device}",
        ):
            with self.subTest(topic), self.assertRaises(ValidationError):
                self.make(telemetry_topic_template=topic)

    def test_topics_must_differ_also_from_those_of_the_configuration(self):
        for values in (
            {"telemetry_topic_template": "a/{device}", "command_topic_template": "a/{device}"},
            {"telemetry_topic_template": "iiot/config/{device}"},
        ):
            with self.assertRaises(ValidationError):
                self.make(**values)

    def test_only_topics_that_were_changed_are_told(self):
        profile = self.make(telemetry_topic_template="line1/{device}/t")
        self.assertEqual(profile._wire_part()["topics"], {"telemetry": "line1/{device}/t"})

    def test_local_topics_are_checked_and_told(self):
        profile = self.make(local_publish="line/{device}/out\n", local_subscribe="line/+/out\n\nline/all/#")
        self.assertEqual(
            profile._wire_part()["local_topics"],
            {"publish": ["line/{device}/out"], "subscribe": ["line/+/out", "line/all/#"]},
        )
        for wrong in ("#", "telemetry/#", "test/a", "$SYS/a", "a/x{device}", "\n".join(f"a/{n}" for n in range(17))):
            with self.subTest(wrong), self.assertRaises(ValidationError):
                self.make(local_subscribe=wrong)

    def test_a_topic_that_another_profiles_machines_listen_to_is_refused(self):
        self.make(local_subscribe="line/#")
        with self.assertRaises(ValidationError):
            self.make(telemetry_topic_template="line/{device}/t")

    # --- limits ----------------------------------------------------------------------------------------------

    def test_settings_must_be_a_json_object(self):
        for wrong in ("[1]", "{", '{"a": NaN}', "5"):
            with self.subTest(wrong), self.assertRaises(ValidationError):
                self.make(settings=wrong)
        self.assertEqual(self.make(settings='{"interval_s": 3}')._wire_part()["settings"], {"interval_s": 3})
        self.assertEqual(self.make(settings=False)._wire_part()["settings"], {})

    def test_limits_that_make_no_sense_are_refused(self):
        for values in (
            {"command_expires_in_s": 0},
            {"command_expires_in_s": 30 * 86_400 + 1},
            {"command_response_limit_s": -1},
            {"max_packet_bytes": 100},
            {"inactivity_limit_min": -1},
            {"max_packet_bytes": 128, "command_topic_template": "x" * 100 + "/{device}"},
        ):
            with self.subTest(values), self.assertRaises(ValidationError):
                self.make(**values)

    def test_the_packet_is_counted_as_the_appliance_counts_it(self):
        profile = self.make(max_packet_bytes=200, command_add_id=False, command_template='"{{ params.x }}"')
        room = 200 - publish_bytes("command/device-01/action", b'""')
        fits = "x" * (room - 1)  # a longer packet has a longer length field
        self.assertEqual(profile.preview_command("a", {"x": fits})["packet_bytes"], 200)
        self.assertEqual(profile.preview_command("a", {"x": fits + "x"})["code"], "command_too_large")

    def test_a_profile_with_devices_is_not_deleted(self):
        profile = self.make()
        self.env["iiot.device"].create({"serial_number": "SN-1", "profile_id": profile.id})
        with self.assertRaises(UserError):
            profile.unlink()
        self.assertEqual(profile.device_count, 1)
