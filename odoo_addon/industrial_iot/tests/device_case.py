"""Paired devices, messages about them, and people with the rights of the add-on's groups."""

import itertools
import json
from datetime import datetime, timedelta, timezone

from odoo.tests import new_test_user

from ..lib.message import Message
from ..lib.times import rfc3339
from .contract_case import ContractCase

_numbers = itertools.count(1)


def now():
    """Naive UTC, to the millisecond."""
    moment = datetime.now(timezone.utc).replace(tzinfo=None)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class DeviceCase(ContractCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.env = cls.env(context={**cls.env.context, "tracking_disable": True})
        cls.gateway = cls.make_gateway(cls)
        cls.profile = cls.env["iiot.device.profile"].create({"name": "Press"})
        cls.user = new_test_user(cls.env, "iiot-user", groups="industrial_iot.group_iiot_user")
        cls.admin = new_test_user(cls.env, "iiot-admin", groups="industrial_iot.group_iiot_admin")
        cls.outsider = new_test_user(cls.env, "iiot-outsider", groups="base.group_user")

    def paired(self, name="press", count=1, **values):
        """Devices that are paired with the gateway."""
        devices = self.env["iiot.device"].create(
            [
                {
                    "serial_number": f"SN-{name}-{number}",
                    "device_id": f"{name}-{number}",
                    "profile_id": self.profile.id,
                    "gateway_id": self.gateway.id,
                    **values,
                }
                for number in itertools.islice(_numbers, count)
            ]
        )
        devices.write({"paired_at": datetime(2026, 11, 22, 9), "state": "active"})
        self.env.flush_all()
        return devices

    def told(self, device, kind, payload, *, at=None, received_at=None):
        """A message as the inbox hands it on."""
        at = at or now()
        received_at = received_at or at
        return Message(
            seq=next(_numbers),
            device=device.id,
            device_name=device.device_id,
            kind=kind,
            at=at,
            received_at=received_at,
            effective_at=at,
            lane="live",
            payload=payload,
            payload_json=json.dumps(payload),
        )

    def state(self, command, state, *, at=None, **members):
        """A ``command_state`` message."""
        at = at or now()
        payload = {"command_id": command.command_id, "state": state, "at": rfc3339(at), **members}
        return self.told(command.device_id, "command_state", payload, at=at)

    def take_states(self, *messages):
        self.env["iiot.command"]._take_states(list(messages))

    def minutes_ago(self, minutes):
        return datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0) - timedelta(minutes=minutes)
