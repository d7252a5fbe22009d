"""A gateway's day in a second, run by a child process that is to be killed or to lose its power.

What it was promised it writes down line by line: ``r N`` reading N is acknowledged, ``i N ID`` so it is and has this
message id, ``o SEQ N`` Odoo has reading N under this number, ``s SEQ`` the buffer has confirmed that this is settled.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

from appliance.contract.odoo import Kind
from appliance.errors import StoreUnavailableError
from appliance.store import connection as store_connection
from appliance.store.buffer import Rejection, add_message
from tests.store.support import NOW_MS, Store, number_of, open_store

DEVICES = ("press-07", "press-08", "mixer-1")
KEEP_SETTLED_BYTES = 30_000
NUMBERS_PER_RUN = 1_000_000
DIE_OF_FAILURE = "WORKLOAD_DIES_OF_FAILURE"
T = TypeVar("T")
Note = Callable[[str], None]


async def gateway_day(folder: Path, seed: int, note: Note, *, turns: int, reopen: bool = True) -> None:
    """Take readings, send them to an Odoo made of notes, settle, reopen in the middle."""
    random = Random(seed)
    first = seed * NUMBERS_PER_RUN
    store = await _insist(partial(_open, folder, note))
    for turn in range(turns):
        for _ in range(random.choice((1, 1, 2, 5, 30))):
            first = _append(store, random, first)
        if random.random() < 0.1:
            await _insist(partial(store.database.run, _event))
        if random.random() < 0.2:
            await _send(store, random, note)
        elif random.random() < 0.5:
            await _insist(store.settled_down)
        if reopen and turn == turns // 2:
            await store.close()
            store = await _insist(partial(_open, folder, note))
    await store.close()


async def _open(folder: Path, note: Note) -> Store:
    store = await open_store(folder, keep_settled_s=0.05, keep_settled_bytes=KEEP_SETTLED_BYTES, retry_s=0.01)
    store.database.committed = lambda receipts: note("".join(receipts))
    return store


def _append(store: Store, random: Random, number: int) -> int:
    size = 9000 if random.random() < 0.02 else random.randrange(20, 300)
    msg_id = f"id-{number}" if random.random() < 0.3 else None
    promise = f"r {number}\n" if msg_id is None else f"i {number} {msg_id}\n"
    store.buffer.append(
        random.choice(DEVICES),
        Kind.TELEMETRY,
        payload_of(number, size),
        received_at_ms=NOW_MS,
        msg_id=msg_id,
        receipt=promise,
    )
    return number + 1


def payload_of(number: int, size: int) -> bytes:
    """Valid JSON with the number in front; see :func:`number_in`."""
    return b'{"n":%d}' % number + b" " * size


def number_in(payload: bytes) -> int:
    return number_of(payload.rstrip())


async def _insist(call: Callable[[], Awaitable[T]]) -> T:
    """As the uplink does: until the store can."""
    while True:
        try:
            return await call()
        except StoreUnavailableError:
            if os.environ.get(DIE_OF_FAILURE):
                os._exit(0)
            await asyncio.sleep(0.005)


def _event(connection: object) -> int:
    return add_message(
        connection,  # type: ignore[arg-type]
        device="press-07",
        kind=Kind.GATEWAY_EVENT,
        payload=b'{"n":-1}',
        received_at_ms=NOW_MS,
    )


async def _send(store: Store, random: Random, note: Note) -> None:
    batch = await _insist(partial(store.buffer.take, limit=random.choice((5, 50, 200))))
    messages = [message for message in batch.messages if random.random() < 0.9]
    parked = [Rejection(message.seq, "invalid", "no") for message in messages[:1] if random.random() < 0.2]
    done = messages[len(parked) :]
    note("".join(f"o {message.seq} {number_in(message.payload)}\n" for message in done))
    await _insist(partial(store.buffer.settle, [message.seq for message in done], parked))
    note("".join(f"s {message.seq}\n" for message in messages))


def checkpoint_often(pages: int) -> None:
    """So that a short run sees many checkpoints and restarts of the log."""
    store_connection._PRAGMAS["wal_autocheckpoint"] = pages


def main(folder: str, notes: str, seed: str, turns: str, pages: str) -> None:
    checkpoint_often(int(pages))
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    asyncio.run(gateway_day(Path(folder), int(seed), lambda text: _write(descriptor, text), turns=int(turns)))


def _write(descriptor: int, text: str) -> None:
    if text:
        os.write(descriptor, text.encode())
