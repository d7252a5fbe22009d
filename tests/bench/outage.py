"""Odoo is stopped for the middle third of a run: devices must not notice, and everything must arrive afterwards."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import uvloop

from tests.bench.devices import device_names, pair_devices
from tests.bench.report import finish, progress, table
from tests.e2e.devices import RecordingDevice
from tests.e2e.harness import Appliance, OdooStandIn

PHASES = ("calm", "outage", "recovery")


class Plan(NamedTuple):
    """How many devices, readings per second of all together, seconds per third, longest wait for the rest."""

    devices: int = 100
    rate: float = 500
    third_s: float = 30
    drain_s: float = 120


QUICK = Plan(devices=20, third_s=2, drain_s=30)


class Arrivals(NamedTuple):
    """What Odoo has in the end, and how long that took after the last reading."""

    counts: Counter[str]
    seconds: float


async def publish(devices: Sequence[RecordingDevice], rate: float, seconds: float) -> None:
    """Each device in its turn, evenly spread."""
    start = time.monotonic()
    for number in range(int(rate * seconds)):
        ahead = start + number / rate - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        devices[number % len(devices)].publish()


async def arrivals(odoo: OdooStandIn, expected: int, within_s: float) -> Arrivals:
    """Wait until ``expected`` different readings are in Odoo, or the time is over."""
    counts: Counter[str] = Counter()
    position, began = 0, time.monotonic()
    while True:
        async for effect in odoo.arrived("telemetry", after=position):
            counts[effect["msg_id"]] += 1
            position = effect["id"]
        seconds = time.monotonic() - began
        if len(counts) >= expected or seconds > within_s:
            return Arrivals(counts, seconds)
        await asyncio.sleep(0.1)


async def measure(folder: Path, plan: Plan) -> dict[str, Any]:
    """The whole run: three thirds, then the rest drains."""
    async with OdooStandIn(folder / "odoo") as odoo:
        await odoo.know(plan.devices)
        appliance = Appliance(folder, environment=odoo.settings)
        paired = await pair_devices(appliance.data_folder, device_names(plan.devices))
        devices = [RecordingDevice(device, port=appliance.mqtt_port) for device in paired]
        async with appliance, asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(device.run(), name=device.paired.device_id) for device in devices]
            await asyncio.wait_for(asyncio.gather(*(device.connected.wait() for device in devices)), 30)
            borders = [time.monotonic()]
            for phase in PHASES:
                progress(f"{phase}: {plan.rate:g} readings/s from {plan.devices} devices for {plan.third_s:g} s")
                if phase == "outage":
                    await odoo.stop()
                elif phase == "recovery":
                    odoo.spawn()
                await publish(devices, plan.rate, plan.third_s)
                borders.append(time.monotonic())
            await asyncio.wait_for(asyncio.gather(*(device.idle.wait() for device in devices)), 30)
            progress("waiting for the rest to arrive")
            published = sum(device.published for device in devices)
            arrived = await arrivals(odoo, published, plan.drain_s)
            disconnected = sum(device.disconnected for device in devices)
            for task in running:
                task.cancel()
    return summarise(plan, devices, borders, arrived, disconnected)


def summarise(
    plan: Plan, devices: Sequence[RecordingDevice], borders: Sequence[float], arrived: Arrivals, disconnected: int
) -> dict[str, Any]:
    """Percentiles of the acknowledgement time by third, and the account of all readings."""
    result: dict[str, Any] = {"devices": plan.devices, "rate": plan.rate, "third_s": plan.third_s}
    for phase, (begin, end) in zip(PHASES, pairwise(borders), strict=True):
        times = [
            1000 * (ack.acknowledged_at - ack.sent_at)
            for device in devices
            for ack in device.acknowledged.values()
            if begin <= ack.sent_at < end
        ]
        cuts = quantiles(times, n=100)
        result[f"{phase}_p50_ms"], result[f"{phase}_p99_ms"], result[f"{phase}_worst_ms"] = (
            cuts[49],
            cuts[98],
            max(times),
        )
    acknowledged = set[str]().union(*(device.readings_acknowledged() for device in devices))
    return result | {
        "p99_ratio": max(result["outage_p99_ms"], result["recovery_p99_ms"]) / result["calm_p99_ms"],
        "outage_p99_ratio": result["outage_p99_ms"] / result["calm_p99_ms"],
        "disconnected": disconnected,
        "published": sum(device.published for device in devices),
        "acknowledged": len(acknowledged),
        "in_odoo": len(arrived.counts),
        "missing": len(acknowledged - arrived.counts.keys()),
        "duplicates": sum(count - 1 for count in arrived.counts.values()),
        "drained_after_s": arrived.seconds,
    }


def promise_kept(result: dict[str, Any]) -> bool:
    """Nobody was disconnected, all is acknowledged, and all is in Odoo once."""
    return (
        result["disconnected"] == result["missing"] == result["duplicates"] == 0
        and result["published"] == result["acknowledged"] == result["in_odoo"]
    )


def main(*, as_json: bool, quick: bool) -> int:
    """``python -m tests.bench outage``; exit status 1 if a device noticed or a reading is missing."""
    with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        result = uvloop.run(measure(Path(temporary), QUICK if quick else Plan()))
    rows = [
        (phase, *(f"{result[f'{phase}_{figure}_ms']:.1f} ms" for figure in ("p50", "p99", "worst"))) for phase in PHASES
    ]
    account = (
        f"{result['published']} published, {result['acknowledged']} acknowledged, {result['in_odoo']} in Odoo "
        f"{result['drained_after_s']:.1f} s later, {result['missing']} missing, {result['duplicates']} twice, "
        f"{result['disconnected']} disconnections"
    )
    finish(f"{table(('acknowledgement', 'p50', 'p99', 'worst'), rows)}\n{account}", result, as_json=as_json)
    return 0 if promise_kept(result) else 1
