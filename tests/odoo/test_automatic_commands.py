"""The documents' examples of automatic commands, as they are written there, in a real Odoo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.odoo.cluster import Cluster
from tests.odoo.databases import new_database
from tests.odoo.releases import Odoo
from tests.odoo.scripts import add_modules, run_script

ON_MAINTENANCE = """
for record in records:
    # Find associated IIoT device
    iiot_device = env['iiot.device'].search([('business_ref', '=', f'maintenance.equipment,{record.id}')])
    if iiot_device:
        iiot_device.send_command('enter_maintenance_mode', equipment_id=record.id)
"""
ON_SCHEDULE = """
# Send periodic status check commands
for device in records:
    if device.is_active and device.connection_status == 'online':
        device.send_command('status_check', interval=300)
"""
ON_THRESHOLD = """
# Trigger when a specific field reaches a threshold
for record in records:
    if record.field_name > record.threshold_value:
        # Find associated IIoT device
        iiot_device = env['iiot.device'].search([('business_ref', '=', f'{record._name},{record.id}')])
        if iiot_device:
            iiot_device.send_command('alert_threshold_reached',
                                   field=record.field_name,
                                   value=record.field_name,
                                   threshold=record.threshold_value)
"""
SET_UP = """
import datetime
from odoo.tests import new_test_user
profile = env["iiot.device.profile"].create({"name": "Press", "command_add_id": False})
gateway = env["iiot.gateway"].create({"name": "Line 1"})
equipment = env["maintenance.equipment"].create({"name": "Press"})
devices = env["iiot.device"].create([
    {"serial_number": f"SN-{n}", "profile_id": profile.id, "gateway_id": gateway.id} for n in (1, 2, 3)
])
devices.write({"paired_at": "2026-11-22 10:00:00", "state": "active"})
devices[0].business_ref = f"maintenance.equipment,{equipment.id}"
devices[:2].state_id.write({"connection_status": "online"})
devices[1].is_active = False
# somebody of production, who knows nothing of devices
worker = new_test_user(env, "worker", groups="base.group_user,maintenance.group_equipment_manager")
equipment = equipment.with_user(worker)

def automate(model, trigger, code, domain="[]", **values):
    model_id = env["ir.model"]._get(model).id
    return env["base.automation"].create({
        "name": "x", "model_id": model_id, "trigger": trigger, "filter_domain": domain, **values,
        "action_server_ids": [(0, 0, {"name": "x", "model_id": model_id, "state": "code", "code": code})],
    })

def sent():
    found = env["iiot.command"].search([], order="id")
    return [[c.device_id.serial_number, c.payload, c.user_id.login] for c in found]
"""


@pytest.fixture(scope="module")
def run(odoo: Odoo, cluster: Cluster) -> Iterator[Any]:
    """Runs a script behind the preparation above; it commits nothing, so one database does for all."""
    with new_database(odoo, cluster) as database:
        add_modules(odoo, cluster, database, "iiot_machine_states")

        def run(script: str, **values: Any) -> Any:
            return run_script(odoo, cluster, database, SET_UP + script, **values)

        yield run


def test_an_automation_on_a_change_sends_a_command_whoever_made_the_change(run: Any) -> None:
    script = """
field = env["ir.model.fields"]._get("maintenance.equipment", "state")
automate("maintenance.equipment", "on_create_or_write", code, "[('state', '=', 'maintenance')]",
         trigger_field_ids=[(6, 0, field.ids)])
equipment.note = "nothing"
equipment.state = "maintenance"
equipment.flush_recordset()
answer([equipment.id, sent()])
"""
    equipment, sent = run(script, code=ON_MAINTENANCE)
    payload = f'{{"action": "enter_maintenance_mode", "params": {{"equipment_id": {equipment}}}}}'
    assert [row[:2] for row in sent] == [["SN-1", payload]]


def test_an_automation_on_a_threshold_sends_what_was_measured(run: Any) -> None:
    script = """
automate("maintenance.equipment", "on_write", code)
equipment.write({"field_name": 79.5, "threshold_value": 80})
equipment.write({"field_name": 80.5})
equipment.flush_recordset()
answer(sent())
"""
    payload = '{"action": "alert_threshold_reached", "params": {"field": 80.5, "value": 80.5, "threshold": 80.0}}'
    assert [row[:2] for row in run(script, code=ON_THRESHOLD)] == [["SN-1", payload]]


def test_a_time_based_automation_checks_the_devices_that_are_online(run: Any) -> None:
    script = """
date = env["ir.model.fields"]._get("iiot.device", "create_date").id
automation = automate("iiot.device", "on_time", code, trg_date_id=date, trg_date_range=0, trg_date_range_type="minutes")
env.cr.execute("UPDATE iiot_device SET create_date = create_date - interval '1 hour'")
env.invalidate_all()
env.cr.commit = env.flush_all  # as a scheduled action it commits, and here the next test wants a clean database
check = "_cron_process_time_based_actions" if hasattr(automation, "_cron_process_time_based_actions") else "_check"
getattr(env["base.automation"].with_context(lastcall=datetime.datetime(2020, 1, 1)), check)()
answer(sent())
"""
    payload = '{"action": "status_check", "params": {"interval": 300}}'
    assert [row[:2] for row in run(script, code=ON_SCHEDULE)] == [["SN-1", payload]]


def test_a_scheduled_action_sends_to_all_that_need_it(run: Any) -> None:
    script = """
cron = env["ir.cron"].create({
    "name": "x", "model_id": env["ir.model"]._get("iiot.device").id, "state": "code", "interval_type": "days",
    "code": code,
})
cron.ir_actions_server_id.run()
answer(sent())
"""
    code = """
devices = env['iiot.device'].search([('is_active', '=', True)])
for device in devices:
    device.send_command('status_check', interval=300)
"""
    assert [row[0] for row in run(script, code=code)] == ["SN-1", "SN-3"]


def test_code_that_extends_create_sends_a_command(run: Any) -> None:
    script = """
env.cr.execute("SELECT last_value + 1 FROM maintenance_equipment_id_seq")
(following,) = env.cr.fetchone()
env.cr.execute("UPDATE iiot_device SET business_ref = %s WHERE id = %s",
               (f"maintenance.equipment,{following}", devices[2].id))
env.invalidate_all()
env["maintenance.equipment"].create({"name": "New", "state": "maintenance"})
answer([following, sent()])
"""
    following, sent = run(script)
    payload = f'{{"action": "enter_maintenance_mode", "params": {{"equipment_id": {following}}}}}'
    assert [row[:2] for row in sent] == [["SN-3", payload]]


def test_a_server_action_of_a_user_without_rights_sends_nothing(run: Any) -> None:
    script = """
action = env["ir.actions.server"].create({
    "name": "x", "model_id": env["ir.model"]._get("iiot.device").id, "state": "code",
    "code": "records.send_command('reset')",
})
from odoo.exceptions import AccessError
try:
    action.with_user(worker).with_context(active_model="iiot.device", active_ids=devices[:1].ids).run()
    refused = False
except AccessError:
    refused = True
answer([refused, sent()])
"""
    assert run(script) == [True, []]
