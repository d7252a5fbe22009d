"""Errors of ``lib/`` and of rules in the language of whoever reads them."""

import re

from odoo.exceptions import UserError, ValidationError
from odoo.tests import tagged

from ..lib import json_text, rendering, topics
from ..lib.conversion import Conversion, ConversionError
from ..lib.domain import DomainError, read_domain
from ..lib.jsonpath import PathError, compile_path
from ..lib.worded import Worded
from .telemetry_case import TelemetryCase

CHINESE = re.compile(r"[\u4e00-\u9fff]")
FOREIGN = re.compile(r"\b(is|are|the|not|than|must|may|it)\b")


@tagged("post_install", "-at_install")
class TestWording(TelemetryCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.env["res.lang"]._activate_lang("zh_CN")
        cls.author.lang = "zh_CN"
        cls.wording = cls.env["iiot.wording"].with_context(lang="zh_CN")

    def assert_chinese(self, text, *parts):
        self.assertRegex(text, CHINESE)
        self.assertNotRegex(text, FOREIGN)
        for part in parts:
            self.assertIn(part, text)

    def test_errors_of_the_library_have_words_of_the_language(self):
        for kind, make, *parts in (
            (PathError, lambda: compile_path("$..b"), ".."),
            (PathError, lambda: compile_path("a" * 300), "255"),
            (PathError, lambda: compile_path("$.a[?(@.x =~ 'a')]"), ">="),
            (DomainError, lambda: read_domain("[('a', '=', 9 ** 9)]"), "Pow"),
            (DomainError, lambda: read_domain("[('a', '=', env)]"), "env"),
            (DomainError, lambda: read_domain("[]")),
            (ConversionError, lambda: Conversion("float").convert("hot"), '"hot"'),
            (ConversionError, lambda: Conversion("char", size=3).convert("lång"), "lång", "3"),
            (ConversionError, lambda: Conversion("selection", options=("a", "b")).convert("c"), "a, b"),
            (ConversionError, lambda: Conversion("float").convert(None), "null"),
            (json_text.NotJsonError, lambda: json_text.loads('{\n"a" 1}'), "2", "5"),
            (json_text.NotJsonError, lambda: json_text.loads("[NaN]"), "NaN"),
            (rendering.RenderingError, lambda: self.rendered("{% for i in range(99999) %}{% endfor %}"), "10000"),
            (rendering.RenderingError, lambda: self.rendered("{% for i in [1] recursive %}{% endfor %}"), "1"),
            (rendering.RenderingError, lambda: self.rendered('{"a": }'), "JSON", "7"),
        ):
            with self.assertRaises(kind) as caught:
                make()
            self.assert_chinese(self.wording._told(caught.exception), *parts)
            self.assertNotRegex(str(caught.exception), CHINESE)
            self.assertEqual(self.env["iiot.wording"]._told(caught.exception), str(caught.exception))

    def rendered(self, template):
        return rendering.Renderer().payload(template, action="a", params={}, device_id="d")

    def test_all_that_the_sandbox_says_of_itself_is_known(self):
        for template in (
            "{% for i in range(9000) %}{% for j in range(9000) %}{% endfor %}{% endfor %}",
            "{{ range(10001) }}",
            "{% for i in [1] recursive %}{% endfor %}",
            '{{ "%100d" | format(1) }}',
            "{{ 9 ** 9999 }}",
        ):
            with self.assertRaises(rendering.RenderingError) as caught:
                self.rendered(template)
            self.assertIsInstance(caught.exception.worded.values["why"], Worded, str(caught.exception))

    def test_reasons_against_topics_have_words_of_the_language(self):
        for reason in (
            *(topics.template_error(text) for text in ("", "a/+", "$a", "test/a", "\0", "a/x{device}", "a")),
            *(topics.local_filter_error(text) for text in ("", "l/" + "x" * 127, "$a", "test/a", "+/a", "a/{x}")),
        ):
            self.assert_chinese(self.wording._told(reason))

    def test_a_rule_is_refused_in_the_language_of_whoever_saves_it(self):
        rule = self.make_rule()
        reader = rule.with_user(self.author).with_context(lang="zh_CN")
        for values, part in (
            ({"json_path": "$..x"}, ".."),
            ({"record_by": "domain", "domain": "[('nothing', '=', 1)]"}, "nothing"),
            ({"target_field_id": self.env.ref("base.field_res_partner__create_date").id}, "create_date"),
        ):
            with self.assertRaises(ValidationError) as caught, self.env.cr.savepoint():
                reader.write(values)
            self.assert_chinese(caught.exception.args[0].replace(rule.name, ""), part)

    def test_what_failed_is_kept_in_the_language_of_the_rules_author(self):
        rule = self.make_rule(author=self.author)
        self.take(self.message({"temperature": "hot"}))
        self.assert_chinese(rule.last_error, '"hot"')

    def test_a_rule_that_is_tried_tells_whoever_tries_it_what_is_wrong(self):
        rule = self.make_rule()
        reading = [{"device_id": self.device.device_id, "payload": {"temperature": "hot"}}]
        (line,) = rule.with_context(lang="zh_CN").preview(reading)
        self.assert_chinese(line["note"], '"hot"')
        (line,) = rule.with_context(lang="en_US").preview(reading)
        self.assertEqual(line["note"], '"hot" is not a number')
        self.env.cr.execute("UPDATE iiot_telemetry_rule SET json_path = '$..x' WHERE id = %s", (rule.id,))
        rule.invalidate_recordset()
        (line,) = rule.with_context(lang="zh_CN").preview(reading)
        self.assert_chinese(line["note"], "..")

    def test_templates_parameters_and_settings_are_refused_in_the_language(self):
        profile = self.profile.with_context(lang="zh_CN")
        for values in (
            {"command_template": "{{ 1 "},
            {"command_template": '{"a": }'},
            {"settings": '{"a": }'},
            {"telemetry_topic_template": "a/+"},
            {"local_publish": "+/a"},
            {"metrics": "$..x"},
        ):
            with self.assertRaises(ValidationError) as caught, self.env.cr.savepoint():
                profile.write(values)
            self.assertRegex(caught.exception.args[0].split("：")[1], CHINESE)
        device = self.device.with_context(lang="zh_CN")
        with self.assertRaises(UserError) as caught:
            device.send_command("start", {"a": object()})
        self.assert_chinese(caught.exception.args[0], "object")

    def test_whoever_is_asked_about_a_paused_rule_is_asked_in_words_of_the_language(self):
        author = self.user_in("gone", "industrial_iot.group_iiot_admin,base.group_partner_manager")
        rule = self.make_rule(author=author)
        author.active = False
        self.env["res.users"].search([("share", "=", False)]).lang = "zh_CN"
        self.take(self.message({"temperature": 5}))
        self.assert_chinese(rule.paused_because)
        self.assert_chinese(rule.activity_ids.summary)
        self.assert_chinese(rule.activity_ids.note)
