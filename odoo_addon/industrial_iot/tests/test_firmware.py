import base64
import hashlib

from odoo.exceptions import AccessError, UserError, ValidationError
from odoo.tests import Form
from odoo.tools import mute_logger
from psycopg2 import IntegrityError

from .device_case import DeviceCase

CONTENT = b"firmware \x00\xff" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class TestFirmware(DeviceCase):
    def make(self, **values):
        return self.env["iiot.firmware"].create({"version": "2.1.0", **values})

    def with_file(self, **values):
        return self.make(file=base64.b64encode(CONTENT), file_name="f.bin", **values)

    def test_size_and_checksum_of_a_file_are_computed(self):
        firmware = self.with_file()
        self.assertEqual((firmware.size, firmware.sha256), (len(CONTENT), SHA256))
        self.assertEqual(firmware._file_attachment().raw, CONTENT)

    def test_a_checksum_that_is_typed_in_must_match(self):
        self.assertEqual(self.with_file(sha256=f" {SHA256.upper()} ").sha256, SHA256)
        with self.assertRaises(ValidationError):
            self.with_file(version="2", sha256="0" * 64)
        with self.assertRaises(ValidationError):
            self.with_file(version="3", size=5)
        firmware = self.with_file(version="4")
        with self.assertRaises(ValidationError):
            firmware.sha256 = "0" * 64
        with self.assertRaises(ValidationError):
            firmware.size = 7

    def test_large_files_come_by_their_address(self):
        firmware = self.make(url="https://files.example.com/f.bin", sha256="A" * 64, size=3_000_000_000)
        self.assertEqual(
            firmware._wire_params(),
            {"version": "2.1.0", "url": "https://files.example.com/f.bin", "size": 3_000_000_000, "sha256": "a" * 64},
        )

    def test_a_file_is_told_by_an_address_of_this_odoo(self):
        firmware = self.with_file(signature="sig")
        self.assertEqual(
            firmware._wire_params(),
            {
                "version": "2.1.0",
                "url": f"/iiot/firmware/{firmware.id}/file",
                "size": len(CONTENT),
                "sha256": SHA256,
                "signature": "sig",
            },
        )

    def test_what_no_appliance_could_fetch_is_refused(self):
        for values in (
            {},
            {"url": "ftp://files.example.com/f"},
            {"url": "file:///etc/passwd"},
            {"url": "/web/content/1"},
            {"url": "https://user:secret@files.example.com/f"},
            {"url": "https://files.example.com/a b"},
            {"url": "https://files.example.com/ü"},
            {"url": "https:///f"},
            {"url": "https://files.example.com:0/f"},
            {"url": "https://files.example.com/" + "x" * 2048},
            {"url": "https://files.example.com/f", "sha256": "abc"},
            {"url": "https://files.example.com/f", "size": -1},
            {"url": "https://files.example.com/f", "version": "x" * 65},
            {"url": "https://files.example.com/f", "version": " "},
            {"url": "https://files.example.com/f", "file": base64.b64encode(CONTENT)},
        ):
            with self.subTest(values), self.assertRaises(ValidationError):
                self.make(**values)

    @mute_logger("odoo.sql_db")
    def test_a_version_is_there_once_for_a_template_and_once_for_all_devices(self):
        url = "https://files.example.com/f"
        for template in (False, self.profile.id):
            self.make(url=url, profile_id=template, active=False)
            self.make(url=url, profile_id=template, version="2.1.1")
            with self.assertRaises(IntegrityError), self.env.cr.savepoint():
                self.make(url=url, profile_id=template)
            with self.assertRaises(IntegrityError), self.env.cr.savepoint():
                self.env["iiot.firmware"].search([("version", "=", "2.1.1"), ("profile_id", "=", template)]).write(
                    {"version": "2.1.0"}
                )

    def test_versions_that_were_doubled_before_are_named_when_the_addon_is_updated(self):
        with self.assertNoLogs("odoo.addons.industrial_iot.models.iiot_firmware"):
            self.env["iiot.firmware"].init()
        self.env.cr.execute("ALTER TABLE iiot_firmware DROP CONSTRAINT iiot_firmware_version_unique_for_all")
        twice = [self.make(url="https://files.example.com/f", version="7.7").id for _ in range(2)]
        with self.assertLogs("odoo.addons.industrial_iot.models.iiot_firmware", "WARNING") as logs:
            self.env["iiot.firmware"].init()
        self.assertIn(f"Firmware 7.7 for all devices is there more than once (iiot.firmware {twice[0]}, {twice[1]})",
                      logs.output[0])  # fmt: skip

    def test_what_devices_got_does_not_change_any_more(self):
        firmware = self.with_file(profile_id=self.profile.id)
        draft = self.env["iiot.update"].create({"device_id": self.paired().id, "firmware_id": firmware.id})
        firmware.version = "2.1.1"
        draft.action_start()
        for values in (
            {"version": "2.2"},
            {"file": base64.b64encode(b"other")},
            {"profile_id": False},
            {"url": "https://files.example.com/f"},
            {"signature": "x"},
        ):
            with self.subTest(values), self.assertRaises(UserError):
                firmware.write(values)
        firmware.write({"notes": "Known to work", "active": False, "version": "2.1.1"})
        with self.assertRaises(UserError):
            firmware.unlink()

    def test_administrators_bring_firmware_and_users_read_of_it(self):
        with Form(self.env["iiot.firmware"].with_user(self.admin)) as form:
            form.version = "3.0"
            form.profile_id = self.profile
            form.file = base64.b64encode(CONTENT)
        firmware = form.record
        self.assertEqual(firmware.sha256, SHA256)
        self.assertEqual(firmware.with_user(self.user).version, "3.0")
        with self.assertRaises(AccessError):
            firmware.with_user(self.user).write({"notes": "x"})
        with self.assertRaises(AccessError):
            firmware.with_user(self.outsider).read(["version"])
