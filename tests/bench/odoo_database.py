"""The databases of the benchmark on a real Odoo: machines, devices, a rule, and history by the million."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.odoo.cluster import Cluster
from tests.odoo.databases import new_database
from tests.odoo.releases import Odoo
from tests.odoo.scripts import add_modules, run_script

DEVICES = 200
DAYS = 90
UNCHECKED = "SET session_replication_role = replica;"
"""Rows by the million are not checked against the devices they name: these are there."""

SET_UP = """
author = env.ref("base.user_admin")
profile = env["iiot.device.profile"].create(
    {"name": "Bench", "keep_history": True, "metrics": "temperature\\npressure\\nrpm" if metrics else False}
)
gateway = env["iiot.gateway"].create({"name": "Bench", "uid": gateway_uid})
machines = env["bench.machine"].create([{"name": f"Machine {n}"} for n in range(devices)])
env["iiot.device"].with_context(tracking_disable=True).create(
    [
        {
            "name": f"Bench {n}", "device_id": f"bench-{n}", "serial_number": f"SN-BENCH-{n}",
            "profile_id": profile.id, "gateway_id": gateway.id, "business_ref": f"bench.machine,{machine.id}",
        }
        for n, machine in enumerate(machines)
    ]
)
field = env["ir.model.fields"]._get("bench.machine", "temperature")
env["iiot.telemetry.rule"].with_user(author).create(
    {
        "name": "Temperature", "profile_id": profile.id, "json_path": "$.temperature",
        "target_model_id": field.model_id.id, "target_field_id": field.id,
    }
)
key = env["iiot.gateway.key"]._make(gateway, "bench")
env.cr.commit()
answer(key)
"""
COUNT_DAYS = """
env["res.company"].search([]).write({"iiot_days_tz": False})
env["iiot.telemetry.day"]._count_anew()
env.cr.commit()
answer(None)
"""
VIEWS = """
import time
from datetime import datetime, timedelta
env = env(user=env.ref("base.user_admin").id, context={"allowed_company_ids": [env.company.id]}, su=False)
device = env["iiot.device"].search([], limit=1, order="id desc")
now = datetime.now()
week, day = ["at", ">=", str(now - timedelta(days=7))], ["at", ">=", str(now - timedelta(days=1))]
days_of_week = ("day", ">", str((now - timedelta(days=7)).date()))
spec = {"at": {}, "device_id": {"fields": {"display_name": {}}}, "payload_text": {}}
temperature = [("device_id", "=", device.id), ("metric", "=", "temperature")]
def listed(domain):
    return env["iiot.telemetry"].web_search_read(domain, spec, limit=80, count_limit=10001)
def grouped(model, domain, groups, aggregates):
    return env[model]._read_group(domain, groups, aggregates)
values, days = "iiot.telemetry.value", "iiot.telemetry.day"
figures = ["average:avg", "minimum:min", "maximum:max"]
CASES = {
    "list of all readings, first page": lambda: listed([]),
    "list of one device's readings": lambda: listed([("device_id", "=", device.id)]),
    "list of one day": lambda: listed([day]),
    "chart of a device's values, a day": lambda: grouped(values, [*temperature, day], ["at:hour"], ["value:avg"]),
    "chart of a device's values, a week": lambda: grouped(values, [*temperature, week], ["at:hour"], ["value:avg"]),
    "graph of all devices by day, a week": lambda: grouped(
        days, [days_of_week], ["day:day", "metric"], figures[:1]),
    "pivot of all devices, a week": lambda: grouped(days, [days_of_week], ["device_id", "metric"], figures),
    "graph of all devices by day, all time": lambda: grouped(days, [], ["day:day", "metric"], figures[:1]),
}
times = {}
for name, case in CASES.items():
    took = []
    for _ in range(3):
        env.invalidate_all()
        began = time.perf_counter()
        found = case()
        took.append(time.perf_counter() - began)
    assert found, name
    times[name] = sorted(took)[1]
