"""Readings into one real Odoo worker: how many per second, and what each costs Odoo and PostgreSQL together."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tests.bench import odoo_database
from tests.bench.odoo_database import DEVICES, Setting
from tests.bench.processes import cpu_seconds
from tests.bench.report import finish, progress, table
from tests.odoo.cluster import Cluster, running_cluster
from tests.odoo.releases import NoOdooError, Odoo, find
from tests.odoo.scripts import ADDONS
from tests.odoo.server import OdooServer

SIZES = (1, 50, 500)
MILLION = 1_000_000


class Plan(NamedTuple):
    """Batches of each size in a round, rounds, and the rows of history that the second half begins with."""

    batches: dict[int, int]
    rounds: int = 3
    history: int = MILLION


FULL = Plan({1: 200, 50: 60, 500: 40})
QUICK = Plan({1: 20, 50: 5, 500: 3}, rounds=1, history=20_000)


class Load:
    """An appliance's batches: numbered on and on, 200 devices in turn, four keys, each value another one."""

    def __init__(self, setting: Setting, server: OdooServer) -> None:
        self._setting, self._server = setting, server
        self._seq = 0
        self._clock = datetime.now(UTC) - timedelta(minutes=59)

    @property
    def sent(self) -> int:
        """Readings in all batches."""
        return self._seq

    def bodies(self, size: int, count: int) -> list[bytes]:
        """``count`` batches, made before the clock runs."""
        return [self._body(size) for _ in range(count)]

    def _body(self, size: int) -> bytes:
        first = self._seq + 1
        messages = []
        for _ in range(size):
            self._seq += 1
            self._clock += timedelta(milliseconds=5)
            at = self._clock.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            payload = {
                "temperature": round(20 + self._seq % 997 / 10, 1),
                "pressure": round(1 + self._seq % 89 / 100, 2),
                "rpm": 1400 + self._seq % 211,
                "state": "running",
            }
            message = {"seq": self._seq, "device": f"bench-{self._seq % DEVICES}", "kind": "telemetry", "lane": "live"}
            messages.append(message | {"at": at, "received_at": at, "payload": payload})
        # what came before is settled, so Odoo forgets those receipts, as it does with a real appliance
        body = {"contract": 1, "gateway": self._setting.gateway, "epoch": self._setting.epoch, "messages": messages}
        body |= {"floor": first, "settled": first - 1}
        return json.dumps(body, separators=(",", ":")).encode()

    def post(self, body: bytes) -> None:
        """One batch, of which everything must be stored."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=120)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._setting.key}"}
        connection.request("POST", "/iiot/webhook", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"Odoo answered {answer.status}: {content[:500]!r}")
        wrong = [result for result in json.loads(content)["results"] if result["status"] != "stored"]
        if wrong:
            raise RuntimeError(f"not stored: {wrong[0]}")


class Run(NamedTuple):
    """What batches of one size came to."""

    per_s: float
    odoo_ms: float
    postgres_ms: float

    @property
    def cpu_ms(self) -> float:
        return self.odoo_ms + self.postgres_ms


def postgres_pids(cluster: Cluster, database: str) -> list[int]:
    """The server's processes that work for this database, and those that work for all."""
    rows = cluster.sql(f"SELECT pid FROM pg_stat_activity WHERE datname IS NULL OR datname = '{database}'")
    return [int(pid) for (pid,) in rows]


