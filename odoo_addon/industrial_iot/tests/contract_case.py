"""An appliance for tests of the contract: a gateway with its key, devices of its own, and the bodies it sends."""

import json
import uuid
from datetime import datetime, timezone

from odoo.tests import HttpCase, TransactionCase

from ..lib.problems import RefusalError

AT = "2026-11-22T10:00:00.000Z"


class Contract:
    """For ``TransactionCase`` and ``HttpCase``."""

    def make_gateway(self, name="Line 1", **values):
        gateway = self.env["iiot.gateway"].create({"name": name, "uid": str(uuid.uuid4()), **values})
        gateway.database_uuid = gateway._own_database_uuid()
        return gateway

    def make_profile(self, **values):
        return self.env["iiot.device.profile"].create({"name": "Press", **values})

    def make_device(self, gateway=None, **values):
        name = f"press-{uuid.uuid4().hex[:8]}"
        return self.env["iiot.device"].create(
            {
                "name": name,
                "device_id": name,
                "serial_number": f"SN-{name}",
                "profile_id": self.make_profile().id,
                "gateway_id": gateway and gateway.id,
                **values,
            }
        )

    def message(self, seq, device, payload=None, **members):
        name = device if isinstance(device, str) else device.device_id
        message = {"seq": seq, "device": name, "kind": "telemetry", "at": AT, "received_at": AT, "lane": "live"}
        return message | {"payload": payload or {"temperature": 20.5}} | members

    def batch(self, gateway, messages, *, epoch, floor=1, settled=0, **more):
        frame = {"contract": 1, "gateway": gateway.uid, "epoch": epoch, "floor": floor, "settled": settled}
        return frame | {"messages": messages} | more

    def sync_body(self, gateway, *, start=None, epoch=None, **more):
        start, epoch = start or str(uuid.uuid4()), epoch or str(uuid.uuid4())
        return {
            "contract": 1,
            "gateway": gateway.uid,
            "name": "line 1",
            "version": "1.0",
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "uptime_s": 5.0,
            "start": start,
            "starts": [{"start": start, "first_seq": 1}],
            "epochs": [{"epoch": epoch, "last_seq": 0, "floor": 1, "settled": 0, "stored": 0}],
            **more,
        }

    def assert_refused(self, status, code, call, *args, **kwargs):
        with self.assertRaises(RefusalError) as caught:
            call(*args, **kwargs)
        self.assertEqual((caught.exception.status, caught.exception.code), (status, code))
        return caught.exception


class ContractCase(Contract, TransactionCase):
    """The models behind the routes."""


class RouteCase(Contract, HttpCase):
    """The routes themselves."""

    def key_of(self, gateway):
        return self.env["iiot.gateway.key"]._make(gateway, "test")

    def call(self, path, body=None, *, key=None, method="POST", headers=None, data=None):
        """The answer, as ``requests`` gives it; ``data`` sends bytes as they are."""
        sent = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        sent.update(headers or {})
        content = json.dumps(body).encode() if data is None else data
        self.env.flush_all()
        answer = self.opener.request(
            method, self.base_url() + path, data=content, headers=sent, timeout=60, allow_redirects=False
        )
        self.env.invalidate_all()
        return answer

    def outcome(self, answer):
        return answer.status_code, answer.json().get("code")
