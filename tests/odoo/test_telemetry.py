"""Readings in a real Odoo with add-ons beside ours: fields of every kind, and a module that acts on readings."""

from __future__ import annotations

import http.client
import json
import uuid
from typing import Any

from tests.odoo.cluster import Cluster
from tests.odoo.releases import Odoo
from tests.odoo.scripts import ADDONS, add_modules, run_script
from tests.odoo.server import OdooServer

AT = "2026-11-22T10:00:00.000Z"
SET_UP = """
env.ref("base.EUR").active = True
gateway = env["iiot.gateway"].create({"name": "Gateway", "uid": gateway_uid})
profile = env["iiot.device.profile"].create({"name": "Press"})
target = env["bench.machine"].create({"name": "Press"}) if "bench.machine" in env else False
device = env["iiot.device"].create({
    "name": "Press", "device_id": "press-1", "serial_number": "SN-1", "profile_id": profile.id,
    "gateway_id": gateway.id, "business_ref": f"bench.machine,{target.id}" if target else False,
})
for name, values in rules.items():
    field = env["ir.model.fields"]._get("bench.machine", name)
    env["iiot.telemetry.rule"].with_user(env.ref("base.user_admin")).create({
        "name": name, "profile_id": profile.id, "target_model_id": field.model_id.id,
        "target_field_id": field.id, **values,
    })
key = env["iiot.gateway.key"]._make(gateway, "test")
env.cr.commit()
answer(key)
"""


def post(server: OdooServer, key: str, gateway: str, payloads: list[Any]) -> list[str]:
    """One batch of readings of ``press-1``; the status of each."""
    common = {"device": "press-1", "kind": "telemetry", "at": AT, "received_at": AT, "lane": "live"}
    messages = [common | {"seq": seq, "payload": payload} for seq, payload in enumerate(payloads, start=1)]
    body: dict[str, Any] = {"contract": 1, "gateway": gateway, "epoch": str(uuid.uuid4()), "floor": 1, "settled": 0}
    body["messages"] = messages
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    connection.request("POST", "/iiot/webhook", json.dumps(body), headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return [result["status"] for result in answer["results"]]


def test_rules_write_fields_of_every_kind_they_offer(odoo: Odoo, cluster: Cluster, database: str) -> None:
    add_modules(odoo, cluster, database, "iiot_bench")
    gateway = str(uuid.uuid4())
    rules = {
        "temperature": {"json_path": "$.temperature", "factor": 0.1},
        "strokes": {"json_path": "$.strokes"},
        "is_running": {"json_path": "$.running"},
        "note": {"json_path": "$.note"},
        "mode": {"json_path": "$.mode"},
        "checked_on": {"json_path": "$.checked"},
        "seen_at": {"json_path": "$.seen"},
        "cost": {"json_path": "$.cost"},
        "currency_id": {"json_path": "$.currency"},
        "name": {"json_path": "$.sensors[?(@.id == 2)].name"},
    }
    key = run_script(odoo, cluster, database, SET_UP, gateway_uid=gateway, rules=rules)
    reading: dict[str, Any] = {
        "temperature": 713,
        "strokes": 2_000_000_000,
        "running": "on",
        "note": "äöü\n✓",
        "mode": "hand",
    }
    reading |= {"checked": "2026-11-22", "seen": "2026-11-22T11:00:00+01:00", "currency": "EUR", "cost": 1.239}
    reading |= {"sensors": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]}
    with OdooServer(odoo, cluster, database, addons=ADDONS) as server:
        assert post(server, key, gateway, [reading]) == ["stored"]
    (row,) = cluster.sql(
        """SELECT m.temperature, m.strokes, m.is_running, replace(m.note, chr(10), '|'), m.mode, m.checked_on,
                  m.seen_at, m.cost, c.name, m.name,
                  (SELECT coalesce(sum(failures), 0) FROM iiot_telemetry_rule_applied)
           FROM bench_machine m JOIN res_currency c ON c.id = m.currency_id""",
        database,
    )
    assert row[:6] == ["71.3", "2000000000", "t", "äöü|✓", "hand", "2026-11-22"]
    assert row[6:] == ["2026-11-22 10:00:00", "1.24", "EUR", "two", "0"]


def test_a_module_that_extends_the_processing_is_called_for_each_reading_of_a_batch(
    odoo: Odoo, cluster: Cluster, database: str
) -> None:
    add_modules(odoo, cluster, database, "iiot_cooling")
    gateway = str(uuid.uuid4())
    key = run_script(odoo, cluster, database, SET_UP, gateway_uid=gateway, rules={})
    readings = [{"temperature": 85}, {"temperature": 79, "vibration": 5.5}, {"temperature": "hot"}, {"temperature": 90}]
    with OdooServer(odoo, cluster, database, addons=ADDONS) as server:
        # the third makes the module fail: its reading is stored all the same, and the others are acted upon
        assert post(server, key, gateway, readings) == ["stored"] * 4
    sent = cluster.sql("SELECT action FROM iiot_command ORDER BY id", database)
    assert sent == [["activate_cooling"], ["enter_inspection_mode"], ["activate_cooling"]]
    assert cluster.sql("SELECT count(*) FROM iiot_telemetry", database) == [["4"]]


def test_the_module_acts_on_readings_given_by_python_too(odoo: Odoo, cluster: Cluster, database: str) -> None:
    add_modules(odoo, cluster, database, "iiot_cooling")
    run_script(odoo, cluster, database, SET_UP, gateway_uid=str(uuid.uuid4()), rules={})
    script = """
env["iiot.device"].search([]).process_telemetry_data({"temperature": 99})
answer([env["iiot.command"].search([]).mapped("action"), env["iiot.telemetry"].search([]).mapped("payload")])
"""
    assert run_script(odoo, cluster, database, script) == [["activate_cooling"], [{"temperature": 99}]]
