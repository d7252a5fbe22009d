from datetime import date, datetime

from odoo.tests import TransactionCase

from ..lib.conversion import Conversion, ConversionError
from ..lib.domain import DomainError, condition_fields, read_domain
from ..lib.domain_batch import batch_of
from ..lib.jsonpath import PathError, compile_metric, compile_path

PAYLOAD = {
    "temperature": 71.3,
    "a.b": 1,
    "it's": 2,
    "motor": {"rpm": 1500, "phases": [{"name": "L1", "v": 230}, {"name": "L2", "v": 231}]},
}


class TestJsonPath(TransactionCase):
    def test_paths_find_what_they_name(self):
        for path, values in (
            ("$.temperature", [71.3]),
            ("temperature", [71.3]),
            ("$", [PAYLOAD]),
            ("$.motor.phases[0].v", [230]),
            ("$.motor.phases[1]['name']", ["L2"]),
            ("$.motor.phases[-1].v", [231]),
            ("$.motor.phases[7].v", []),
            ("$.motor.phases[*].v", [230, 231]),
            ("$.motor.phases[0:1].v", [230]),
            ("$.motor.phases[?(@.name == 'L2')].v", [231]),
            ("$.motor.phases[?(@.v > 230)].name", ["L2"]),
            ("$.motor.*", [1500, PAYLOAD["motor"]["phases"]]),
            ("$.nothing.at.all", []),
            ("$.temperature.deeper", []),
        ):
            self.assertEqual(compile_path(path).values(PAYLOAD), values, path)

    def test_other_payloads_than_objects_are_searched_too(self):
        self.assertEqual(compile_path("$").values(5), [5])
        self.assertEqual(compile_path("$[0].x").values([{"x": 1}]), [1])
        self.assertEqual(compile_path("$.x").values("text"), [])
        self.assertEqual(compile_path("$.x[0]").values({"x": "text"}), [])

    def test_a_filter_on_unlike_values_finds_nothing_or_says_so(self):
        path = compile_path("$.a[?(@.v > 5)]")
        for payload in ({"a": [{"v": "x"}]}, {"a": 5}, {"a": [5, None]}, {"a": {"v": {}}}):
            try:
                self.assertEqual(path.values(payload), [])
            except PathError as error:
                self.assertIn("$.a", str(error))

    def test_what_has_no_bound_is_not_offered(self):
        for path in (
            *("$..x", "$.a..b", "$.a[?(@.x =~ 'a')]", "$.a[?(@..x == 1)]", "$.a[?(@.b[?(@.c == 1)])]"),
            *("$.a.`len`", "$.a.`sub(/a/, b)`", "$.a + $.b", "$.a * 2", "$.a | $.b", "$.a where b", "$.a[/b]"),
            *("$.a[?(@.b == 1)][?(@.c == 1)]", "$" + ".a" * 17, "", " ", "$.", "a" * 300),
        ):
            with self.assertRaises(PathError, msg=path):
                compile_path(path)

    def test_a_metric_is_a_key_or_a_path(self):
        for name, values in (("a.b", [1]), ("it's", [2]), ("temperature", [71.3]), ("$.motor.rpm", [1500]), ("x", [])):
            self.assertEqual(compile_metric(name).values(PAYLOAD), values, name)


