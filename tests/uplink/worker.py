"""A store and its pump in a process of their own, to be killed: see ``test_kill.py``.

Arguments: data folder, file for the notes, Odoo's address, first number. It sends all that waits, says so on standard
output and waits for a line; ``renew`` begins a new epoch. Then messages come until it is killed. What is committed is
noted as a line, ``number kind``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from pydantic import SecretStr

from appliance.contract.odoo import Kind
from appliance.contract.times import Clock
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.uplink.client import OdooClient, Timeouts
from appliance.uplink.pump import Pump, PumpLimits
from appliance.uplink.retry import Backoff, Breaker

GATEWAY = "6a1de5ae-4d22-4f09-8d43-6c8f2b1d5f10"
KINDS = (Kind.TELEMETRY, Kind.TELEMETRY, Kind.TELEMETRY, Kind.COMMAND_STATE, Kind.PRESENCE)
DEVICES = ("a", "b", "c")
AHEAD = 600
"""So many messages wait at most."""


def build(buffer: Buffer, url: str) -> tuple[OdooClient, Pump]:
    """A pump that is not patient."""
    client = OdooClient(
        base_url=url,
        api_key=SecretStr("geheim-0123456789"),
        timeouts=Timeouts(connect_s=2, read_s=2, write_s=2, pool_s=2),
        breaker=Breaker(backoff=Backoff(base_s=0.01, cap_s=0.05)),
    )
    limits = PumpLimits(batch_messages=30, gather_s=0.005, backoff_base_s=0.01, backoff_cap_s=0.05)
    return client, Pump(buffer=buffer, client=client, gateway_uid=GATEWAY, limits=limits)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


async def work(folder: Path, notes: int, url: str, first: int) -> None:
    database = await Database.open(folder)
    buffer = Buffer(database)
    await buffer.load()
    database.committed = lambda numbers: _note(notes, numbers)
    client, pump = build(buffer, url)
    running = asyncio.create_task(pump.run())
    await until(lambda: buffer.backlog().waiting == 0)
    print("drained", flush=True)
    order = await asyncio.to_thread(sys.stdin.readline)
    if order.strip() == "renew":
        await buffer.renew_epoch(buffer.backlog().last_seq + 1)
    random, number = Random(first), first
    while not running.done():
        for _ in range(random.choice((1, 3, 40))):
            kind = random.choice(KINDS)
            payload = b'{"n":%d}' % number
            buffer.append(
                random.choice(DEVICES),
                kind,
                payload,
                received_at_ms=Clock().now_ms(),
                receipt=f"{number} {int(kind)}\n",
            )
            number += 1
        await database.run(lambda _: None)
        await until(lambda: buffer.backlog().waiting < AHEAD)
    await client.aclose()


def _note(notes: int, numbers: list[str]) -> None:
    os.write(notes, "".join(numbers).encode())


if __name__ == "__main__":
    descriptor = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    asyncio.run(work(Path(sys.argv[1]), descriptor, sys.argv[3], int(sys.argv[4])))
