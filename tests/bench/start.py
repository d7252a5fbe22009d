"""Time from exec to ready (``GET /health`` answers 200): first start, empty buffer, a million rows waiting."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from appliance.contract.odoo import Kind
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from tests.bench.devices import device_names, pair_devices
from tests.bench.load import sensor_payload
from tests.bench.report import finish, progress, table
from tests.e2e.harness import Appliance

ROWS = 1_000_000
DEVICES = 100
STARTS = 5
_AT_ONCE = 20_000


async def fill(folder: Path, rows: int) -> None:
    """Rows as devices would have made them, through the store itself; whole seconds for a million."""
    names = device_names(DEVICES)
    await pair_devices(folder, names)
    payload, _ = sensor_payload(200)
    database = await Database.open(folder)
    try:
        buffer = Buffer(database)
        await buffer.load()
        received_at_ms = time.time_ns() // 1_000_000
        for first in range(0, rows, _AT_ONCE):
            last = min(first + _AT_ONCE, rows)
            for number in range(first, last):
                buffer.append(names[number % DEVICES], Kind.TELEMETRY, payload, received_at_ms=received_at_ms + number)
            await buffer.wait_for_messages(last - 1)
    finally:
        await database.close()


async def time_to_ready(appliance: Appliance) -> float:
    """Start it, and stop it again; seconds from exec to ready."""
    await appliance.start()
    seconds = time.monotonic() - appliance.started_at
    status = await appliance.stop()
    if status:
        raise appliance.error(f"stopped with exit status {status}")
    return seconds


async def waiting(appliance: Appliance) -> int:
    """How many messages the appliance says it holds, so that the full buffer is known to be the one it opened."""
    async with appliance, appliance.client() as client:
        answer = (await client.get("/health")).json()
    return int(answer["buffer"]["waiting"])


async def measure(rows: int, starts: int) -> dict[str, Any]:
    """Medians of ``starts`` starts each."""
    with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        first: list[float] = []
        for number in range(starts):
            fresh = Appliance(Path(temporary, f"first-{number}"))
            first.append(await time_to_ready(fresh))
        empty = Appliance(Path(temporary, "empty"))
        await pair_devices(empty.data_folder, device_names(DEVICES))
        await time_to_ready(empty)  # makes keys and certificates, which the others shall not
        full = Appliance(Path(temporary, "full"))
        shutil.copytree(empty.data_folder, full.data_folder)
        for path in full.data_folder.glob("appliance.db*"):
            path.unlink()
        began = time.monotonic()
        await fill(full.data_folder, rows)
        size = sum(path.stat().st_size for path in full.data_folder.iterdir())
        progress(f"{rows:,} rows ({size / 1e6:,.0f} MB) in {time.monotonic() - began:.1f} s")
        times: dict[str, list[float]] = {"empty": [], "full": []}
        for _ in range(starts):
            times["empty"].append(await time_to_ready(empty))
            times["full"].append(await time_to_ready(full))
        held = await waiting(full)
        if held != rows:
            raise RuntimeError(f"the buffer holds {held} messages, not {rows}")
    return {
        "first_start_s": median(first),
        "empty_s": median(times["empty"]),
        "million_rows_s": median(times["full"]),
        "empty_worst_s": max(times["empty"]),
        "million_rows_worst_s": max(times["full"]),
        "rows": rows,
        "starts": starts,
    }


def main(*, as_json: bool, quick: bool) -> int:
    """``python -m tests.bench start``."""
    result = asyncio.run(measure(*((20_000, 1) if quick else (ROWS, STARTS))))
    rows = [
        ("first start (makes keys and certificates)", f"{result['first_start_s']:.2f} s", ""),
        ("empty buffer", f"{result['empty_s']:.2f} s", f"{result['empty_worst_s']:.2f} s"),
        (f"{result['rows']:,} rows", f"{result['million_rows_s']:.2f} s", f"{result['million_rows_worst_s']:.2f} s"),
    ]
    finish(table(("from exec to ready", "median", "worst"), rows), result, as_json=as_json)
    return 0
