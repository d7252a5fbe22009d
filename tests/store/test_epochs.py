"""Several epochs in one file, and messages that wait again because Odoo has forgotten them."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest

from appliance.contract.odoo import Kind
from appliance.errors import StoreUnavailableError
from appliance.store import outgoing, unstored
from appliance.store.buffer import EpochStand, Rejection, Resent
from appliance.store.epochs import MOST_EPOCHS
from tests.store.conftest import OpenStore
from tests.store.support import NOW_MS, ManualClock, Store, assert_adds_up

DAY_S = 86_400.0


async def seqs(store: Store, **options: int) -> list[int]:
    return [message.seq for message in (await store.buffer.take(**options)).messages]


async def settle_all(store: Store) -> None:
    await store.buffer.settle(await seqs(store, limit=1_000_000))


# --- several epochs -------------------------------------------------------------------------------------------


async def test_a_file_begins_with_one_epoch_from_its_first_message_on(store: Store) -> None:
    (stand,) = store.buffer.epochs()
    assert stand == EpochStand(store.database.epoch, first_seq=1, last_seq=0, floor=1, settled=0, stored=0, below=0)
    await store.add(*range(5))
    await store.buffer.settle([1, 2, 4], [Rejection(3, "invalid", "no")])
    (stand,) = store.buffer.epochs()
    assert stand == EpochStand(store.database.epoch, first_seq=1, last_seq=5, floor=5, settled=4, stored=3, below=3)
    await store.add(6)
    assert store.buffer.epochs()[0].last_seq == 6


async def test_what_odoo_has_not_confirmed_gets_the_new_epoch_and_what_it_has_keeps_its_own(store: Store) -> None:
    await store.add(*range(10))
    await store.buffer.settle([1, 2, 6, 7])
    old = store.database.epoch
    new = await store.buffer.renew_epoch(5)
    assert new == store.database.epoch != old
    taken = []
    while not taken or taken[-1].messages:
        taken.append(await store.buffer.take(after=taken[-1].reached if taken else 0))
    assert [(batch.epoch, [message.seq for message in batch.messages]) for batch in taken] == [
        (old, [3, 4]),
        (new, [5, 8, 9, 10]),
        (new, []),
    ]
    assert [(batch.floor, batch.settled) for batch in taken[:2]] == [(3, 7), (5, 0)]
    assert store.buffer.epochs() == [EpochStand(new, 5, 10, 5, 0, 0, 0), EpochStand(old, 1, 7, 3, 7, 4, 2)]
    await store.buffer.settle([3, 4, 5, 8])
    assert store.buffer.epochs() == [EpochStand(new, 5, 10, 9, 8, 2, 2), EpochStand(old, 1, 7, 8, 7, 6, 6)]


async def test_what_odoo_has_is_counted_below_the_floor_of_each_epoch(open_again: OpenStore) -> None:
    store = await open_again()
    await store.add(*range(12))
    await store.buffer.settle([1, 2, 4, 7, 9], [Rejection(seq, "invalid", "no") for seq in (5, 6, 10)])
    assert ((await store.buffer.take()).floor, (await store.buffer.take()).below) == (3, 2)
    assert [(stand.floor, stand.below) for stand in store.buffer.epochs()] == [(3, 2)]
    await store.close()
    store = await open_again()
    assert [(stand.floor, stand.below) for stand in store.buffer.epochs()] == [(3, 2)]
    await store.buffer.renew_epoch(3)
    before = [(stand.floor, stand.below) for stand in store.buffer.epochs()]
    assert before == [(3, 0), (11, 5)]
    await store.close()
    store = await open_again()
    assert [(stand.floor, stand.below) for stand in store.buffer.epochs()] == before


async def test_a_batch_ends_where_another_epoch_begins(store: Store) -> None:
    await store.add(*range(6))
    await store.buffer.settle([3])
    first = store.database.epoch
    second = await store.buffer.renew_epoch(5)
    batch = await store.buffer.take()
    assert (batch.epoch, [message.seq for message in batch.messages], batch.reached) == (first, [1, 2, 4], 4)
    batch = await store.buffer.take(after=batch.reached)
    assert (batch.epoch, [message.seq for message in batch.messages]) == (second, [5, 6])


async def test_epochs_outlive_a_restart(open_again: OpenStore) -> None:
    store = await open_again()
    await store.add(*range(4))
    await store.buffer.settle([1, 2])
    await store.buffer.renew_epoch(4)
    before = store.buffer.epochs()
    await store.close()
    store = await open_again()
    assert store.buffer.epochs() == before
    assert store.database.epoch == before[0].epoch
    assert len(before) == 2


async def test_a_new_epoch_may_begin_with_the_next_message(store: Store) -> None:
    await store.add(1, 2)
    old, new = store.database.epoch, await store.buffer.renew_epoch(99)
    assert store.buffer.epochs() == [EpochStand(new, 3, 2, 3, 0, 0, 0), EpochStand(old, 1, 2, 1, 0, 0, 0)]
    await store.add(3)
    assert (await store.buffer.take(after=2)).epoch == new
    assert (await store.buffer.take()).epoch == old


async def test_an_epoch_of_which_nothing_is_kept_is_forgotten(open_again: OpenStore, clock: ManualClock) -> None:
    store = await open_again(keep_settled_s=10)
    await store.add(*range(5))
    await store.buffer.renew_epoch(6)
    await store.add(6)
    await settle_all(store)
    await settle_all(store)
    assert len(store.buffer.epochs()) == 2
    for _ in range(4):
        clock.forward(11)
        await store.settled_down()
    assert [stand.first_seq for stand in store.buffer.epochs()] == [6]
    assert await store.query("SELECT count(*) FROM epochs") == [(1,)]
    # what it was called is not known any more: nothing can be done for it, and nothing happens to the others
    assert await store.buffer.resend("00000000-0000-4000-8000-000000000000", 1) == Resent(0, 0)
    await store.buffer.settle([1, 2])
    assert store.buffer.epochs()[0].stored == 1


async def test_there_are_no_more_epochs_than_a_report_can_name(store: Store) -> None:
    await store.add(1)
    for number in range(2, MOST_EPOCHS + 1):
        await store.buffer.renew_epoch(number)
        await store.add(number)
    with pytest.raises(StoreUnavailableError, match="16 epochs"):
        await store.buffer.renew_epoch(99)
    oldest = store.buffer.epochs()[-1].epoch
    await store.buffer.settle([1])
    await store.buffer.renew_epoch(99)
    stands = store.buffer.epochs()
    assert len(stands) == MOST_EPOCHS
    assert oldest not in {stand.epoch for stand in stands}
    assert await store.buffer.resend(oldest, 1) == Resent(0, 0)
    assert len(await store.query("SELECT * FROM epoch_parts")) == MOST_EPOCHS + 1


async def test_a_renewal_waits_until_nothing_is_on_its_way(store: Store) -> None:
    await store.add(1)
    async with store.buffer.in_flight:
        renewal = store.database._loop.create_task(store.buffer.renew_epoch(1))
        batch = await store.buffer.take()
        await store.buffer.settle([1])
        assert not renewal.done()
    await renewal
    assert batch.epoch == store.buffer.epochs()[1].epoch


# --- sending again --------------------------------------------------------------------------------------------


async def test_what_odoo_forgot_waits_again_and_what_was_parked_does_not(store: Store) -> None:
    await store.add(*range(10))
    await store.buffer.settle([1, 2, 3, 5, 7, 8], [Rejection(4, "invalid", "no"), Rejection(6, "invalid", "no")])
    assert await store.buffer.resend(store.database.epoch, 3) == Resent(rows=4, missing=0)
    batch = await store.buffer.take()
    assert [message.seq for message in batch.messages] == [3, 5, 7, 8, 9, 10]
    assert (batch.floor, batch.settled) == (3, 2)
    (line,) = await store.buffer.ledger()
    assert (line.received, line.stored, line.waiting, line.parked) == (10, 2, 6, 2)
    await assert_adds_up(store)


async def test_settled_is_lowered_to_what_odoo_must_still_have(store: Store) -> None:
    """A number that was parked, or that still waits, left no receipt: an Odoo told of it would answer behind again."""
    await store.add(*range(8))
    await store.buffer.settle([1, 2, 6, 7, 8], [Rejection(4, "invalid", "no"), Rejection(5, "invalid", "no")])
    await store.buffer.resend(store.database.epoch, 6)
    assert (await store.buffer.take()).settled == 2
    await store.buffer.resend(store.database.epoch, 1)
    assert (await store.buffer.take()).settled == 0


async def test_sending_again_twice_changes_nothing_more(store: Store) -> None:
    await store.add(*range(5))
    await store.buffer.settle([1, 2, 3])
    await store.buffer.resend(store.database.epoch, 1)
    stands = store.buffer.epochs()
    assert await store.buffer.resend(store.database.epoch, 1) == Resent(0, 0)
    assert store.buffer.epochs() == stands
    await assert_adds_up(store)


async def test_other_kinds_wait_again_in_their_own_lane(store: Store) -> None:
    store.buffer.append("press-07", Kind.COMMAND_STATE, b"{}", received_at_ms=NOW_MS)
    await store.add(2)
    await store.buffer.settle([1, 2])
    assert store.buffer.backlog().last_ordered_seq == 0
    await store.buffer.resend(store.database.epoch, 1)
    assert [message.seq for message in (await store.buffer.take_ordered()).messages] == [1]
    assert store.buffer.backlog().last_ordered_seq == 1


async def test_only_the_named_epoch_is_sent_again(store: Store) -> None:
    await store.add(*range(4))
    old = store.database.epoch
    await settle_all(store)
    new = await store.buffer.renew_epoch(5)
    await store.add(5, 6)
    await settle_all(store)
    assert await store.buffer.resend(old, 2) == Resent(3, 0)
    assert store.buffer.epochs() == [EpochStand(new, 5, 6, 7, 6, 2, 2), EpochStand(old, 1, 4, 2, 1, 1, 1)]


async def test_what_is_not_kept_any_more_is_told_once(open_again: OpenStore, clock: ManualClock) -> None:
    store = await open_again(keep_settled_s=10)
    await store.add(*range(10))
    await store.buffer.settle([1, 2, 3, 5, 6], [Rejection(4, "invalid", "no")])
    for _ in range(3):
        clock.forward(11)
        await store.settled_down()
    assert await store.query("SELECT min(seq) FROM messages") == [(7,)]
    await store.buffer.settle([7, 8])
    assert await store.buffer.resend(store.database.epoch, 3) == Resent(rows=2, missing=3)
    assert store.buffer.epochs()[0].stored == 2
    # an Odoo restored from the same backup once more has lost nothing more of them
    await store.buffer.settle([7, 8])
    assert await store.buffer.resend(store.database.epoch, 3) == Resent(rows=2, missing=0)
    assert store.buffer.epochs()[0].stored == 2
    await assert_adds_up(store)


async def test_what_waits_again_is_not_removed_though_its_time_had_come(
    open_again: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "UNSETTLED_ROWS", 20)
    store = await open_again(keep_settled_s=10, keep_settled_bytes=0)
    with monkeypatch.context() as removing:
        removing.setattr(store.buffer._history, "remove_chunk", lambda connection: None)
        await store.add(*range(100))
        await settle_all(store)
        clock.forward(60)
        await store.settled_down()
        assert store.buffer._history.up_to == 100  # all of them were to go with the next chunk
        assert await store.buffer.resend(store.database.epoch, 41) == Resent(60, 0)
    await store.settled_down()  # removes what is planned, and plans nothing new
    for _ in range(5):
        clock.forward(60)
        await store.settled_down()
    assert await seqs(store) == list(range(41, 101))
    assert await store.query("SELECT count(*) FROM settled_marks WHERE up_to > 40") == [(0,)]


async def test_sending_much_again_is_done_in_many_short_jobs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "UNSETTLED_ROWS", 100)
    steps: list[int] = []
    resend = outgoing.Outgoing.resend

    def watched(self: outgoing.Outgoing, *arguments: object) -> tuple[int, int | None]:
        rows, go_on = resend(self, *arguments)  # type: ignore[arg-type]
        steps.append(rows)
        return rows, go_on

    monkeypatch.setattr(outgoing.Outgoing, "resend", watched)
    await store.add(*range(1000))
    await store.buffer.settle(range(1, 1001), [Rejection(seq, "invalid", "no") for seq in range(500, 600, 2)])
    assert await store.buffer.resend(store.database.epoch, 1) == Resent(950, 0)
    assert max(steps) <= 100
    assert 10 <= len(steps) < 30
    await assert_adds_up(store)


async def test_a_resend_that_was_broken_off_is_right_as_far_as_it_went(
    open_again: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "UNSETTLED_ROWS", 10)
    store = await open_again()
    await store.add(*range(50))
    await settle_all(store)
    epoch = store.database.epoch
    await store.database.run(lambda connection: store.buffer._resend(connection, epoch=epoch, from_seq=1, begin=True))
    await store.close()
    store = await open_again()
    await assert_adds_up(store)
    assert store.buffer.epochs()[0].stored == 40
    assert await store.buffer.resend(epoch, 1) == Resent(40, 0)
    assert await seqs(store) == list(range(1, 51))


async def test_the_list_of_what_odoo_does_not_have_is_bounded(
    open_again: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unstored, "MOST_KEPT", 20)
    monkeypatch.setattr(unstored, "DROPPED_AT_A_TIME", 5)
    store = await open_again(keep_settled_s=10)
    for _ in range(10):
        last = store.buffer.backlog().last_seq
        await store.add(*range(10))
        refused = range(last + 1, last + 11, 2)
        await store.buffer.settle(range(last + 2, last + 11, 2), [Rejection(seq, "invalid", "no") for seq in refused])
        for _ in range(3):
            clock.forward(11)
            await store.settled_down()
    assert (await store.query("SELECT count(*) FROM unstored"))[0][0] < 20 + 5
    assert await store.query("SELECT value FROM meta WHERE key = 'unstored'") == await store.query(
        "SELECT count(*) FROM unstored"
    )


# --- everything together --------------------------------------------------------------------------------------


@dataclass
class Odoo:
    """Receipts as the contract has them; can be set back to a backup."""

    receipts: set[tuple[str, int]] = field(default_factory=set)
    floors: Counter[str] = field(default_factory=Counter)
    highest: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    """By the number of the reading, which is its payload."""
    stored: Counter[str] = field(default_factory=Counter)

    def take(self, batch: outgoing.Batch, part: list[int]) -> None:
        assert batch.settled <= self.highest[batch.epoch], "behind"
        self.floors[batch.epoch] = max(self.floors[batch.epoch], batch.floor)
        for message in batch.messages:
            key = (batch.epoch, message.seq)
            if message.seq not in part:
                continue
            self.highest[batch.epoch] = max(self.highest[batch.epoch], message.seq)
            if message.seq >= self.floors[batch.epoch] and key not in self.receipts:
                self.receipts.add(key)
                self.effects[message.payload.decode()] += 1
                self.stored[batch.epoch] += 1
        self.receipts = {key for key in self.receipts if key[1] >= self.floors[key[0]]}


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_odoo_forgets_each_message_is_there_once_and_every_report_is_true(
    open_again: OpenStore, clock: ManualClock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    monkeypatch.setattr(outgoing, "UNSETTLED_ROWS", 15)
    store = await open_again()
    odoo, backup, refused, total = Odoo(), Odoo(), set[int](), 0
    for _ in range(120):
        what = random.random()
        if what < 0.35:
            for _ in range(random.randrange(1, 12)):
                total += 1
                kind = random.choice((Kind.TELEMETRY, Kind.TELEMETRY, Kind.PRESENCE))
                device = random.choice(("a", "b"))
                store.buffer.append(device, kind, b'{"n":%d}' % total, received_at_ms=NOW_MS)
            await store.settled_down()
        elif what < 0.8:
            take = store.buffer.take_ordered if random.random() < 0.3 else store.buffer.take
            batch = await take(after=random.randrange(total + 1) if random.random() < 0.5 else 0, limit=20)
            part = [message.seq for message in batch.messages if random.random() < 0.8]
            parked = [seq for seq in part if seq % 11 == 3]
            assert not refused & {message.seq for message in batch.messages}
            odoo.take(batch, [seq for seq in part if seq not in parked])
            if random.random() < 0.9:  # otherwise the answer is lost
                refused |= set(parked)
                done = [seq for seq in part if seq not in parked]
                await store.buffer.settle(done, [Rejection(seq, "invalid", "no") for seq in parked])
        elif what < 0.86:
            backup = copy.deepcopy(odoo)
        elif what < 0.93:
            odoo = copy.deepcopy(backup)
            for stand in store.buffer.epochs():
                await store.buffer.resend(stand.epoch, odoo.floors[stand.epoch])
        elif what < 0.97:
            # nothing of it is on its way: what Odoo has without our knowing would be there twice
            known = [key[1] for key in odoo.receipts]
            await store.buffer.renew_epoch(max([*known, *odoo.highest.values(), 0]) + 1)
        else:
            await store.close()
            store = await open_again()
        await assert_adds_up(store)
        for stand in store.buffer.epochs():
            assert stand.settled <= odoo.highest[stand.epoch]
            assert stand.stored <= odoo.stored[stand.epoch]
            assert stand.floor > stand.last_seq or stand.first_seq <= stand.floor
    while store.buffer.backlog().waiting:
        batch = await store.buffer.take()
        refused |= {message.seq for message in batch.messages if message.seq % 11 == 3}
        done = [message.seq for message in batch.messages if message.seq not in refused]
        odoo.take(batch, done)
        await store.buffer.settle(done, [Rejection(seq, "invalid", "no") for seq in refused])
    assert odoo.effects == Counter(f'{{"n":{number}}}' for number in range(1, total + 1) if number not in refused)
    assert {stand.epoch: stand.stored for stand in store.buffer.epochs()} == {
        stand.epoch: odoo.stored[stand.epoch] for stand in store.buffer.epochs()
    }
