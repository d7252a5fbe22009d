import base64
import hashlib

from odoo.tests import new_test_user, tagged
from odoo.tools import mute_logger

from .contract_case import RouteCase

CONTENT = bytes(range(256)) * 1000


@tagged("post_install", "-at_install")
class TestFirmwareFile(RouteCase):
    def setUp(self):
        super().setUp()
        self.gateway = self.make_gateway()
        self.device = self.make_device(self.gateway, paired_at="2026-11-22 09:00:00", state="active")
        self.firmware = self.env["iiot.firmware"].create({"version": "2.0", "file": base64.b64encode(CONTENT)})
        self.env["iiot.update"].create({"device_id": self.device.id, "firmware_id": self.firmware.id})
        self.key = self.key_of(self.gateway)
        self.path = f"/iiot/firmware/{self.firmware.id}/file"

    def get(self, path=None, *, key=None, method="GET", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call(path or self.path, data=b"", key=key or self.key, method=method, headers=named)

    def test_the_appliance_of_the_device_gets_the_file_and_its_parts(self):
        answer = self.get()
        self.assertEqual((answer.status_code, answer.content), (200, CONTENT))
        tag = answer.headers["ETag"]
        self.assertEqual(tag, f'"{hashlib.sha256(CONTENT).hexdigest()}"')
        self.assertEqual(answer.headers["Accept-Ranges"], "bytes")
        part = self.get(Range="bytes=1000-1999", If_Range=tag)
        self.assertEqual((part.status_code, part.content), (206, CONTENT[1000:2000]))
        self.assertEqual(part.headers["Content-Range"], f"bytes 1000-1999/{len(CONTENT)}")
        self.assertEqual(self.get(Range="bytes=-5").content, CONTENT[-5:])
        whole = self.get(Range="bytes=1000-", If_Range='"another"')
        self.assertEqual((whole.status_code, len(whole.content)), (200, len(CONTENT)))
        head = self.get(method="HEAD")
        self.assertEqual((head.status_code, head.content), (200, b""))
        self.assertEqual(head.headers["Content-Length"], str(len(CONTENT)))

    def test_a_part_outside_the_file_is_refused_with_its_size(self):
        answer = self.get(Range=f"bytes={len(CONTENT)}-")
        self.assertEqual(self.outcome(answer), (416, "bad_range"))
        self.assertEqual(answer.headers["Content-Range"], f"bytes */{len(CONTENT)}")

    def test_another_gateway_and_whoever_has_no_key_get_nothing(self):
        other = self.key_of(self.make_gateway("Line 2"))
        self.assertEqual(self.outcome(self.get(key=other)), (404, "unknown_firmware"))
        self.assertEqual(self.outcome(self.get(key="wrong")), (401, "unauthorized"))
        for number in (self.firmware.id + 999, 2**40, 10**30):
            answer = self.get(f"/iiot/firmware/{number}/file")
            self.assertEqual(self.outcome(answer), (404, "unknown_firmware"))

    @mute_logger("odoo.sql_db", "odoo.http")
    def test_whoever_makes_a_version_for_all_devices_twice_is_told_so(self):
        self.env["res.lang"]._activate_lang("zh_CN")
        self.env["ir.module.module"]._load_module_terms(["industrial_iot"], ["zh_CN"])
        values = {"version": "2.0", "url": "https://files.example.com/f"}
        call = {"model": "iiot.firmware", "method": "create", "args": [values], "kwargs": {}}
        for language, told in (("en_US", "There is a firmware for all devices"), ("zh_CN", "已有")):
            name = f"maker-{language}"
            new_test_user(self.env, name, groups="industrial_iot.group_iiot_admin", password=name, lang=language)
            self.authenticate(name, name)
            body = {"jsonrpc": "2.0", "method": "call", "id": 1, "params": call}
            answer = self.call("/web/dataset/call_kw", body).json()
            self.assertIn(told, answer["error"]["data"]["message"])
