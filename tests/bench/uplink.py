"""What waits goes to Odoo: readings per second and CPU per reading, in batches and one reading per request."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tests.bench.processes import cpu_seconds
from tests.bench.report import finish, progress, table
from tests.bench.start import DEVICES, fill
from tests.e2e.harness import Appliance, OdooStandIn

LONGEST_S = 300.0
POLL_S = 0.05


class Plan(NamedTuple):
    """Readings that wait, and how many of them where each has a request of its own; rounds, one after the other."""

    batched: int = 100_000
    single: int = 2_000
    rounds: int = 3


QUICK = Plan(batched=5_000, single=200, rounds=1)


class Run(NamedTuple):
    """One drain."""

    per_s: float
    cpu_us: float
    """Of the appliance, all threads, per reading."""
    odoo_cpu_us: float
    seconds: float


async def drain(folder: Path, *, readings: int, batch: int) -> Run:
    """Let ``readings`` that wait go to the stand-in, ``batch`` at a time, from its first arrival to the last."""
    odoo = OdooStandIn(folder / "odoo")
    settings = odoo.settings | {"ODOO_BATCH_MESSAGES": str(batch)}
    appliance = Appliance(folder, environment=settings)
    await fill(appliance.data_folder, readings)
    async with odoo:
        await odoo.know(DEVICES)
        await odoo.stop()
        # what starting costs is not counted: the appliance is ready before there is anybody to send to
        async with appliance:
            await odoo.start()
            begun = await _arrived(odoo, 1)
            cpu, odoo_cpu, started = cpu_seconds(appliance.pid), cpu_seconds(odoo.pid), time.monotonic()
            ended = await _arrived(odoo, readings)
            seconds = time.monotonic() - started
            cpu, odoo_cpu = cpu_seconds(appliance.pid) - cpu, cpu_seconds(odoo.pid) - odoo_cpu
            if ended != readings:
                raise RuntimeError(f"{ended} readings arrived, not {readings}")
    counted = ended - begun
    return Run(counted / seconds, 1e6 * cpu / counted, 1e6 * odoo_cpu / counted, seconds)


async def _arrived(odoo: OdooStandIn, least: int) -> int:
    """Wait until at least so many readings are in Odoo; how many are."""
    end = time.monotonic() + LONGEST_S
    async with odoo.client() as client:
        while time.monotonic() < end:
            counts = (await client.get("/sim/state")).json()["messages"]
            if counts.get("telemetry", 0) >= least:
                return int(counts["telemetry"])
            await asyncio.sleep(POLL_S)
    raise RuntimeError(f"{least} readings have not arrived within {LONGEST_S:g} s")


async def measure(plan: Plan) -> dict[str, Any]:
    """Rounds of both, in turns, each with a fresh appliance and a fresh Odoo; medians."""
    runs: dict[str, list[Run]] = {"batched": [], "single": []}
    for number in range(plan.rounds):
        for name, readings, batch in (("batched", plan.batched, 500), ("single", plan.single, 1)):
            with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
                run = await drain(Path(temporary), readings=readings, batch=batch)
            progress(f"round {number + 1}, {name}: {run.per_s:,.0f} readings/s, {run.cpu_us:.0f} µs of CPU each")
            runs[name].append(run)
    result: dict[str, Any] = {"rounds": plan.rounds, "readings": plan.batched, "single_readings": plan.single}
    for name, done in runs.items():
        for figure in Run._fields:
            result[f"{name}_{figure}"] = median(getattr(run, figure) for run in done)
    return result | {
        "ratio": result["batched_per_s"] / result["single_per_s"],
        "cpu_ratio": result["single_cpu_us"] / result["batched_cpu_us"],
    }


def main(*, as_json: bool, quick: bool) -> int:
    """``python -m tests.bench uplink``."""
    result = asyncio.run(measure(QUICK if quick else Plan()))
    rows = [
        (
            text,
            f"{result[f'{name}_per_s']:,.0f}",
            f"{result[f'{name}_cpu_us']:.0f} µs",
            f"{result[f'{name}_odoo_cpu_us']:.0f} µs",
        )
        for name, text in (("batched", "batches of up to 500"), ("single", "one reading per request"))
    ]
    text = table(("from the appliance's disk to Odoo", "readings/s", "appliance's CPU", "stand-in's CPU"), rows)
    finish(f"{text}\n{result['ratio']:.0f} times as fast", result, as_json=as_json)
    return 0
