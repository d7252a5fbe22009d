from datetime import date, datetime, timedelta

from odoo.exceptions import ValidationError
from odoo.tests import tagged

from .telemetry_case import NOON, TelemetryCase


@tagged("post_install", "-at_install")
class TestDays(TelemetryCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.company = cls.env.company
        cls.company.write({"iiot_tz": "Asia/Shanghai", "iiot_days_tz": "Asia/Shanghai"})

    def days(self, metric="temperature"):
        domain = [("device_id", "=", self.device.id), ("metric", "=", metric)]
        return self.env["iiot.telemetry.day"].search(domain, order="day")

    def figures(self):
        names = ("day", "company_id", "readings", "total", "average", "minimum", "maximum", "last", "last_at")
        return [tuple(day[name] for name in names) for day in self.days()]

    def count_anew(self):
        with self.no_commit():
            self.env["iiot.telemetry.day"]._count_anew()
        self.env.invalidate_all()

    def test_a_day_begins_at_midnight_of_the_company(self):
        midnight = datetime(2026, 11, 22, 16)  # in Shanghai
        self.take(
            self.message({"temperature": 1}, at=midnight - timedelta(seconds=1)),
            self.message({"temperature": 4}, at=midnight),
            self.message({"temperature": 7}, at=midnight + timedelta(hours=23, minutes=59)),
            self.message({"temperature": 9}, at=midnight + timedelta(hours=24)),
        )
        self.assertEqual(self.days().mapped("day"), [date(2026, 11, 22), date(2026, 11, 23), date(2026, 11, 24)])
        middle = self.days()[1]
        self.assertEqual((middle.readings, middle.total, middle.average), (2, 11, 5.5))
        self.assertEqual((middle.minimum, middle.maximum, middle.last), (4, 7, 7))
        self.assertEqual(middle.last_at, midnight + timedelta(hours=23, minutes=59))

    def test_a_late_reading_counts_in_its_own_day_and_is_not_the_last(self):
        self.take(self.message({"temperature": 10}, at=NOON), self.message({"temperature": 20}, at=NOON))
        self.take(self.message({"temperature": 3}, at=NOON - timedelta(hours=2)))
        day = self.days()
        self.assertEqual((day.readings, day.minimum, day.last), (3, 3, 20))

    def test_the_longest_and_the_shortest_day_have_25_and_23_hours(self):
        self.company.write({"iiot_tz": "Europe/Berlin", "iiot_days_tz": "Europe/Berlin"})
        for hours in range(24 * 3):
            self.take(self.message({"temperature": 1}, at=datetime(2026, 10, 23, 22) + timedelta(hours=hours)))
            self.take(self.message({"temperature": 1}, at=datetime(2026, 3, 27, 23) + timedelta(hours=hours)))
        counts = dict(zip(self.days().mapped("day"), self.days().mapped("readings"), strict=True))
        self.assertEqual((counts[date(2026, 10, 24)], counts[date(2026, 10, 25)]), (24, 25))
        self.assertEqual((counts[date(2026, 3, 28)], counts[date(2026, 3, 29)]), (24, 23))

    def test_after_a_change_of_the_time_zone_the_days_are_counted_anew(self):
        for hours in (0, 3, 4, 5, 30):
            self.take(self.message({"temperature": hours}, at=NOON + timedelta(hours=hours)))
        for zone in ("America/New_York", "Asia/Kolkata", "Asia/Shanghai", "UTC"):
            self.company.iiot_tz = zone
            self.count_anew()
            self.assertEqual(self.company.iiot_days_tz, zone)
            counted = self.figures()
            # as it would be had the time zone been this one all the time
            self.env["iiot.telemetry.day"].search([]).unlink()
            hours = self.env["iiot.telemetry.hour"].search([("device_id", "=", self.device.id)])
            rows = {
                (h.device_id.id, h.metric, h.hour): [
                    h.company_id.id, h.readings, h.total, h.minimum, h.maximum, h.last, h.last_at
                ]
                for h in hours.sorted("hour")
            }  # fmt: skip
            self.env["iiot.telemetry.day"]._take(rows)
            self.env.invalidate_all()
            self.assertEqual(self.figures(), counted, zone)
            self.assertEqual(sum(self.days().mapped("readings")), 5)

    def test_days_that_nobody_has_counted_yet_are_made_of_the_hours(self):
        self.take(self.message({"temperature": 4}))
        expected = self.figures()
        self.env["iiot.telemetry.day"].search([]).unlink()
        self.company.iiot_days_tz = False
        self.count_anew()
        self.assertEqual(self.figures(), expected)

    def test_a_company_whose_days_are_right_is_left_alone(self):
        self.take(self.message({"temperature": 4}))
        self.env["iiot.telemetry.hour"].search([]).unlink()
        self.count_anew()
        self.assertTrue(self.figures())

    def test_a_change_asks_for_it_and_the_same_value_does_not(self):
        def asked():
            return self.env["ir.cron.trigger"].search_count(
                [("cron_id", "=", self.env.ref("industrial_iot.cron_days_anew").id)]
            )

        before = asked()
        self.company.iiot_tz = "Asia/Shanghai"
        self.assertEqual(asked(), before)
        settings = self.env["res.config.settings"].create({"iiot_tz": "Europe/Berlin"})
        settings.execute()
        self.assertEqual(self.company.iiot_tz, "Europe/Berlin")
        self.assertGreater(asked(), before)

    def test_a_time_zone_that_the_database_does_not_know_is_refused(self):
        self.company._check_iiot_tz()
        self.env.cr.execute("UPDATE res_company SET iiot_tz = 'Mars/Olympus' WHERE id = %s", (self.company.id,))
        self.env.invalidate_all()
        with self.assertRaises(ValidationError):
            self.company._check_iiot_tz()

    def test_the_ends_of_the_calendar_are_days_too(self):
        self.company.iiot_tz = "America/New_York"
        self.take(self.message({"temperature": 1}, at=datetime(1, 1, 1)))
        self.company.iiot_tz = "Asia/Shanghai"
        self.take(self.message({"temperature": 1}, at=datetime(9999, 12, 31, 23)))
        expected = [date(1, 1, 1), date(9999, 12, 31)]
        self.assertEqual(self.days().mapped("day"), expected)
        self.count_anew()
        self.assertEqual(self.days().mapped("day"), expected)

    def test_an_average_of_days_is_that_of_all_their_readings(self):
        self.take(*(self.message({"temperature": 10}, at=n) for n in range(9)))
        self.take(self.message({"temperature": 20}, at=NOON + timedelta(days=1)))
        mine = [("device_id", "=", self.device.id), ("metric", "=", "temperature")]
        for model in ("iiot.telemetry.day", "iiot.telemetry.hour"):
            ((average, low, high),) = self.env[model]._read_group(
                mine, [], ["average:avg", "minimum:min", "maximum:max"]
            )
            self.assertEqual((average, low, high), (11, 10, 20), model)
            self.assertEqual(self.env[model]._read_group([("id", "=", 0)], [], ["average:avg"])[0][0] or 0, 0)

    def test_each_company_has_its_own_midnight(self):
        other = self.env["res.company"].create({"name": "Other", "iiot_tz": "America/New_York"})
        device = self.make_devices(1, first=9, company_id=other.id)
        at = datetime(2026, 11, 22, 17)
        self.take(self.message({"temperature": 1}, at=at), self.message({"temperature": 1}, device=device, at=at))
        mine, others = (
            self.env["iiot.telemetry.day"].search([("device_id", "=", d.id)]) for d in (self.device, device)
        )
        self.assertEqual((mine.day, mine.company_id), (date(2026, 11, 23), self.company))
        self.assertEqual((others.day, others.company_id), (date(2026, 11, 22), other))

    def test_a_new_company_is_where_most_users_are(self):
        self.env["res.users"].search([]).write({"tz": "Asia/Tokyo"})
        self.assertEqual(self.env["res.company"].create({"name": "New"}).iiot_tz, "Asia/Tokyo")
        self.env["res.users"].search([]).write({"tz": False})
        self.assertEqual(self.env["res.company"].create({"name": "Newer"}).iiot_tz, "UTC")
