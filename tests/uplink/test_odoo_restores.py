"""A buffer, and an Odoo that is put back to backups while answers get lost: nothing is missing at the end.

The Odoo is the stand-in's, the buffer is the appliance's; what goes between them is written out here, step by step.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

import pytest

from appliance.contract.sync import KnownEpoch
from appliance.store.parked import Rejection
from appliance.uplink.compare import forgotten_from
from firmware_sim.odoo import StandIn
from firmware_sim.standin.refusal import RefusalError
from tests.store.conftest import OpenStore, Store, clock, open_again, store

__all__ = ["clock", "open_again", "store"]

GATEWAY = "g"
START = "5f0c8e3e-0000-4000-8000-000000000001"


class Pair:
    """A buffer and its Odoo."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stand_in = StandIn(api_key="k" * 20)
        self.stand_in.registry.create({"device_id": "press-07"})
        self.parks: set[int] = set()
        """What this Odoo rejects."""
        self._copies: list[sqlite3.Connection] = []

    def close(self) -> None:
        for connection in (self.stand_in.state, *self._copies):
            connection.close()

    def backup(self) -> sqlite3.Connection:
        copy = sqlite3.connect(":memory:")
        self._copies.append(copy)
        self.stand_in.state.connection.backup(copy)
        return copy

    def restore(self, copy: sqlite3.Connection) -> None:
        copy.backup(self.stand_in.state.connection)

    async def send(self, seqs: Sequence[int], *, lost: bool = False) -> None:
        """One batch of these, as far as they wait; ``RefusalError`` when Odoo refuses it."""
        batch = await self.store.buffer.take(limit=10_000)
        messages = [message for message in batch.messages if message.seq in seqs]
        at = "2026-11-22T10:00:00.000Z"
        body: dict[str, Any] = {
            "contract": 1,
            "gateway": GATEWAY,
            "epoch": batch.epoch,
            "floor": batch.floor,
            "settled": batch.settled,
            "stored": batch.stored,
            "below": batch.below,
            "messages": [
                {
                    "seq": message.seq,
                    "device": "nobody" if message.seq in self.parks else "press-07",
                    "kind": "telemetry",
                    "at": at,
                    "payload": message.seq,
                }
                for message in messages
            ],
        }
        results = self.stand_in.inbox.accept_batch(body)
        if lost:
            return
        done = [result["seq"] for result in results if result["status"] in ("stored", "duplicate")]
        parked = [Rejection(result["seq"], "no", "no") for result in results if result["status"] == "rejected"]
        await self.store.buffer.settle(done, parked)

    async def sync(self) -> bool:
        """Whether Odoo had forgotten something; it waits again then."""
        reports = self.store.buffer.epochs()
        names = ("epoch", "first_seq", "last_seq", "floor", "settled", "stored", "below")
        answer = self.stand_in.gateways.sync(
            {
                "gateway": GATEWAY,
                "name": "n",
                "version": "1",
                "time": "t",
                "uptime_s": 1.0,
                "start": START,
                "starts": [{"start": START, "first_seq": 1}],
                "epochs": [{name: getattr(report, name) for name in names} for report in reports],
            }
        )
        known = {each["epoch"]: KnownEpoch.model_validate(each) for each in answer["known"]}
        forgotten = False
        for report in reports:
            told = known.get(report.epoch)
            from_seq = forgotten_from(told, report)
            if from_seq is not None:
                forgotten = True
                await self.store.buffer.resend(report.epoch, from_seq, below=told.below if told else None)
        return forgotten

    async def drain(self) -> None:
        """All that waits, with a sync whenever Odoo refuses; it must not refuse for ever."""
        for _ in range(4):
            try:
                await self.send(range(1, 10_000))
                await self.send([])
            except RefusalError:
                assert await self.sync(), "Odoo refuses batches, and sync does not say why"
            else:
                return
        pytest.fail("Odoo is behind whatever it is sent")

    def effects(self) -> Counter[int]:
        return Counter(int(row[0]) for row in self.stand_in.state.rows("SELECT payload FROM effects"))


@pytest.fixture
async def pair(store: Store) -> AsyncIterator[Pair]:
    one = Pair(store)
    yield one
    one.close()


