import uuid
from unittest.mock import patch

from odoo import fields

from ..lib.sync import read_sync
from ..models import iiot_device_change
from .contract_case import ContractCase


class TestDeviceChange(ContractCase):
    """How a gateway learns what has changed of its devices."""

    def setUp(self):
        super().setUp()
        self.gateway = self.make_gateway()
        self.start = str(uuid.uuid4())
        self.epoch = str(uuid.uuid4())

    def paired(self, count=1, gateway=None):
        devices = self.env["iiot.device"].concat(*(self.make_device(gateway or self.gateway) for _ in range(count)))
        devices.write({"paired_at": fields.Datetime.now(), "state": "active"})
        self.env.flush_all()
        return devices

    def sync(self, cursor):
        self.env.flush_all()
        body = self.sync_body(self.gateway, start=self.start, epoch=self.epoch, cursor=cursor)
        return self.gateway._sync(read_sync(body))

    def changes_since(self, cursor):
        """All changes from a cursor on, and the cursor behind them."""
        told, revoked, rounds = [], [], 0
        while True:
            answer = self.sync(cursor)
            told += [device["device_id"] for device in answer["devices"]]
            revoked += answer["revoked"]
            cursor = answer["cursor"]
            rounds += 1
            self.assertLess(rounds, 50)
            if not answer["more"]:
                return told, revoked, cursor

    def has_news(self, cursor):
        return self.gateway._has_work(cursor)

    def test_all_devices_are_told_in_pages_and_then_what_changes(self):
        devices = self.paired(5)
        stranger = self.paired(1, self.make_gateway("Line 2"))
        with patch.object(iiot_device_change, "AT_A_TIME", 2):
            told, revoked, cursor = self.changes_since(None)
            self.assertEqual((sorted(told), revoked), (sorted(devices.mapped("device_id")), []))
            self.assertEqual(self.changes_since(cursor)[0], [])
            devices[1:4]._note_change()
            stranger._note_change()
            self.assertTrue(self.has_news(cursor))
            told, revoked, after = self.changes_since(cursor)
        self.assertEqual(told, devices[1:4].mapped("device_id"))
        self.sync(after)
        self.assertFalse(self.has_news(after))

    def test_a_change_comes_again_until_its_cursor_comes_back(self):
        device = self.paired()
        cursor = self.changes_since(None)[2]
        device._note_change()
        first, second = self.sync(cursor), self.sync(cursor)
        self.assertEqual([each["device_id"] for each in second["devices"]], [device.device_id])
        self.assertEqual(first["cursor"], second["cursor"])
        self.assertEqual(self.sync(second["cursor"])["devices"], [])

    def test_a_change_that_is_committed_late_is_told_though_others_were_told_since(self):
        """Its row has the lower id: what counts is when a sync saw it."""
        one, other = self.paired(), self.paired()
        cursor = self.changes_since(None)[2]
        one._note_change()
        self.env.cr.execute("DELETE FROM iiot_device_change WHERE device_id = %s RETURNING id", (one.id,))
        late = self.env.cr.fetchone()[0]
        other._note_change()
        told, _revoked, cursor = self.changes_since(cursor)
        self.assertEqual(told, [other.device_id])
        self.env.cr.execute(
            "INSERT INTO iiot_device_change (id, gateway_id, device_id, device_name) VALUES (%s, %s, %s, %s)",
            (late, self.gateway.id, one.id, one.device_id),
        )
        self.assertEqual(self.changes_since(cursor)[0], [one.device_id])

    def test_a_cursor_of_another_life_of_this_database_starts_again_with_all(self):
        devices = self.paired(2)
        cursor = self.changes_since(None)[2]
        devices[0]._note_change()
        newer = self.changes_since(cursor)[2]
        number = newer.partition("-")[0]
        for unknown in (f"{number}-00000000", "4711-abc", "all/5/0-abc", "all//", "-", "x" * 200):
            self.assertEqual(sorted(self.changes_since(unknown)[0]), sorted(devices.mapped("device_id")), unknown)

    def test_a_change_while_all_devices_are_told_comes_after_them(self):
        devices = self.paired(4)
        with patch.object(iiot_device_change, "AT_A_TIME", 2):
            cursor = self.sync(None)["cursor"]
            devices[0]._note_change()
            told = self.changes_since(cursor)[0]
        self.assertEqual(told, [*devices[2:].mapped("device_id"), devices[0].device_id])

    def test_a_device_that_went_elsewhere_is_revoked_also_for_a_gateway_that_starts_again(self):
        device = self.paired()
        cursor = self.changes_since(None)[2]
        other = self.make_gateway("Line 2")
        device.write({"gateway_id": other.id, "paired_at": fields.Datetime.now()})
        self.assertEqual(self.changes_since(cursor)[:2], ([], [device.device_id]))
        self.assertEqual(self.changes_since(None)[:2], ([], [device.device_id]))

    def test_what_is_told_fits_into_an_answer(self):
        devices = self.paired(3)
        cursor, told = None, []
        with patch.object(iiot_device_change, "MOST_BYTES", 800):
            for _ in range(4):
                answer = self.sync(cursor)
                self.assertLessEqual(len(answer["devices"]), 2)
                told += answer["devices"]
                cursor = answer["cursor"]
        self.assertEqual({each["device_id"] for each in told}, set(devices.mapped("device_id")))
        self.assertFalse(answer["more"])

    def test_the_table_does_not_grow_with_changes_that_were_told(self):
        devices = self.paired(2)
        cursor = self.changes_since(None)[2]
        for _ in range(5):
            devices._note_change()
            cursor = self.changes_since(cursor)[2]
        self.env.cr.execute("SELECT count(*) FROM iiot_device_change WHERE gateway_id = %s", (self.gateway.id,))
        self.assertEqual(self.env.cr.fetchone()[0], 2)
