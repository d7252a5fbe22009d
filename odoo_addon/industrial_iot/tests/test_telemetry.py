from datetime import datetime, timedelta
from unittest.mock import patch

from odoo.exceptions import ValidationError
from odoo.tests import tagged

from ..lib.problems import RejectedError
from ..models.iiot_device_telemetry import _logger as device_logger
from .telemetry_case import NOON, TelemetryCase


@tagged("post_install", "-at_install")
class TestTelemetry(TelemetryCase):
    def rows(self, device=None):
        return self.telemetry.search([("device_id", "=", (device or self.device).id)], order="at, id")

    def test_every_reading_is_kept_as_it_was_sent(self):
        payloads = [{"temperature": 71.3, "ü": ["\N{GRINNING FACE}", None, {"a": False}]}, 5, "text", True, [1, [2]]]
        self.take(*(self.message(payload, at=n) for n, payload in enumerate(payloads)))
        self.assertEqual([row.payload for row in self.rows()], payloads)
        self.assertEqual(self.rows()[0].company_id, self.device.company_id)

    def test_times_keep_their_microseconds(self):
        at = datetime(2026, 11, 22, 12, 0, 0, 123456)
        self.take(self.message({}, at=at))
        self.assertEqual((self.rows().at, self.rows().received_at), (at, at))

    def test_without_history_there_is_the_roll_up_alone(self):
        self.profile.keep_history = False
        self.take(self.message({"temperature": 5}))
        self.assertFalse(self.rows())
        self.assertFalse(self.env["iiot.telemetry.value"].search([("device_id", "=", self.device.id)]))
        for model in ("iiot.telemetry.hour", "iiot.telemetry.day"):
            self.assertEqual(self.env[model].search([("device_id", "=", self.device.id)]).total, 5)

    def test_what_jsonb_cannot_hold_is_refused(self):
        for payload in ("a\0b", {"a\0": 1}, [{"x": "\ud800"}], float("inf"), {"x": [float("-inf")]}, "\udfff"):
            with self.assertRaises(ValidationError):
                self.device.process_telemetry_data({"x": payload})
            with self.assertRaises(RejectedError) as caught:
                self.message(payload)
            self.assertEqual(caught.exception.code, "not_storable")

    def test_a_backslash_before_u0000_is_text_like_any_other(self):
        self.take(self.message({"path": "C:\\u0000"}), self.message({"e": "1e400 Infinity"}))
        self.assertEqual(self.rows()[0].payload, {"path": "C:\\u0000"})

    def test_the_newest_reading_is_the_last_one_however_they_come(self):
        self.take(self.message({"n": 1}, at=10), self.message({"n": 2}, at=5))
        self.assertEqual(
            (self.device.last_telemetry, self.device.last_values), (NOON + timedelta(minutes=10), {"n": 1})
        )
        self.take(self.message({"n": 3}, at=9))
        self.assertEqual(self.device.last_values, {"n": 1})
        self.take(self.message({"n": 4}, at=11))
        self.assertEqual(self.device.last_values, {"n": 4})

    def test_of_readings_of_the_same_time_the_later_number_wins_in_any_order(self):
        self.take(self.message({"n": 1}, seq=5_000_000_002))
        self.take(self.message({"n": 2}, seq=5_000_000_001))
        self.assertEqual(self.device.last_values, {"n": 1})
        self.take(self.message({"n": 3}, seq=5_000_000_003))
        self.assertEqual(self.device.last_values, {"n": 3})

    def test_a_late_reading_was_seen_when_it_came(self):
        self.take(self.message({}, at=10))
        self.take(self.message({}, at=5, received_at=NOON + timedelta(minutes=20)))
        self.assertEqual(self.device.last_seen, NOON + timedelta(minutes=20))
        self.assertEqual(self.device.last_telemetry, NOON + timedelta(minutes=10))

    def test_the_first_reading_makes_a_provisioned_device_active_and_no_other(self):
        self.devices[0].state, self.devices[1].state = "provisioned", "disabled"
        self.take(self.message({}), self.message({}, device=self.devices[1]))
        self.assertEqual(self.devices.mapped("state"), ["active", "disabled", "draft"])

    def test_readings_of_a_device_that_is_gone_harm_nobody(self):
        gone = self.make_devices(1, first=9)
        message = self.message({}, device=gone)
        gone.unlink()
        self.take(message, self.message({"n": 1}))
        self.assertEqual(len(self.rows()), 1)

    def test_five_hundred_readings_take_few_queries_more_than_fifty(self):
        devices = self.devices | self.make_devices(197, first=10)
        self.make_rule(path="$.temperature")
        self.take(*(self.message({"temperature": n}, device=device) for n, device in enumerate(devices)))

        def batch(size, at):
            return [self.message({"temperature": at + n}, device=devices[n % 200], at=at) for n in range(size)]

        with patch.object(type(self.env["res.partner"]), "write", lambda self, vals: True):
            few = self.count_queries(lambda: self.take(*batch(50, 60)))
            many = self.count_queries(lambda: self.take(*batch(500, 61)))
        self.assertLessEqual(many, few + 20)
        self.assertLess(many, 60)


