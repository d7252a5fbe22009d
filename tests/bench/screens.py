"""What Odoo's screens cost the server in a big factory, asked for as the web client asks."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

from tests.bench.odoo_database import UNCHECKED, count_days, fill_history, prepared, without_indexes
from tests.bench.report import finish, progress, table
from tests.odoo.cluster import Cluster, running_cluster
from tests.odoo.people import Person
from tests.odoo.releases import NoOdooError, Odoo, find
from tests.odoo.scripts import ADDONS
from tests.odoo.server import OdooServer

DAYS = 30
BOUND_S = 1.0
TIMES = 10
LONG_ENOUGH_S = 30
"""What is so slow is asked three times at least and then no more."""
METRIC = "temperature"
COUNT_UP_TO = 10_001
"""How far the web client has lists counted."""

Case = Callable[[], Any]


def fill(odoo: Odoo, cluster: Cluster, database: str, devices: int, rows: int) -> None:
    """The readings, one value of each hour and device in figures, and devices of which each fifth is offline."""
    progress(f"{rows:,} readings are made")
    with without_indexes(cluster, database, "iiot_telemetry"):
        fill_history(cluster, database, rows, devices=devices, days=DAYS)
    progress(f"{devices * DAYS * 24:,} hourly figures are made")
    with without_indexes(cluster, database, "iiot_telemetry_hour"):
        cluster.sql(
            f"""{UNCHECKED} INSERT INTO iiot_telemetry_hour
                    (device_id, company_id, metric, hour, readings, total, average, minimum, maximum, last, last_at)
                SELECT d.id, d.company_id, '{METRIC}', hour, 2, 100, 40 + d.id % 20, 1, 99, 7,
                       hour + interval '59 minutes'
                FROM generate_series(date_trunc('hour', now() AT TIME ZONE 'UTC') - interval '{DAYS * 24 - 1} hours',
                                     now() AT TIME ZONE 'UTC', interval '1 hour') hour, iiot_device d""",
            database,
        )
    progress("their days are counted")
    with without_indexes(cluster, database, "iiot_telemetry_day"):
        count_days(odoo, cluster, database)
    cluster.sql(
        """UPDATE iiot_device_state SET
               connection_status = CASE WHEN id % 5 = 0 THEN 'offline' ELSE 'online' END,
               reported_status = CASE WHEN id % 5 = 0 THEN 'offline' ELSE 'online' END,
               connection_since = now() AT TIME ZONE 'UTC' - interval '3 hours',
               last_seen = now() AT TIME ZONE 'UTC', last_telemetry = now() AT TIME ZONE 'UTC',
               last_values = '{"temperature": 42.5}', firmware_version = '1.' || id % 7""",
        database,
    )
    cluster.sql("VACUUM ANALYZE", database)


class Screens:
    """The questions of the web client of Odoo 19 about our views; fields are those that the view shows at first."""

    def __init__(self, person: Person) -> None:
        self._person = person
        month = datetime.now(UTC) - timedelta(days=30)
        self._month = [["day", ">", f"{month:%Y-%m-%d}"], ["metric", "=", METRIC]]
        self._in_use = [["state", "!=", "retired"]]

    def cases(self) -> dict[str, Case]:
        found = self._like("Bench 77")
        one = [["device_id", "=", self._person.call("iiot.device", "search", [], limit=1)[0]]]
        recent = [["at", ">=", f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"]]
        last = max(0, self._person.call("iiot.device", "search_count", self._in_use) - 80)
        specs = {view: self._shown("iiot.device", view) for view in ("list", "kanban")}
        reading, day = (self._shown(model, "list") for model in ("iiot.telemetry", "iiot.telemetry.day"))
        return {
            "device list, first page": lambda: self._page("iiot.device", self._in_use, specs["list"]),
            "device list, last page": lambda: self._page("iiot.device", self._in_use, specs["list"], offset=last),
            "device list, a search": lambda: self._page("iiot.device", [*self._in_use, *found], specs["list"]),
            "device list by connection": lambda: self._groups("connection_status"),
            "device list by template": lambda: self._groups("profile_id"),
            "device kanban": lambda: self._page("iiot.device", self._in_use, specs["kanban"], limit=40),
            "device kanban by connection": lambda: self._columns(specs["kanban"]),
            "reading list, first page": lambda: self._page("iiot.telemetry", [], reading),
            "reading list, one device": lambda: self._page("iiot.telemetry", one, reading),
            "reading list, last 24 hours": lambda: self._page("iiot.telemetry", recent, reading),
            "history graph, a month": lambda: self._graph(self._month),
            "history graph, a month, all values": lambda: self._graph(self._month[:1]),
            "history pivot, a month": lambda: self._pivot("day:day"),
            "history pivot, a line for each device": lambda: self._pivot("device_id"),
            "history list, first page": lambda: self._page("iiot.telemetry.day", self._month, day),
            "dashboard": lambda: self._person.call("iiot.dashboard", "get_figures"),
        }

    def _shown(self, model: str, view: str) -> dict[str, Any]:
        views = self._person.call(model, "get_views", views=[[False, view]], options={})
        kinds = views["models"][model]["fields"]
        shown: dict[str, Any] = {}
        for field in ElementTree.fromstring(views["views"][view]["arch"]).iter("field"):
            if field.get("optional") != "hide":
                linked = kinds[field.get("name")]["type"] == "many2one"
                shown[str(field.get("name"))] = {"fields": {"display_name": {}}} if linked else {}
        return shown

    def _like(self, text: str) -> list[Any]:
        return ["|", "|", *([name, "ilike", text] for name in ("name", "device_id", "serial_number"))]

    def _page(self, model: str, domain: list[Any], spec: dict[str, Any], *, limit: int = 80, offset: int = 0) -> Any:
        return self._person.call(
            model,
            "web_search_read",
            domain=domain,
            specification=spec,
            offset=offset,
            limit=limit,
            order="",
            count_limit=COUNT_UP_TO,
        )["records"]

    def _groups(self, field: str) -> Any:
        return self._person.call(
            "iiot.device", "web_read_group", domain=self._in_use, groupby=[field], aggregates=[], limit=80
        )["groups"]

    def _columns(self, spec: dict[str, Any]) -> Any:
        bar = {"field": "connection_status", "colors": {"online": "success", "offline": "danger"}}
        self._person.call(
            "iiot.device", "read_progress_bar", domain=self._in_use, group_by="connection_status", progress_bar=bar
        )
        return self._person.call(
            "iiot.device",
            "web_read_group",
            domain=self._in_use,
            groupby=["connection_status"],
            aggregates=[],
            auto_unfold=True,
            unfold_read_specification=spec,
            unfold_read_default_limit=20,
        )["groups"]

    def _graph(self, domain: list[Any]) -> Any:
        return self._person.call(
            "iiot.telemetry.day",
            "formatted_read_group",
            domain,
            ["day:day", "metric"],
            ["__count", "average:avg"],
            context={"fill_temporal": True},
        )

    def _pivot(self, row: str) -> Any:
        sets = [[], [row], ["metric"], [row, "metric"]]
        measures = ["average:avg", "minimum:min", "maximum:max", "__count"]
        return self._person.call("iiot.telemetry.day", "formatted_read_grouping_sets", self._month, sets, measures)


def timed(name: str, case: Case) -> list[float]:
    """Seconds of each of ten times (fewer of what is slow), after one that does not count."""
    if not case():
        raise RuntimeError(f"{name}: nothing was found")
    took = []
    while len(took) < TIMES and (len(took) < 3 or sum(took) < LONG_ENOUGH_S):
        began = time.perf_counter()
        case()
        took.append(time.perf_counter() - began)
    progress(f"{name}: {statistics.median(took):.3f} s")
    return took


def main(*, as_json: bool, quick: bool, devices: int, rows: int) -> int:
    """``python -m tests.bench screens``; 1 if a screen takes longer than its bound."""
    if quick:
        devices, rows = min(devices, 200), min(rows, 20_000)
    try:
        odoo = find(19, get=True)
    except NoOdooError as error:
        progress(f"no Odoo 19: {error}")
        return 2
    with running_cluster() as cluster:
        progress(f"{devices:,} devices are made")
        with prepared(odoo, cluster, metrics=True, devices=devices) as (database, _):
            fill(odoo, cluster, database, devices, rows)
            with OdooServer(odoo, cluster, database, workers=1, addons=ADDONS) as server:
                person = Person(server.url, database)
                load_before = os.getloadavg()[0]
                times = {name: timed(name, case) for name, case in Screens(person).cases().items()}
                person.close()
    load = [load_before, os.getloadavg()[0]]
    medians = {name: statistics.median(took) for name, took in times.items()}
    worst = {name: max(took) for name, took in times.items()}
    lines = [(name, f"{median:.3f}", f"{worst[name]:.3f}") for name, median in medians.items()]
    head = (f"{devices:,} devices, {rows:,} readings, Odoo {odoo.revision}", "median s", "worst s")
    late = [name for name, median in medians.items() if median >= BOUND_S]
    verdict = f"Longer than {BOUND_S:.0f} s: {', '.join(late)}" if late else f"All under {BOUND_S:.0f} s"
    result = {"odoo": odoo.revision, "devices": devices, "rows": rows, "median_s": medians, "worst_s": worst}
    text = f"{table(head, lines)}\nLoad of the machine {load[0]:.1f} to {load[1]:.1f}. {verdict}"
    finish(text, result | {"bound_s": BOUND_S, "late": late, "load": load}, as_json=as_json)
    return 1 if late else 0
