from datetime import datetime, timedelta, timezone

from odoo import fields

from ..lib.times import rfc3339
from .device_case import DeviceCase, now


class TestPresence(DeviceCase):
    def presence(self, device, status, *, at=None, **members):
        at = at or now()
        payload = {
            "status": status,
            "since": rfc3339(at),
            "reconnects": 0,
            "takeovers": 0,
            "contested": False,
            **members,
        }
        return self.told(device, "presence", payload, at=at)

    def take(self, *messages):
        self.env["iiot.device"]._take_presence(list(messages))

    def test_what_the_appliance_tells_is_what_the_list_shows(self):
        device = self.paired()
        at = now()
        self.take(self.presence(device, "online", at=at, address="10.0.0.7", last_seen=rfc3339(at)))
        self.assertEqual(
            (device.connection_status, device.connection_since, device.address), ("online", at, "10.0.0.7")
        )
        self.assertEqual((device.last_seen, device.offline_reason), (at, False))
        later = at + timedelta(seconds=30)
        self.take(
            self.presence(
                device, "offline", at=later, reason_code="keep_alive", reason="nothing came from it", reconnects=2
            )
        )
        self.assertEqual((device.connection_status, device.offline_code), ("offline", "keep_alive"))
        self.assertEqual((device.offline_reason, device.connection_since), ("nothing came from it", later))
        self.assertEqual((device.reconnects, device.last_seen), (2, at))

    def test_the_newest_of_a_batch_counts_and_the_counters_add_up(self):
        first, second = self.paired(count=2)
        self.take(
            self.presence(first, "online", reconnects=1),
            self.presence(second, "online", contested=True, takeovers=3),
            self.presence(first, "offline", reconnects=2),
            self.presence(first, "online", reconnects=1),
        )
        self.assertEqual((first.connection_status, first.reconnects), ("online", 4))
        self.assertEqual((second.is_contested, second.takeovers), (True, 3))

    def test_old_news_do_not_overrule_newer_ones(self):
        device = self.paired()
        self.take(self.presence(device, "offline"))
        self.take(self.presence(device, "online", at=now() - timedelta(hours=1), reconnects=1))
        self.assertEqual((device.connection_status, device.reconnects), ("offline", 1))

    def test_a_clock_that_ran_ahead_does_not_hold_the_status(self):
        device = self.paired()
        self.take(self.presence(device, "online", at=now() + timedelta(days=2)))
        self.take(self.presence(device, "offline"))
        self.assertEqual(device.connection_status, "offline")

    def test_a_time_that_cannot_be_is_not_shown(self):
        device = self.paired()
        seen = rfc3339(now() + timedelta(days=3))
        self.take(self.presence(device, "online", last_seen=seen, last_telemetry="yesterday", reconnects=-5))
        self.assertEqual((device.last_seen, device.last_telemetry, device.reconnects), (False, False, 0))

    def test_what_makes_no_sense_is_kept_as_a_report(self):
        device = self.paired()
        self.take(self.told(device, "presence", {"msg_id": "1"}), self.told(device, "presence", "online"))
        reports = self.env["iiot.device.report"].search([("device_id", "=", device.id)])
        self.assertEqual(reports.mapped("reason"), ["no_status", "no_status"])
        self.assertEqual(device.connection_status, "unknown")

    def test_five_hundred_messages_take_as_many_queries_as_fifty(self):
        devices = self.paired(count=500)
        messages = [self.presence(device, "online") for device in devices]
        counts = []
        for part in (messages[:50], messages):
            self.env.invalidate_all()
            before = self.env.cr.sql_log_count
            self.take(*part)
            counts.append(self.env.cr.sql_log_count - before)
        self.assertLessEqual(counts[1], counts[0])
        self.assertEqual(set(devices.mapped("connection_status")), {"online"})

    # --- gateways that are silent ----------------------------------------------------------------------------

    def contact(self, *, ago_s=0, waiting=0, since_s=3600):
        moment = datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)
        self.gateway.report_id.write(
            {
                "last_contact": moment - timedelta(seconds=ago_s),
                "contact_since": moment - timedelta(seconds=since_s),
                "waiting": waiting,
            }
        )

    def sync(self, *, waiting):
        from ..lib.sync import read_sync

        body = self.sync_body(self.gateway, backlog={"waiting": waiting, "parked": 0})
        self.gateway._sync(read_sync(body))

    def test_while_a_gateway_is_silent_nobody_is_shown_online(self):
        online, offline = self.paired(count=2)
        self.take(self.presence(online, "online"), self.presence(offline, "offline"))
        self.contact(ago_s=60)
        self.env["iiot.device"]._cron_connection()
        self.assertEqual((online.connection_status, offline.connection_status), ("online", "offline"))
        self.contact(ago_s=180)
        self.env["iiot.device"]._cron_connection()
        self.assertEqual((online.connection_status, offline.connection_status), ("unknown", "unknown"))
        self.sync(waiting=0)
        self.assertEqual((online.connection_status, offline.connection_status), ("online", "offline"))

    def test_a_gateway_that_comes_back_tells_first_who_left_meanwhile(self):
        device = self.paired()
        self.take(self.presence(device, "online"))
        self.contact(ago_s=3600)
        self.env["iiot.device"]._cron_connection()
        self.sync(waiting=5)
        self.assertEqual(device.connection_status, "unknown")
        self.take(self.presence(device, "offline", at=now() + timedelta(seconds=1)))
        self.assertEqual(device.connection_status, "offline")

    def test_a_long_backlog_does_not_keep_the_status_unknown(self):
        device = self.paired()
        self.take(self.presence(device, "online"))
        device.state_id.connection_status = "unknown"
        self.contact(ago_s=3, since_s=61, waiting=10_000)
        self.sync(waiting=10_000)
        self.assertEqual(device.connection_status, "online")

    # --- inactivity ------------------------------------------------------------------------------------------

    def test_a_device_that_says_nothing_gets_one_activity_that_ends_with_its_next_word(self):
        self.profile.inactivity_limit_min = 10
        quiet, talking, paired_now = self.paired(count=3)
        quiet.state_id.last_telemetry = self.minutes_ago(11)
        talking.state_id.last_telemetry = self.minutes_ago(11)
        talking.state_id.last_seen = self.minutes_ago(1)
        paired_now.paired_at = fields.Datetime.now()
        for _time in range(2):
            self.env["iiot.device"]._cron_inactivity()
        self.assertEqual(len(quiet.activity_ids), 1)
        self.assertEqual(quiet.activity_ids.user_id, self.gateway.user_id)
        self.assertEqual((quiet.is_inactive, talking.is_inactive, paired_now.is_inactive), (True, False, False))
        self.assertFalse((talking | paired_now).activity_ids)
        quiet.state_id.last_telemetry = self.minutes_ago(0)
        self.env["iiot.device"]._cron_inactivity()
        self.assertFalse(quiet.is_inactive)
        self.assertFalse(quiet.activity_ids)
