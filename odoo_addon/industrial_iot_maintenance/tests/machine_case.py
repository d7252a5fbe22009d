"""Machines with and without devices, and people who may see the one, the other, or both."""

from odoo.addons.industrial_iot.tests.device_case import DeviceCase
from odoo.tests import new_test_user

MANAGER = "maintenance.group_equipment_manager"


class MachineCase(DeviceCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.engineer = new_test_user(cls.env, "engineer", groups=f"{MANAGER},industrial_iot.group_iiot_user")
        cls.fitter = new_test_user(cls.env, "fitter", groups=MANAGER)
        cls.press = cls.machine(cls, "Press 1")

    def machine(self, name, **values):
        return self.env["maintenance.equipment"].create({"name": name, "company_id": False, **values})

    def device_of(self, machine, **state):
        """A paired device of the machine, in that state."""
        device = self.paired(business_ref=f"maintenance.equipment,{machine.id}")
        device.state_id.write(state)
        self.env.invalidate_all()
        return device

    def offline(self, machine, minutes=12, **state):
        told = {"connection_status": "offline", "offline_code": "keep_alive", **state}
        return self.device_of(machine, connection_since=self.minutes_ago(minutes), **told)