@tagged("post_install", "-at_install")
class TestHours(TelemetryCase):
    def hours(self, metric="temperature", device=None):
        domain = [("device_id", "=", (device or self.device).id), ("metric", "=", metric)]
        return self.env["iiot.telemetry.hour"].search(domain, order="hour")

    def test_an_hour_is_summed_up_in_a_few_figures(self):
        self.take(*(self.message({"temperature": value}, at=n) for n, value in enumerate([4, 1, 7])))
        self.take(self.message({"temperature": 8}, at=30), self.message({"temperature": 100}, at=60))
        first, second = self.hours()
        self.assertEqual((first.hour, first.readings, first.total, first.average), (NOON, 4, 20, 5))
        self.assertEqual((first.minimum, first.maximum, first.last), (1, 8, 8))
        self.assertEqual((second.hour, second.readings, second.last), (NOON + timedelta(hours=1), 1, 100))

    def test_a_late_reading_counts_in_its_own_hour_and_is_not_the_last(self):
        self.take(self.message({"temperature": 10}, at=70), self.message({"temperature": 20}, at=50))
        self.take(self.message({"temperature": 2}, at=40))
        first, second = self.hours()
        self.assertEqual((first.readings, first.minimum, first.last), (2, 2, 20))
        self.assertEqual((second.readings, second.last), (1, 10))

    def test_a_path_finds_nested_values_and_what_is_no_number_is_left_out(self):
        payloads = [
            {"motor": {"rpm": 10}},
            {"motor": {"rpm": "12.5"}},
            {"motor": {"rpm": "off"}},
            {"motor": 5},
            [],
            None,
        ]
        self.take(*(self.message(payload, at=n) for n, payload in enumerate(payloads)))
        self.assertEqual(self.hours("$.motor.rpm").mapped("total"), [22.5])
        values = self.env["iiot.telemetry.value"].search([("device_id", "=", self.device.id)], order="at")
        self.assertEqual(values.mapped("value"), [10, 12.5])

    def test_metrics_that_cannot_be_used_are_refused(self):
        for wrong in ("$..temperature", "$.[", "$.a[?(@.x =~ '(a+)+$')]"):
            with self.assertRaises(ValidationError, msg=wrong):
                self.profile.metrics = wrong

    def test_a_new_metric_counts_with_the_next_reading(self):
        self.take(self.message({"pressure": 1}))
        self.profile.metrics = "pressure"
        self.take(self.message({"pressure": 2}))
        self.assertEqual(self.hours("pressure").mapped("readings"), [1])


@tagged("post_install", "-at_install")
class TestRemoval(TelemetryCase):
    def test_what_is_older_than_the_profile_says_goes_and_the_rest_stays(self):
        now = datetime.now().replace(microsecond=0)
        self.profile.write({"history_days": 10, "rollup_days": 30})
        for days in (5, 20, 40):
            self.take(self.message({"temperature": days}, at=now - timedelta(days=days)))
        with patch("odoo.addons.industrial_iot.models.iiot_telemetry.REMOVED_AT_ONCE", 1), self.no_commit():
            self.assertEqual(self.telemetry._remove_old(), 6)
        mine = [("device_id", "=", self.device.id)]
        self.assertEqual(self.telemetry.search(mine).mapped("payload"), [{"temperature": 5}])
        self.assertEqual(self.env["iiot.telemetry.value"].search(mine).mapped("value"), [5])
        for model in ("iiot.telemetry.hour", "iiot.telemetry.day"):
            self.assertEqual(self.env[model].search(mine).mapped("total"), [5, 20])

    def test_zero_days_mean_for_ever(self):
        self.profile.write({"history_days": 0, "rollup_days": 0})
        self.take(self.message({"temperature": 1}, at=datetime(2020, 1, 1)))
        with self.no_commit():
            self.assertEqual(self.telemetry._remove_old(), 0)

    def test_a_run_ends_in_time_and_asks_for_another(self):
        for hours in range(3):
            self.take(self.message({}, at=datetime(2020, 1, 1, hours)))
        module = "odoo.addons.industrial_iot.models.iiot_telemetry"
        with patch(f"{module}.REMOVED_AT_ONCE", 1), patch(f"{module}.REMOVAL_TAKES_S", 0), self.no_commit():
            self.assertEqual(self.telemetry._remove_old(), 1)
        cron = self.env.ref("industrial_iot.cron_remove_telemetry")
        self.assertTrue(self.env["ir.cron.trigger"].search([("cron_id", "=", cron.id)]))

    def test_the_scheduled_action_runs_for_ever(self):
        cron = self.env.ref("industrial_iot.cron_remove_telemetry")
        self.assertEqual(cron.numbercall if "numbercall" in cron._fields else -1, -1)

    def test_a_device_takes_its_readings_along(self):
        self.make_rule()
        self.take(self.message({"temperature": 1}))
        device = self.device.id
        self.device.unlink()
        for model in ("iiot.telemetry", "iiot.telemetry.value", "iiot.telemetry.hour", "iiot.telemetry.rule.applied"):
            self.assertFalse(self.env[model].search([("device_id", "=", device)]), model)


