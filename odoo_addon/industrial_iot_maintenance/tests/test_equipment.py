from odoo.tests import Form

from .machine_case import MachineCase


class TestEquipment(MachineCase):
    def test_a_machine_says_how_its_device_is_connected_and_leads_to_it(self):
        press = self.press.with_user(self.engineer)
        self.assertEqual(
            (press.iiot_device_count, press.iiot_connection, press.iiot_connection_text), (0, False, False)
        )
        device = self.offline(self.press)
        self.assertEqual((press.iiot_device_ids, press.iiot_device_count), (device, 1))
        self.assertEqual((press.iiot_connection, press.iiot_connection_text), ("offline", "Offline for 12 min"))
        action = press.action_open_iiot_devices()
        self.assertEqual(
            (action["res_model"], action["res_id"], action["view_mode"]), ("iiot.device", device.id, "form")
        )
        device.state_id.write({"connection_status": "online"})
        self.env.invalidate_all()
        self.assertEqual((press.iiot_connection, press.iiot_connection_text), ("online", "Online"))

    def test_a_device_that_cannot_be_connected_says_why(self):
        self.env["iiot.device"].create(
            {
                "serial_number": "SN-NEW",
                "profile_id": self.profile.id,
                "business_ref": f"maintenance.equipment,{self.press.id}",
            }
        )
        self.assertEqual((self.press.iiot_connection, self.press.iiot_connection_text), ("unknown", "Not paired yet"))

    def test_of_several_devices_the_worst_counts_and_those_out_of_service_do_not(self):
        first, second = (self.device_of(self.press, connection_status="online") for _each in range(2))
        self.assertEqual((self.press.iiot_connection, self.press.iiot_connection_text), ("online", "All 2 online"))
        action = self.press.action_open_iiot_devices()
        self.assertEqual(self.env["iiot.device"].search(action["domain"]), first | second)
        third = self.device_of(self.press, connection_status="unknown")
        self.assertEqual(self.press.iiot_connection_text, "1 of 3 unknown")
        second.state_id.connection_status = "offline"
        self.env.invalidate_all()
        self.assertEqual((self.press.iiot_connection, self.press.iiot_connection_text), ("offline", "1 of 3 offline"))
        (second | third).action_retire()
        self.env.invalidate_all()
        self.assertEqual((self.press.iiot_device_ids, self.press.iiot_connection), (first, "online"))

    def test_values_of_a_device_that_is_away_are_said_to_be_old(self):
        device = self.offline(self.press, 50, last_telemetry=self.minutes_ago(55))
        self.assertIn("Offline for 50 min: it stopped answering", self.press.iiot_warning)
        self.assertIn("from 55 min ago", self.press.iiot_warning)
        self.offline(self.press)  # it has never sent anything
        self.assertEqual(len(self.press.iiot_warning.splitlines()), 1)
        self.assertTrue(self.press.iiot_warning.startswith(f"{device.name}: "))
        device.state_id.connection_status = "online"
        self.env.invalidate_all()
        self.assertFalse(self.press.iiot_warning)

    def test_machines_are_found_by_the_connection_of_their_devices(self):
        away, silent, well, without = (self.machine(name) for name in ("away", "silent", "well", "without"))
        for machine, *told in ((away, "online", "offline"), (silent, "unknown", "online"), (well, "online")):
            for status in told:
                self.device_of(machine, connection_status=status)
        self.device_of(without, connection_status="offline").action_retire()
        self.device_of(self.press, connection_status="online").business_ref = f"res.partner,{away.id}"
        machines = away | silent | well | without
        equipment = self.env["maintenance.equipment"].with_user(self.engineer)
        for operator, value, expected in (
            ("=", "offline", away),
            ("=", "unknown", silent),
            ("=", "online", well),
            ("!=", "offline", silent | well | without),
            ("in", ["offline", "unknown"], away | silent),
            ("not in", ["online"], away | silent | without),
            ("!=", False, away | silent | well),
            ("=", False, without),
            ("in", [False, "online"], well | without),
        ):
            found = equipment.search([("iiot_connection", operator, value), ("id", "in", machines.ids)])
            self.assertEqual(set(found.ids), set(expected.ids), (operator, value))

    def test_a_list_of_machines_asks_as_often_as_one_machine(self):
        for machine in [self.press] + [self.machine(f"Press {number}") for number in range(2, 42)]:
            self.offline(machine, last_telemetry=self.minutes_ago(12))
        machines = self.env["maintenance.equipment"].with_user(self.engineer).search([("iiot_connection", "!=", False)])
        self.assertEqual(len(machines), 41)

        def asked(records):
            self.env.invalidate_all()
            before = self.env.cr.sql_log_count
            self.assertEqual(set(records.mapped("iiot_connection_text")), {"Offline for 12 min"})
            return self.env.cr.sql_log_count - before

        asked(machines[:1])
        self.assertLessEqual(asked(machines), asked(machines[:1]) + 2)

    def test_a_device_is_connected_to_a_machine_from_there(self):
        self.press.company_id = self.env.company
        action = self.press.action_connect_iiot_device()
        with Form(self.env["iiot.device"].with_context(**action["context"])) as form:
            form.serial_number = "SN-CONNECT"
            form.profile_id = self.profile
        device = form.record if hasattr(form, "record") else form.save()
        self.assertEqual((device.business_ref, device.company_id), (self.press, self.env.company))
        self.assertEqual(self.press.iiot_device_ids, device)