answer(times)
"""


class Setting(NamedTuple):
    """What the appliance of the benchmark knows."""

    gateway: str
    epoch: str
    key: str


@contextmanager
def prepared(odoo: Odoo, cluster: Cluster, *, metrics: bool, devices: int = DEVICES) -> Iterator[tuple[str, Setting]]:
    """A database with devices, each with a machine whose temperature the rule writes; its name and the key."""
    with new_database(odoo, cluster) as database:
        add_modules(odoo, cluster, database, "iiot_bench")
        gateway = str(uuid.uuid4())
        key = run_script(odoo, cluster, database, SET_UP, metrics=metrics, gateway_uid=gateway, devices=devices)
        yield database, Setting(gateway, str(uuid.uuid4()), key)


def fill_history(cluster: Cluster, database: str, rows: int, *, devices: int = DEVICES, days: int = DAYS) -> float:
    """Readings of so many days, in the order of time as they would have come; what a million takes, in 10⁶ bytes."""
    before = _size(cluster, database)
    for first, last in _parts(rows):
        cluster.sql(
            f"""{UNCHECKED} INSERT INTO iiot_telemetry (device_id, company_id, at, received_at, payload)
                SELECT d.ids[1 + i % {devices}], d.company, t.at, t.at, jsonb_build_object(
                    'temperature', round((20 + i % 997 / 10.0)::numeric, 1), 'pressure', round(1 + i % 89 / 100.0, 2),
                    'rpm', 1400 + i % 211, 'state', 'running')
                FROM generate_series({first}::bigint, {last}) i,
                    LATERAL (SELECT {_moment(rows, days)} AS at) t,
                    (SELECT array_agg(id ORDER BY id) AS ids, min(company_id) AS company FROM iiot_device) d""",
            database,
        )
    grown = _size(cluster, database) - before
    cluster.sql("VACUUM ANALYZE iiot_telemetry", database)
    return grown / rows


def count_days(odoo: Odoo, cluster: Cluster, database: str) -> None:
    """Values by day out of those by hour, in the way of the add-on after a change of the time zone."""
    run_script(odoo, cluster, database, COUNT_DAYS)


def _parts(rows: int) -> Iterator[tuple[int, int]]:
    """First and last row of each million."""
    for first in range(0, rows, 1_000_000):
        yield first, min(first + 1_000_000, rows) - 1


def _moment(rows: int, days: int = DAYS) -> str:
    """Of row ``i``: from so many days ago to an hour ago, evenly."""
    step_us = days * 86_400 * 1_000_000 // rows
    return f"now() AT TIME ZONE 'UTC' - interval '{days} days 1 hour' + i * interval '{step_us} us'"


def _size(cluster: Cluster, database: str) -> int:
    return int(cluster.sql("SELECT pg_total_relation_size('iiot_telemetry')", database)[0][0])


@contextmanager
def without_indexes(cluster: Cluster, database: str, table: str) -> Iterator[None]:
    """Rows by the million go in faster where the indexes are made afterwards."""
    rows = cluster.sql(
        f"SELECT i.indexrelid::regclass, pg_get_indexdef(i.indexrelid) FROM pg_index i "
        f"WHERE i.indrelid = '{table}'::regclass AND NOT i.indisprimary",
        database,
    )
    for name, _ in rows:
        cluster.sql(f"DROP INDEX {name}", database)
    yield
    for _, definition in rows:
        cluster.sql(definition, database)
    cluster.sql(f"VACUUM ANALYZE {table}", database)


def time_views(odoo: Odoo, cluster: Cluster, rows: int) -> dict[str, float]:
    """Seconds that lists, charts and graphs take with so many readings and values, and their hours; medians of 3."""
    with prepared(odoo, cluster, metrics=True) as (database, _):
        with without_indexes(cluster, database, "iiot_telemetry"):
            fill_history(cluster, database, rows)
        devices = "(SELECT array_agg(id ORDER BY id) AS ids, min(company_id) AS company FROM iiot_device) d"
        with without_indexes(cluster, database, "iiot_telemetry_value"):
            for first, last in _parts(rows):
                cluster.sql(
                    f"""{UNCHECKED} INSERT INTO iiot_telemetry_value (device_id, company_id, metric, at, value)
                        SELECT d.ids[1 + i % {DEVICES}], d.company,
                               (ARRAY['temperature', 'pressure', 'rpm'])[1 + i / {DEVICES} % 3],
                               {_moment(rows)}, i % 997 FROM generate_series({first}::bigint, {last}) i, {devices}""",
                    database,
                )
        with without_indexes(cluster, database, "iiot_telemetry_hour"):
            cluster.sql(
                f"""{UNCHECKED} INSERT INTO iiot_telemetry_hour
                        (device_id, company_id, metric, hour, readings, total, average, minimum, maximum, last, last_at)
                    SELECT device, d.company, metric, hour, 10, 500, 50, 1, 99, 7, hour + interval '59 minutes'
                    FROM {devices}, unnest(d.ids) device, unnest(ARRAY['temperature', 'pressure', 'rpm']) metric,
                         generate_series(date_trunc('hour', now() AT TIME ZONE 'UTC') - interval '90 days',
                                         now() AT TIME ZONE 'UTC', interval '1 hour') hour""",
                database,
            )
        count_days(odoo, cluster, database)
        found: dict[str, float] = run_script(odoo, cluster, database, VIEWS)
        return found