class TestConversion(TransactionCase):
    def test_values_become_what_the_field_holds(self):
        for field_type, options, value, converted in (
            ("float", {}, 71.3, 71.3),
            ("float", {}, "71.3", 71.3),
            ("float", {"factor": 0.1, "offset": 2}, 10, 3.0),
            ("float", {"rounding": 0.1}, 0.25, 0.3),
            ("float", {"rounding": 5.0}, 12.5, 15.0),
            ("monetary", {}, 5, 5.0),
            ("integer", {}, 2.5, 3),
            ("integer", {}, -2.5, -3),
            ("integer", {}, True, 1),
            ("boolean", {}, "ON", True),
            ("boolean", {}, "false", False),
            ("boolean", {}, 0, False),
            ("boolean", {"offset": -5}, 5, False),
            ("char", {}, 71.3, "71.3"),
            ("char", {}, {"a": "ü"}, '{"a": "ü"}'),
            ("text", {}, True, "true"),
            ("selection", {"options": ("1", "x")}, 1, "1"),
            ("datetime", {}, "2026-11-22T12:00:00.5+02:00", datetime(2026, 11, 22, 10)),
            ("datetime", {}, 86400, datetime(1970, 1, 2)),
            ("datetime", {}, 1_795_305_600_000, datetime(2026, 11, 22)),
            ("date", {}, "2026-11-22", date(2026, 11, 22)),
            ("date", {}, 86400, date(1970, 1, 2)),
            ("many2one", {}, 7, 7),
            ("many2one", {}, " Press ", "Press"),
        ):
            found = Conversion(field_type, **options).convert(value)
            self.assertEqual((found, type(found)), (converted, type(converted)), (field_type, value))

    def test_what_a_field_cannot_hold_is_an_error_with_a_reason(self):
        for field_type, options, value in (
            *(("float", {}, wrong) for wrong in ("hot", "nan", "inf", "1e999", [1], {}, None, 10**400, 1e301)),
            ("float", {"factor": 1e300}, 1e300),
            *(("integer", {}, wrong) for wrong in (2**31, -(2**31) - 1, "x", 1e20)),
            *(("boolean", {}, wrong) for wrong in ("maybe", [], None)),
            ("char", {"size": 3}, "long"),
            ("selection", {"options": ("a",)}, "b"),
            *(("datetime", {}, wrong) for wrong in ("yesterday", 1e299, "0001-01-01T00:00:00+14:00", [])),
            *(("date", {}, wrong) for wrong in ("2026-13-01", "x" * 10, None)),
            *(("many2one", {}, wrong) for wrong in (True, 0, -1, 1.5, "", 2**31)),
        ):
            with self.assertRaises(ConversionError, msg=(field_type, value)) as caught:
                Conversion(field_type, **options).convert(value)
            self.assertTrue(str(caught.exception))


class TestDomain(TransactionCase):
    def test_plain_conditions_over_device_and_value_are_read(self):
        for text, uses_value in (
            ("[('ref', '=', device.serial_number)]", False),
            ("['|', ('ref', '=', 'x'), ('id', '=', device.business_id)]", False),
            ("[('ref', '=', str(value))]", True),
            ("[('ref', '=', value['order'])]", True),
            ("[('n', '>', value - 1)] if value else [('id', '=', 0)]", True),
        ):
            self.assertEqual(read_domain(text).uses_value, uses_value, text)
        self.assertEqual(condition_fields("['|', ('a.b', '=', 'x'), ('c', 'in', ['d', 'e', 'f'])]"), ["a.b", "c", "d"])

    def test_domains_that_differ_in_one_value_become_one(self):
        common = ("type", "=", "x")
        self.assertEqual(
            batch_of([[("ref", "=", "a"), common], [("ref", "=", "b"), common]]), ([common], "ref", ["a", "b"])
        )
        for one, other in (
            ([("ref", "=", "a"), common], [("ref", "=", "a"), common]),
            ([("ref", "like", "a")], [("ref", "like", "b")]),
            ([("a.b", "=", 1)], [("a.b", "=", 2)]),
            ([("a", "=", 1)], [("a", "=", False)]),
            ([("a", "=", 1)], [("a", "=", [2])]),
            ([("a", "=", 1)], [("b", "=", 1)]),
            ([("a", "=", 1)], [("a", "=", 1), common]),
            (["|", ("a", "=", 1), common], ["|", ("a", "=", 2), common]),
            ([("a", "=", 1), ("b", "=", 1)], [("a", "=", 2), ("b", "=", 2)]),
        ):
            self.assertIsNone(batch_of([one, other]), (one, other))

    def test_whatever_else_python_offers_is_refused(self):
        for text in (
            *("", "[]", "[(", "5", "value", "device", "[('a', '=', env)]", "[('a', '=', device.env)]", "x" * 1001),
            *("[('a', '=', device['id'])]" + "]", "[('a', '=', 9 ** 9)]", "[('a', '=', 'x' * 9)]", "['%9d' % 1]"),
            *("[i for i in [1]]", "[('a', '=', open('x'))]", "[('a', '=', value.format())]", "[f'{value}']", "(" * 500),
        ):
            with self.assertRaises(DomainError, msg=text):
                read_domain(text)