async def test_what_odoo_has_though_the_answer_was_lost_does_not_make_up_for_what_it_lost(pair: Pair) -> None:
    await pair.store.add(*range(10))
    await pair.sync()
    await pair.send([6, 7, 8, 9, 10], lost=True)
    backup = pair.backup()
    await pair.send([1, 2, 3, 4, 5])
    pair.restore(backup)
    await pair.drain()
    assert pair.effects() == Counter(range(1, 11))
    assert (pair.store.buffer.epochs()[0].stored, pair.store.buffer.epochs()[0].below) == (10, 10)


async def test_sync_alone_shows_the_same(pair: Pair) -> None:
    await pair.store.add(*range(10))
    await pair.sync()
    await pair.send([6, 7, 8, 9, 10], lost=True)
    backup = pair.backup()
    await pair.send([1, 2, 3, 4, 5])
    assert not await pair.sync()
    pair.restore(backup)
    assert await pair.sync()
    assert not await pair.sync()


async def test_what_was_parked_above_the_floor_does_not_make_up_for_it_either(pair: Pair) -> None:
    pair.parks = {9, 10, 11, 12}
    await pair.store.add(*range(14))
    await pair.sync()
    await pair.send([9, 10, 11, 12, 13])
    await pair.send([6, 7, 8], lost=True)
    backup = pair.backup()
    await pair.send([1, 2, 3])
    pair.restore(backup)
    await pair.drain()
    assert pair.effects() == Counter({1, 2, 3, 4, 5, 6, 7, 8, 13, 14})


async def test_what_odoo_has_is_not_parked_because_it_would_not_take_it_any_more(pair: Pair) -> None:
    await pair.store.add(1, 2)
    await pair.sync()
    await pair.send([1], lost=True)
    pair.parks = {1}
    await pair.drain()
    assert pair.effects() == Counter({1, 2})
    assert pair.store.buffer.epochs()[0].stored == 2


async def test_a_restored_buffer_that_is_told_duplicate_for_what_its_later_self_had_parked_goes_on(
    open_again: OpenStore,
) -> None:
    """Odoo never had it; counted as stored, it must not look for ever as if Odoo had lost it."""
    store = await open_again()
    pair = Pair(store)
    await store.add(*range(5))
    await pair.sync()
    pair.parks = {3}
    await pair.send([1, 2])
    body = {"contract": 1, "gateway": GATEWAY, "epoch": store.database.epoch, "messages": []}
    # the later self: it parks 3, and has 4 stored; then its disk is put back
    message = {"device": "press-07", "kind": "telemetry", "at": "2026-11-22T10:00:00.000Z", "payload": 4}
    later = {**body, "floor": 3, "settled": 2, "stored": 2, "below": 2, "messages": [{**message, "seq": 4}]}
    pair.stand_in.inbox.accept_batch(later)
    pair.stand_in.inbox.accept_batch({**body, "floor": 5, "settled": 4, "stored": 3, "below": 3})
    await pair.drain()
    assert pair.effects() == Counter({1, 2, 4, 5})
    await store.add(6)
    await pair.drain()
    assert pair.effects() == Counter({1, 2, 4, 5, 6})
    assert store.buffer.epochs()[0].stored == 5
    pair.close()


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_is_lost_parked_and_restored_in_odoo_every_message_is_there_once(
    store: Store, seed: int
) -> None:
    random = Random(seed)
    pair = Pair(store)
    backups = [pair.backup()]
    added = 0
    await pair.sync()
    for _ in range(60):
        what = random.choices(["add", "send", "backup", "restore"], [30, 50, 12, 4])[0]
        if what == "add":
            added += 1
            await store.add(added)
            if random.random() < 0.15:
                pair.parks.add(added)
        elif what == "send":
            low = random.randint(1, added + 1)
            try:
                await pair.send(range(low, low + random.randint(1, 5)), lost=random.random() < 0.3)
            except RefusalError:
                assert await pair.sync()
        elif what == "backup":
            backups.append(pair.backup())
        else:
            pair.restore(random.choice(backups[-3:]))
    await pair.drain()
    assert pair.effects() == Counter(set(range(1, added + 1)) - pair.parks)
    stand = store.buffer.epochs()[0]
    assert stand.stored == stand.below == added - len(pair.parks)
    pair.close()
