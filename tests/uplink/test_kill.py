"""``kill -9`` while a backlog, live readings, other kinds and what a restored Odoo lost are all on their way.

``KILLS`` (6) in the environment makes it longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from appliance.store.buffer import Buffer
from appliance.store.database import Database
from tests.store.support import Receipts, Store, assert_adds_up
from tests.uplink import chaos
from tests.uplink.chaos import ChaosOdoo
from tests.uplink.worker import build, until

KILLS = int(os.environ.get("KILLS", "6"))
REFUSED = 37
"""Odoo refuses each message whose number is a multiple."""
PER_ROUND = 1_000_000
TROUBLE = [chaos.reset_before, chaos.reset_mid_answer, chaos.stored_then_500, chaos.html_500, chaos.results()]


@asynccontextmanager
async def worker(folder: Path, odoo: ChaosOdoo, number: int) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = [str(folder / "data"), str(folder / "notes"), odoo.url, str(number * PER_ROUND)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.uplink.worker", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def drained(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(40):
        assert await process.stdout.readline() == b"drained\n", "the process has ended"


def go_on(process: asyncio.subprocess.Process, order: str) -> None:
    assert process.stdin is not None
    process.stdin.write(order.encode() + b"\n")


class RefusingOdoo(ChaosOdoo):
    """Refuses some messages by what is in them."""

    def store(self, post: chaos.Post) -> list[dict[str, object]]:
        self.rejected |= {message["seq"] for message in post.data["messages"] if message["payload"]["n"] % REFUSED == 0}
        return super().store(post)


@pytest.mark.parametrize("seed", range(2))
async def test_kill_9_at_any_moment_leaves_each_message_in_odoo_once_or_parked_and_other_kinds_in_order(
    tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    odoo = RefusingOdoo(minds_floors=True)
    await odoo.start()
    for number in range(1, KILLS + 1):
        async with worker(tmp_path, odoo, number) as process:
            odoo.faults.extend(random.choices([chaos.well, chaos.well, *TROUBLE], k=random.randrange(12)))
            if random.random() < 0.3:
                # killed while it sends what the one before it left, if that left anything
                ends = {asyncio.ensure_future(odoo.until_more(random.randrange(1, 4)))}
                ends.add(asyncio.ensure_future(drained(process)))
                _, rest = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for end in rest:
                    end.cancel()
                continue
            await drained(process)
            backup = odoo.backup()
            go_on(process, random.choice(("go", "renew")))
            await odoo.until_more(random.randrange(2, 25))
            odoo.faults.extend(random.choices([chaos.well, *TROUBLE], k=random.randrange(6)))
            await odoo.until_more(random.randrange(2, 15))
            if random.random() < 0.7:
                odoo.restore(backup)
                await odoo.until_more(random.randrange(1, 20))
    odoo.faults.clear()
    store = await _drain(tmp_path / "data", odoo)
    noted = await asyncio.to_thread((tmp_path / "notes").read_text)
    await _check(store, odoo, [int(line.split()[0]) for line in noted.splitlines()])
    await store.close()
    await odoo.stop()


async def _drain(folder: Path, odoo: ChaosOdoo) -> Store:
    database = await Database.open(folder)
    buffer = Buffer(database)
    await buffer.load()
    client, pump = build(buffer, odoo.url)
    running = asyncio.create_task(pump.run())
    async with asyncio.timeout(60):
        await until(lambda: buffer.backlog().waiting == 0)
        # an Odoo that was restored last may have nothing to say about it until the next message
        buffer.append("a", 1, b'{"n":1}', received_at_ms=1)
        await database.run(lambda _: None)
        await until(lambda: buffer.backlog().waiting == 0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.aclose()
    return Store(database, buffer, Receipts())


async def _check(store: Store, odoo: ChaosOdoo, noted: list[int]) -> None:
    await assert_adds_up(store)
    parked = [json.loads(payload)["n"] for (payload,) in await store.query("SELECT payload FROM parked")]
    effects = Counter(message["payload"]["n"] for message in odoo.stored)
    assert len(noted) > 100
    assert Counter(parked).most_common(1)[0][1] == 1
    assert effects.most_common(1)[0][1] == 1
    assert not effects.keys() & set(parked)
    assert not set(noted) - effects.keys() - set(parked), "acknowledged, and neither in Odoo nor parked"
    assert all(number % REFUSED == 0 for number in parked)
    assert len({message["seq"] for message in odoo.stored}) == len(odoo.stored), "a message had two names"
    orders = defaultdict(list)
    for message in odoo.stored:
        if message["kind"] != "telemetry":
            orders[message["device"]].append(message["seq"])
    assert all(order == sorted(order) for order in orders.values())
    assert odoo.most_in_flight == 1