@tagged("post_install", "-at_install")
class TestExtension(TelemetryCase):
    def extend(self, function):
        return patch.object(type(self.env["iiot.device"]), "process_telemetry_data", function)

    def test_where_nobody_extends_it_nothing_is_called(self):
        if self.env["iiot.device"]._is_extended():
            self.skipTest("another module extends it here")
        with patch.object(type(self.env.cr), "savepoint", side_effect=AssertionError):
            self.env["iiot.device"]._call_extensions([self.message({"temperature": 1})], ())

    def test_an_extension_gets_each_reading_of_a_batch_after_it_was_processed(self):
        base, calls = type(self.env["iiot.device"]).process_telemetry_data, []

        def extended(device, telemetry_data):
            base(device, telemetry_data)
            new = device.env.context["iiot_reading_is_new"]
            calls.append((device.device_id, telemetry_data, new, device.last_values))

        with self.extend(extended):
            self.take(
                self.message({"n": 1}, at=2), self.message(7, device=self.devices[1]), self.message({"n": 2}, at=3)
            )
            self.take(self.message({"n": 3}, at=1))
        last = {"n": 2}
        self.assertEqual(
            calls,
            [
                ("press-1", {"n": 1}, True, last),
                ("press-2", {"value": 7}, True, 7),
                ("press-1", {"n": 2}, True, last),
                ("press-1", {"n": 3}, False, last),
            ],
        )
        self.assertEqual(self.telemetry.search_count([("device_id", "=", self.device.id)]), 3)

    def test_an_extension_that_fails_is_undone_and_the_reading_stays(self):
        def extended(device, telemetry_data):
            device.business_ref.write({"name": "changed"})
            if telemetry_data["n"] == 1:
                raise ValueError("a bug")

        with self.extend(extended), self.assertLogs(device_logger, "ERROR"):
            self.take(self.message({"n": 1}), self.message({"n": 2}, device=self.devices[1]))
        self.assertEqual([self.partner(each).name for each in self.devices[:2]], ["Partner 1", "changed"])
        self.assertEqual(self.telemetry.search_count([("device_id", "in", self.devices.ids)]), 2)

    def test_called_from_python_it_takes_the_reading_as_sent_now(self):
        self.make_rule()
        self.device.process_telemetry_data({"temperature": 30})
        self.assertEqual(self.partner().color, 30)
        self.assertEqual(self.telemetry.search([("device_id", "=", self.device.id)]).payload, {"temperature": 30})
        self.assertEqual(self.device.last_values, {"temperature": 30})

    def test_called_from_python_an_extension_acts_once(self):
        base, calls = type(self.env["iiot.device"]).process_telemetry_data, []

        def extended(device, telemetry_data):
            base(device, telemetry_data)
            calls.append(device.last_values)

        with self.extend(extended):
            self.device.process_telemetry_data({"n": 1})
        self.assertEqual(calls, [{"n": 1}])

    def test_an_extension_may_report_for_another_device(self):
        base = type(self.env["iiot.device"]).process_telemetry_data
        other = self.devices[1]

        def extended(device, telemetry_data):
            base(device, telemetry_data)
            if device.env.context.get("iiot_reading_of") == self.device.id and device != other:
                device.browse(other.id).process_telemetry_data({"mirrored": telemetry_data["n"]})

        with self.extend(extended):
            self.take(self.message({"n": 1}))
        self.assertEqual(self.telemetry.search([("device_id", "=", other.id)]).payload, {"mirrored": 1})
