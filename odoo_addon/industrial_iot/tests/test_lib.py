from datetime import datetime

from odoo.tests import TransactionCase

from ..lib.times import parse_rfc3339, rfc3339, usable_time


class TestTimes(TransactionCase):
    def test_a_time_with_an_offset_is_read_as_utc(self):
        self.assertEqual(parse_rfc3339("2026-11-22T12:00:00.250+02:00"), datetime(2026, 11, 22, 10, 0, 0, 250000))
        self.assertEqual(rfc3339(datetime(2026, 11, 22, 10, 0, 0, 250000)), "2026-11-22T10:00:00.250Z")

    def test_what_is_no_complete_time_is_refused(self):
        for wrong in ("yesterday", "2026-11-22", "2026-11-22T10:00:00", 5, None, "0001-01-01T00:00:00+14:00"):
            with self.assertRaises(ValueError):
                parse_rfc3339(wrong)

    def test_a_time_far_ahead_of_its_arrival_is_not_used(self):
        arrived = datetime(2026, 11, 22, 10)
        self.assertEqual(usable_time(datetime(2026, 11, 22, 10, 5), arrived), datetime(2026, 11, 22, 10, 5))
        self.assertEqual(usable_time(datetime(2026, 11, 22, 10, 5, 1), arrived), arrived)
