"""Readings as people read them in lists and forms."""

from odoo.tests import tagged

from ..lib.reading_text import reading_line, reading_pretty
from .telemetry_case import TelemetryCase


@tagged("post_install", "-at_install")
class TestReadingText(TelemetryCase):
    def test_a_reading_is_a_line_of_paths_and_values_as_json_writes_them(self):
        for payload, line in (
            ({"temperature": 71.3, "unit": "°C"}, "temperature: 71.3, unit: °C"),
            ({"motor": {"rpm": 1500, "on": True}, "door": None}, "motor.rpm: 1500, motor.on: true, door: null"),
            ({"tags": ["a", "重"], "sensors": [{"v": 1}, {"v": False}]},
             'tags: ["a", "重"], sensors[0].v: 1, sensors[1].v: false'),
            ({"empty": {}, "none": []}, "empty: {}, none: []"),
            ({"value": 5}, "value: 5"),
            ([[1, 2], [3]], "[0]: [1, 2], [1]: [3]"),
            ([1, 2], "[1, 2]"),
            ({}, "{}"),
            ("plain", "plain"),
            (7, "7"),
            (0, "0"),
            (True, "true"),
            (False, "false"),
            (None, "null"),
        ):  # fmt: skip
            self.assertEqual(reading_line(payload), line)

    def test_a_long_or_deep_reading_is_cut(self):
        line = reading_line({"a": "x" * 500})
        self.assertEqual((len(line), line[-1]), (201, "…"))
        deep = 1
        for _level in range(5000):
            deep = {"a": [deep]}
        self.assertTrue(reading_line(deep).startswith("a[0].a[0]"))
        self.assertTrue(reading_line(deep).endswith("…"))
        self.assertEqual(reading_pretty(deep), reading_line(deep))

    def test_the_list_of_readings_tells_false_from_null(self):
        payloads = [{"motor": {"rpm": 1}}, False, None, 0, "", "é"]
        self.take(*(self.message(payload, at=n) for n, payload in enumerate(payloads)))
        kept = self.telemetry.search([("device_id", "=", self.device.id)], order="at")
        self.assertEqual(kept.mapped("payload_text"), ["motor.rpm: 1", "false", "null", "0", "", "é"])
        self.assertEqual(
            kept.mapped("payload_pretty"), ['{\n  "motor": {\n    "rpm": 1\n  }\n}', "false", "null", "0", '""', '"é"']
        )