def cpu_of(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        try:
            total += cpu_seconds(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # the query that found it is its own process
    return total


def run(load: Load, server: OdooServer, cluster: Cluster, *, size: int, count: int) -> Run:
    """Post ``count`` batches one after the other."""
    bodies = load.bodies(size, count)
    odoo_pids, database_pids = server.pids(), postgres_pids(cluster, server.database)
    odoo, postgres, began = cpu_of(odoo_pids), cpu_of(database_pids), time.monotonic()
    for body in bodies:
        load.post(body)
    seconds = time.monotonic() - began
    odoo, postgres = cpu_of(odoo_pids) - odoo, cpu_of(database_pids) - postgres
    readings = size * count
    return Run(readings / seconds, 1000 * odoo / readings, 1000 * postgres / readings)


def best(runs: list[Run]) -> Run:
    """The round that others on the machine disturbed least."""
    return min(runs, key=lambda each: each.cpu_ms)


def measure(load: Load, server: OdooServer, cluster: Cluster, plan: Plan) -> dict[int, Run]:
    """All sizes in turn, round by round."""
    runs: dict[int, list[Run]] = {size: [] for size in SIZES}
    for number in range(plan.rounds):
        for size in SIZES:
            done = run(load, server, cluster, size=size, count=plan.batches[size])
            progress(
                f"round {number + 1}, batches of {size}: {done.per_s:,.0f} readings/s, "
                f"{done.odoo_ms:.3f} + {done.postgres_ms:.3f} ms of CPU each"
            )
            runs[size].append(done)
    return {size: best(done) for size, done in runs.items()}


@contextmanager
def serving(odoo: Odoo, cluster: Cluster, *, metrics: bool) -> Iterator[tuple[OdooServer, Load]]:
    """One Odoo worker on a fresh database with the machines of the benchmark, warm."""
    with (
        odoo_database.prepared(odoo, cluster, metrics=metrics) as (database, setting),
        OdooServer(odoo, cluster, database, workers=1, addons=ADDONS) as server,
    ):
        load = Load(setting, server)
        for body in [*load.bodies(500, 3), *load.bodies(1, 3)]:
            load.post(body)
        yield server, load


def check_account(load: Load, cluster: Cluster, database: str, history: int = 0) -> None:
    """Everything is there once, and the rule has written the newest value of each device."""
    (row,) = cluster.sql(
        """SELECT (SELECT count(*) FROM iiot_telemetry),
                   (SELECT count(*) FROM iiot_device d JOIN iiot_device_state s ON s.id = d.state_id
                    JOIN bench_machine m ON d.business_ref = 'bench.machine,' || m.id
                    WHERE (s.last_values ->> 'temperature')::numeric = m.temperature::numeric)""",
        database,
    )
    if [int(row[0]), int(row[1])] != [load.sent + history, DEVICES]:
        raise RuntimeError(f"{row[0]} of {load.sent + history} readings, {row[1]} of {DEVICES} machines")


def benchmark(odoo: Odoo, cluster: Cluster, plan: Plan) -> dict[str, Any]:
    """Everything that is measured on one version."""
    with serving(odoo, cluster, metrics=False) as (server, load):
        empty = measure(load, server, cluster, plan)
        progress(f"{plan.history:,} rows of history are made")
        mb_per_million = odoo_database.fill_history(cluster, server.database, plan.history)
        full = measure(load, server, cluster, plan)
        check_account(load, cluster, server.database, plan.history)
    with serving(odoo, cluster, metrics=True) as (server, load):
        named = best([run(load, server, cluster, size=500, count=plan.batches[500]) for _ in range(plan.rounds)])
        check_account(load, cluster, server.database)
    return {
        "odoo": odoo.revision,
        "readings_per_s": {str(size): done.per_s for size, done in empty.items()},
        "cpu_ms_per_reading": empty[500].cpu_ms,
        "cpu_ms": {str(size): done.cpu_ms for size, done in empty.items()},
        "postgres_cpu_ms": {str(size): done.postgres_ms for size, done in empty.items()},
        "cpu_ms_with_three_metrics": named.cpu_ms,
        "times_single": empty[500].per_s / empty[1].per_s,
        "times_single_cpu": empty[1].cpu_ms / empty[500].cpu_ms,
        "history_rows": plan.history,
        "readings_per_s_with_history": {str(size): done.per_s for size, done in full.items()},
        "cpu_ms_with_history": {str(size): done.cpu_ms for size, done in full.items()},
        "cpu_ratio_with_history": full[500].cpu_ms / empty[500].cpu_ms,
        "mb_per_million": mb_per_million,
    }


def main(*, as_json: bool, quick: bool, version: int = 19, rows: int = 0) -> int:
    """``python -m tests.bench odoo``."""
    try:
        odoo = find(version, get=True)
    except NoOdooError as error:
        progress(f"no Odoo {version}: {error}")
        return 2
    with running_cluster() as cluster:
        if rows:
            times = odoo_database.time_views(odoo, cluster, rows)
            text = table(
                (f"{rows:,} rows, Odoo {odoo.revision}", "seconds"), [(k, f"{v:.3f}") for k, v in times.items()]
            )
            finish(text, {"odoo": odoo.revision, "rows": rows, "seconds": times}, as_json=as_json)
            return 0
        result = benchmark(odoo, cluster, QUICK if quick else FULL)
    lines = [
        (
            f"{size} a batch",
            f"{result['readings_per_s'][str(size)]:,.0f}",
            f"{result['cpu_ms'][str(size)]:.3f} ms",
            f"{result['postgres_cpu_ms'][str(size)]:.3f} ms",
            f"{result['cpu_ms_with_history'][str(size)]:.3f} ms",
        )
        for size in SIZES
    ]
    head = (
        f"Odoo {odoo.revision}",
        "readings/s",
        "CPU each",
        "PostgreSQL's part",
        f"with {result['history_rows']:,} rows",
    )
    text = (
        f"{table(head, lines)}\n"
        f"500 at once: {result['times_single']:.1f} times as fast as single ones, {result['times_single_cpu']:.1f} "
        f"times as cheap; {result['cpu_ratio_with_history']:.2f} times as dear with history; with three metrics "
        f"{result['cpu_ms_with_three_metrics']:.3f} ms. A million readings take {result['mb_per_million']:.0f} MB"
    )
    finish(text, result, as_json=as_json)
    return 0
