"""Plain amqtt against the appliance: QoS 1 messages per second, and CPU of the server per message.

Each measurement gets a fresh server process, and the appliance a fresh copy of the same data folder, so that no cell
inherits sessions or a grown file from the one before. The two servers take turns within every cell of every round.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from tests.bench.devices import PairedDevice, device_names, pair_devices
from tests.bench.load import Account, Job
from tests.bench.report import finish, progress, table
from tests.e2e.harness import ROOT, Appliance, Server, clean_environment, free_port

ServerName = Literal["amqtt", "appliance"]
SERVERS: tuple[ServerName, ...] = ("amqtt", "appliance")


class Cell(NamedTuple):
    """What is varied."""

    devices: int
    in_flight: int

    def __str__(self) -> str:
        return f"{self.devices} x {self.in_flight}"


class Plan(NamedTuple):
    """How long and how often."""

    cells: tuple[Cell, ...] = (Cell(50, 1), Cell(500, 1), Cell(50, 20), Cell(500, 20))
    rounds: int = 3
    warm_up_s: float = 1.5
    window_s: float = 5.0


QUICK = Plan(cells=(Cell(20, 1), Cell(20, 20)), rounds=1, warm_up_s=0.2, window_s=0.5)

Samples = dict[tuple[Cell, ServerName], list[dict[str, Any]]]


class PlainAmqtt(Server):
    """The broker to compare with."""

    def __init__(self, folder: Path) -> None:
        self.mqtt_port = free_port()
        arguments = ["-m", "tests.bench.plain_amqtt", str(self.mqtt_port)]
        super().__init__("amqtt", arguments, folder=folder, environment={})

    async def is_ready(self) -> bool:
        """Its log says so."""
        return "ready" in self.log


async def run_load(job: Job) -> dict[str, Any]:
    """Run the load generator; ``RuntimeError`` when the server broke a rule."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.load"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=clean_environment({}),
    )
    try:
        output, errors = await child.communicate(job.to_json().encode())
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    if child.returncode:
        raise RuntimeError(errors.decode().strip())
    result: dict[str, Any] = json.loads(output)
    return result


async def measure(
    server: PlainAmqtt | Appliance, devices: Sequence[PairedDevice], cell: Cell, plan: Plan, *, anonymous: bool
) -> dict[str, Any]:
    """Start the server, load it, stop it."""
    accounts = [
        Account(
            client_id=device.device_id,
            topic=device.topics.telemetry,
            username=None if anonymous else device.device_id,
            password=None if anonymous else device.password,
        )
        for device in devices[: cell.devices]
    ]
    async with server:
        job = Job(
            port=server.mqtt_port,
            server_pid=server.pid,
            accounts=accounts,
            in_flight=cell.in_flight,
            warm_up_s=plan.warm_up_s,
            window_s=plan.window_s,
        )
        result = await run_load(job)
        if not server.running:
            raise server.error("ended under load")
    return result


async def collect(plan: Plan) -> Samples:
    """All rounds, interleaved."""
    samples: Samples = {(cell, name): [] for cell in plan.cells for name in SERVERS}
    with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        names = device_names(max(cell.devices for cell in plan.cells))
        devices = await pair_devices(folder / "paired", names)
        for number in range(plan.rounds):
            for cell in plan.cells:
                for name in SERVERS:
                    place = folder / "run"
                    server: PlainAmqtt | Appliance
                    if name == "amqtt":
                        server = PlainAmqtt(place)
                    else:
                        shutil.copytree(folder / "paired", place / "data")
                        server = Appliance(place)
                    result = await measure(server, devices, cell, plan, anonymous=name == "amqtt")
                    shutil.rmtree(place)
                    samples[cell, name].append(result)
                    progress(
                        f"round {number + 1}  {cell!s:>8}  {name:9}  {result['per_s']:9,.0f}/s"
                        f"  {result['server_cpu_us']:6.1f} µs  (load generator {result['load_cpu_us']:.1f} µs)"
                    )
    return samples


def summarise(plan: Plan, samples: Samples) -> dict[str, Any]:
    """Medians per cell, and of the device counts the one that speaks less well for the appliance."""
    medians = {
        key: {
            figure: median(run[figure] for run in runs)
            for figure in ("per_s", "server_cpu_us", "load_cpu_us", "server_cores")
        }
        for key, runs in samples.items()
    }
    result: dict[str, Any] = {}
    for in_flight in sorted({cell.in_flight for cell in plan.cells}):
        cells = [cell for cell in plan.cells if cell.in_flight == in_flight]
        pairs = [(medians[cell, "amqtt"], medians[cell, "appliance"]) for cell in cells]
        result |= {
            f"ratio_{in_flight}_in_flight": min(ours["per_s"] / plain["per_s"] for plain, ours in pairs),
            f"cpu_ratio_{in_flight}_in_flight": min(
                plain["server_cpu_us"] / ours["server_cpu_us"] for plain, ours in pairs
            ),
            f"cpu_us_{in_flight}_in_flight": max(ours["server_cpu_us"] for _, ours in pairs),
        }
    return result | {
        "rounds": plan.rounds,
        "window_s": plan.window_s,
        "out_of_order": {
            name: sum(run["out_of_order"] for cell in plan.cells for run in samples[cell, name]) for name in SERVERS
        },
        "cells": [
            {"devices": cell.devices, "in_flight": cell.in_flight} | {name: medians[cell, name] for name in SERVERS}
            for cell in plan.cells
        ],
    }


def as_table(result: dict[str, Any]) -> str:
    """The medians, a line per cell."""
    head = (
        *("devices x in flight", "amqtt /s", "appliance /s", "ratio"),
        *("amqtt CPU", "appliance CPU", "ratio", "load generator CPU"),
    )
    rows = []
    for cell in result["cells"]:
        plain, ours = cell["amqtt"], cell["appliance"]
        rows.append(
            (
                f"{cell['devices']} x {cell['in_flight']}",
                f"{plain['per_s']:,.0f}",
                f"{ours['per_s']:,.0f}",
                f"{ours['per_s'] / plain['per_s']:.1f}",
                f"{plain['server_cpu_us']:.1f} µs",
                f"{ours['server_cpu_us']:.1f} µs",
                f"{plain['server_cpu_us'] / ours['server_cpu_us']:.1f}",
                f"{plain['load_cpu_us']:.1f} / {ours['load_cpu_us']:.1f} µs",
            )
        )
    return table(head, rows)


def main(*, as_json: bool, quick: bool) -> int:
    """``python -m tests.bench ingest``."""
    plan = QUICK if quick else Plan()
    result = summarise(plan, asyncio.run(collect(plan)))
    finish(as_table(result), result, as_json=as_json)
    return 0
