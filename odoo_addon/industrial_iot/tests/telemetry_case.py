"""What the tests of telemetry share: a template, devices with business records, readings as the inbox makes them."""

from datetime import datetime, timedelta
from unittest.mock import patch

from odoo.tests import TransactionCase, new_test_user

from ..lib.batch import storable_json
from ..lib.message import Message

NOON = datetime(2026, 11, 22, 12)


class TelemetryCase(TransactionCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.author = cls.env.ref("base.user_admin")
        cls.profile = cls.env["iiot.device.profile"].create({"name": "Press", "metrics": "temperature\n$.motor.rpm"})
        cls.telemetry = cls.env["iiot.telemetry"]
        cls.devices = cls.make_devices(3)
        cls.device = cls.devices[0]
        cls.seq = 0

    @classmethod
    def user_in(cls, login, groups):
        return new_test_user(cls.env, login, groups=groups, context={"no_reset_password": True})

    @classmethod
    def make_devices(cls, count, first=1, **values):
        """Devices, each with a partner as its business record."""
        partners = cls.env["res.partner"].create([{"name": f"Partner {first + n}"} for n in range(count)])
        return cls.env["iiot.device"].create(
            [
                {
                    "name": f"Press {first + n}",
                    "device_id": f"press-{first + n}",
                    "serial_number": f"SN-{first + n}",
                    "profile_id": cls.profile.id,
                    "business_ref": f"res.partner,{partner.id}",
                    **values,
                }
                for n, partner in enumerate(partners)
            ]
        )

    def message(self, payload, device=None, at=NOON, seq=None, received_at=None):
        """One reading; ``at`` is a time, or minutes after noon."""
        device = device or self.device
        at = at if isinstance(at, datetime) else NOON + timedelta(minutes=at)
        type(self).seq += 1
        return Message(
            seq=self.seq if seq is None else seq,
            device=device.id,
            device_name=device.device_id,
            kind="telemetry",
            at=at,
            received_at=received_at or at,
            effective_at=at,
            lane="live",
            payload=payload,
            payload_json=storable_json(payload),
        )

    def take(self, *messages):
        self.telemetry._take(messages)
        self.env.flush_all()

    def make_rule(self, field="color", path="$.temperature", author=None, model="res.partner", **values):
        model = self.env["ir.model"]._get(model)
        target = self.env["ir.model.fields"]._get(model.model, field)
        return (
            self.env["iiot.telemetry.rule"]
            .with_user(author or self.author)
            .create(
                {
                    "name": f"{path} to {field}",
                    "profile_id": self.profile.id,
                    "json_path": path,
                    "target_model_id": model.id,
                    "target_field_id": target.id,
                    **values,
                }
            )
            .sudo()
        )

    def partner(self, device=None):
        partner = (device or self.device).business_ref
        partner.invalidate_recordset()
        return partner

    def count_queries(self, run):
        """How many statements ``run()`` sends."""
        before = self.env.cr.sql_log_count
        run()
        return self.env.cr.sql_log_count - before

    def no_commit(self):
        return patch.object(self.env.cr, "commit", lambda: None)
