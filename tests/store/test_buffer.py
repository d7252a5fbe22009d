"""Messages wait in order until Odoo has settled them; each is counted, and a damaged one does not stop the rest."""

from __future__ import annotations

import asyncio
import sqlite3
from random import Random

import pytest

from appliance.contract.odoo import Kind
from appliance.errors import StoreFormatError, StoreUnavailableError
from appliance.store.buffer import Rejection, add_message
from appliance.store.parked import park
from tests.store.conftest import OpenStore
from tests.store.support import NOW_MS, ManualClock, Store, assert_adds_up, number_of

DEVICES = ("press-07", "press-08", "mixer-1")


async def seqs(store: Store, **options: int) -> list[int]:
    return [message.seq for message in (await store.buffer.take(**options)).messages]


async def parked(store: Store) -> list[tuple[int, str, str, bytes]]:
    return await store.query("SELECT seq, device, code, payload FROM parked ORDER BY id")  # type: ignore[return-value]


# --- taking ---------------------------------------------------------------------------------------------------


async def test_a_message_is_taken_as_it_was_given(store: Store) -> None:
    payload = ' { "t": 1.50, "ü": [] } '.encode()
    store.buffer.append("press-07", Kind.OTA_STATUS, payload, received_at_ms=NOW_MS, at_ms=NOW_MS - 9, flags=3)
    batch = await store.buffer.take()
    (message,) = batch.messages
    assert (message.seq, message.device, message.kind) == (1, "press-07", Kind.OTA_STATUS)
    assert (message.at_ms, message.received_at_ms, message.flags) == (NOW_MS - 9, NOW_MS, 3)
    assert message.payload == payload
    assert batch.epoch == store.database.epoch


async def test_messages_are_taken_in_order_from_where_the_caller_is(store: Store) -> None:
    await store.add(*range(10))
    assert await seqs(store, limit=3) == [1, 2, 3]
    assert await seqs(store, after=3, limit=3) == [4, 5, 6]
    assert await seqs(store, after=9, limit=3) == [10]
    assert await seqs(store, after=10) == []


async def test_a_batch_is_bounded_by_bytes_but_never_empty(store: Store) -> None:
    for size in (10_000, 100, 100, 10_000):
        store.buffer.append("press-07", Kind.TELEMETRY, b"1" * size, received_at_ms=NOW_MS)
    assert await seqs(store, max_bytes=5_000) == [1]
    assert await seqs(store, max_bytes=5_000, after=1) == [2, 3]
    assert await seqs(store, max_bytes=1, after=1) == [2]
    assert await seqs(store, max_bytes=1, after=3) == [4]


async def test_what_is_settled_in_between_is_skipped(store: Store) -> None:
    await store.add(*range(10))
    await store.buffer.settle([2, 3, 7])
    assert await seqs(store) == [1, 4, 5, 6, 8, 9, 10]
    assert await seqs(store, after=1, limit=4) == [4, 5, 6, 8]


async def test_a_message_of_a_job_is_taken_in_its_place(store: Store) -> None:
    def job(connection: sqlite3.Connection) -> int:
        return add_message(
            connection, device="press-07", kind=Kind.COMMAND_STATE, payload=b'{"n":2}', received_at_ms=NOW_MS
        )

    await store.add(1)
    assert await store.database.run(job) == 2
    await store.add(3)
    assert await store.numbers() == [1, 2, 3]
    await assert_adds_up(store)


async def test_waiting_for_messages_ends_with_the_first_beyond_the_given_number(store: Store) -> None:
    await store.add(1, 2)
    await asyncio.wait_for(store.buffer.wait_for_messages(1), 20)
    waiting = asyncio.ensure_future(store.buffer.wait_for_messages(3))
    await store.add(3)
    assert not waiting.done()
    await store.add(4)
    await asyncio.wait_for(waiting, 20)
    assert await seqs(store, after=3) == [4]


async def test_no_wake_up_is_missed_however_fast_messages_come(store: Store) -> None:
    async def follow() -> None:
        for number in range(500):
            await store.buffer.wait_for_messages(number)

    following = asyncio.ensure_future(follow())
    for number in range(500):
        store.append(number)
        if number % 3:
            await asyncio.sleep(0)
    await asyncio.wait_for(following, 20)


# --- settling -------------------------------------------------------------------------------------------------


async def test_floor_and_confirmed_follow_the_contract(store: Store) -> None:
    """Contract, "Exactly once": the lowest number that may still be sent, the highest that Odoo has confirmed."""

    async def told() -> tuple[int, int]:
        batch = await store.buffer.take(limit=1)
        return batch.floor, batch.settled

    assert await told() == (1, 0)
    await store.add(*range(10))
    assert await told() == (1, 0)
    await store.buffer.settle([4, 5])
    assert await told() == (1, 5)
    await store.buffer.settle([1, 2, 3])
    assert await told() == (6, 5)
    await store.buffer.settle([], [Rejection(6, "invalid", "no")])
    assert await told() == (7, 5)  # Odoo keeps no receipt of what it rejected
    await store.buffer.settle([8], [Rejection(10, "invalid", "no")])
    assert await told() == (7, 8)
    await store.buffer.settle([7, 9])
    assert await told() == (11, 9)


async def test_floor_and_confirmed_outlive_a_restart(open_again: OpenStore) -> None:
    store = await open_again()
    await store.add(*range(5))
    await store.buffer.settle([1, 2, 4])
    await store.close()
    batch = await (await open_again()).buffer.take()
    assert (batch.floor, batch.settled, [message.seq for message in batch.messages]) == (3, 4, [3, 5])


async def test_settling_twice_counts_once(store: Store) -> None:
    await store.add(*range(5))
    await store.buffer.settle([1, 2])
    await store.buffer.settle([2, 3, 3], [Rejection(1, "late", "no"), Rejection(4, "invalid", "no")])
    await store.buffer.settle([4], [Rejection(4, "invalid", "again")])
    assert [(seq, code) for seq, _, code, _ in await parked(store)] == [(4, "invalid")]
    (line,) = await store.buffer.ledger()
    assert (line.received, line.stored, line.parked, line.waiting) == (5, 3, 1, 1)
    await assert_adds_up(store)


async def test_numbers_that_were_never_given_settle_nothing(store: Store) -> None:
    await store.add(1, 2)
    await store.buffer.settle([0, -3, 3, 99], [Rejection(-1, "x", "x"), Rejection(7, "x", "x"), Rejection(0, "x", "x")])
    await store.add(3)
    assert await seqs(store) == [1, 2, 3]
    batch = await store.buffer.take()
    assert (batch.floor, batch.settled) == (1, 0)
    await assert_adds_up(store)


async def test_a_rejected_message_is_parked_whole_with_the_reason(store: Store) -> None:
    store.buffer.append("press-08", Kind.TELEMETRY, b'{"t":1}', received_at_ms=5, at_ms=4, flags=1, msg_id="m")
    await store.settled_down()
    await store.buffer.settle([], [Rejection(1, "invalid", "no such field")])
    rows = await store.query(
        "SELECT seq, device, kind, at_ms, received_at_ms, flags, payload, code, message, parked_at_ms FROM parked"
    )
    assert rows == [(1, "press-08", 1, 4, 5, 1, b'{"t":1}', "invalid", "no such field", NOW_MS)]
    assert store.buffer.backlog().parked == 1
    await assert_adds_up(store)


async def test_a_payload_that_never_was_a_message_is_parked_and_counted(store: Store) -> None:
    def job(connection: sqlite3.Connection) -> None:
        for payload in (b"\xff not json", b'{"deep": true}'):
            park(
                connection,
                device="press-07",
                kind=Kind.TELEMETRY,
                payload=payload,
                code="not_json",
                message="no",
                received_at_ms=NOW_MS,
            )

    await store.database.run(job)
    assert [payload for *_, payload in await parked(store)] == [b'{"base64":"/yBub3QganNvbg=="}', b'{"deep": true}']
    (line,) = await store.buffer.ledger()
    assert (line.received, line.parked, line.waiting) == (2, 2, 0)
    await assert_adds_up(store)


async def test_numbers_go_on_after_everything_was_drained_and_removed(
    open_again: OpenStore, clock: ManualClock
) -> None:
    store = await open_again(keep_settled_s=0)
    await store.add(*range(20))
    await store.buffer.settle(range(1, 21))
    clock.forward(2)
    await store.settled_down()
    assert await store.query("SELECT count(*) FROM messages") == [(0,)]
    await store.close()
    store = await open_again(keep_settled_s=0)
    assert (await store.buffer.take()).floor == 21
    await store.add(20)
    assert await seqs(store) == [21]


@pytest.mark.parametrize("seed", range(5))
async def test_lanes_may_settle_in_any_order_and_the_ledger_adds_up_at_every_step(
    open_again: OpenStore, clock: ManualClock, seed: int
) -> None:
    random = Random(seed)
    store = await open_again(keep_settled_s=random.choice((0, 5, 1000)))
    open_seqs: set[int] = set()
    for turn in range(60):
        for _ in range(random.randrange(8)):
            kind = random.choice((Kind.TELEMETRY, Kind.TELEMETRY, Kind.PRESENCE))
            store.buffer.append(random.choice(DEVICES), kind, b'{"n":1}', received_at_ms=NOW_MS)
        await store.settled_down()
        open_seqs |= set(await seqs(store, after=max(open_seqs, default=0)))
        some = random.sample(sorted(open_seqs), random.randrange(len(open_seqs) + 1))
        half = len(some) // 2 if random.random() < 0.3 else len(some)
        await store.buffer.settle(some[:half], [Rejection(seq, "invalid", "no") for seq in some[half:]])
        open_seqs -= set(some)
        clock.forward(random.choice((0, 0.5, 3)))
        assert await seqs(store, limit=10_000) == sorted(open_seqs)
        await assert_adds_up(store)
        if turn % 20 == 19:
            await store.close()
            store = await open_again(keep_settled_s=5)


# --- counting -------------------------------------------------------------------------------------------------


async def test_what_waits_is_counted_on_after_a_restart(open_again: OpenStore) -> None:
    store = await open_again()
    await store.add(*range(10))
    await store.buffer.settle(range(1, 6))
    await store.add(10, 11)
    await store.close()

    store = await open_again()

    assert store.buffer.backlog().waiting == 7
    await store.add(12)
    assert store.buffer.backlog().waiting == 8
    await assert_adds_up(store)


async def test_the_backlog_tells_what_waits_since_when(store: Store) -> None:
    empty = store.buffer.backlog()
    assert (empty.waiting, empty.oldest_received_at_ms, empty.last_seq, empty.settled_up_to) == (0, None, 0, 0)
    await store.add(1, received_at_ms=100)
    await store.add(2, 3, received_at_ms=200)
    assert store.buffer.backlog().oldest_received_at_ms == 100
    await store.buffer.settle([1, 3])
    later = store.buffer.backlog()
    assert (later.waiting, later.oldest_received_at_ms, later.last_seq, later.settled_up_to) == (1, 200, 3, 1)
    await store.buffer.settle([2])
    assert store.buffer.backlog().oldest_received_at_ms is None


async def test_the_backlog_is_that_of_one_commit_and_never_of_half_a_one(store: Store) -> None:
    """Waiting counts only what is committed, also while the writer is in the middle of a group."""
    seen: list[tuple[int, int]] = []

    def look(connection: sqlite3.Connection) -> None:
        backlog = store.buffer.backlog()
        seen.append((backlog.waiting, backlog.last_seq))

    for number in range(50):
        store.append(number)
        await store.database.run(look)
    assert seen == [(number, number) for number in range(50)]


async def test_the_ledger_of_one_device_is_its_own(store: Store) -> None:
    await store.add(1, 2, device="a")
    await store.add(3, device="b")
    store.buffer.append("a", Kind.PRESENCE, b"{}", received_at_ms=NOW_MS)
    (line,) = await store.buffer.ledger("a")
    assert (line.device, line.received, line.waiting) == ("a", 2, 2)
    assert [line.device for line in await store.buffer.ledger()] == ["a", "b"]
    assert await store.buffer.ledger("c") == []


# --- damage ---------------------------------------------------------------------------------------------------

DAMAGES = {
    "a letter of the device": "device = 'press-17'",
    "a letter of the device that is no text any more": "device = CAST(x'70726573732d30b7' AS TEXT)",
    "the kind": "kind = 3",
    "a kind that does not exist": "kind = 77",
}
BEYOND_REPAIR = {
    "a bit of the payload": """payload = '{"n":3}'""",
    "a bit of the device's time": "at_ms = coalesce(at_ms, 0) + 4096",
    "a bit of the gateway's time": "received_at_ms = received_at_ms + 1",
    "a bit of the flags": "flags = flags + 64",
    "a bit of the checksum": "crc = crc + 1",
}


def damage(connection: sqlite3.Connection, change: str, seq: int) -> None:
    change = change.replace("payload = '", "payload = CAST('").replace("}'", "}' AS BLOB)")
    assert connection.execute(f"UPDATE messages SET {change} WHERE seq = {seq}").rowcount == 1


@pytest.mark.parametrize("what", BEYOND_REPAIR)
async def test_a_damaged_message_is_parked_and_those_behind_it_are_sent(store: Store, what: str) -> None:
    await store.add(1, 2, 4)
    await store.database.run(lambda connection: damage(connection, BEYOND_REPAIR[what], 2))
    assert await seqs(store) == [1, 3]
    assert [(seq, device, code) for seq, device, code, _ in await parked(store)] == [(2, "press-07", "damaged")]
    await store.buffer.settle([1, 3])
    assert (await store.buffer.take()).floor == 4
    await assert_adds_up(store)


@pytest.mark.parametrize("what", DAMAGES)
async def test_a_damaged_name_or_kind_is_found_again_by_the_checksum(store: Store, what: str) -> None:
    await store.add(1, device="press-08")
    await store.add(2)
    await store.database.run(lambda connection: damage(connection, DAMAGES[what], 2))
    batch = await store.buffer.take()
    assert [(message.device, message.kind, message.payload) for message in batch.messages] == [
        ("press-08", Kind.TELEMETRY, b'{"n":1}'),
        ("press-07", Kind.TELEMETRY, b'{"n":2}'),
    ]
    await store.buffer.settle([1, 2])
    assert await parked(store) == []
    await assert_adds_up(store)


async def test_a_message_of_a_kind_that_this_version_does_not_know_is_parked(store: Store) -> None:
    store.buffer.append("press-07", 77, b'{"n":1}', received_at_ms=NOW_MS)
    await store.add(2)
    assert await seqs(store) == [2]
    assert [(seq, code) for seq, _, code, _ in await parked(store)] == [(1, "unknown_kind")]
    await assert_adds_up(store)


async def test_messages_that_are_gone_from_the_file_do_not_hold_the_floor_for_ever(store: Store) -> None:
    await store.add(*range(10))
    await store.query("DELETE FROM messages WHERE seq IN (1, 4, 5, 10)")
    assert await seqs(store) == [2, 3, 6, 7, 8, 9]
    assert [(seq, device, code) for seq, device, code, _ in await parked(store)] == [
        (1, "?", "vanished"),
        (4, "?", "vanished"),
        (10, "?", "vanished"),
    ]
    await store.buffer.settle([2, 3, 6, 7, 8, 9])
    assert (await store.buffer.take()).floor == 11
    assert store.buffer.backlog().waiting == 0
    assert sum(line.waiting for line in await store.buffer.ledger()) == 0


async def test_a_message_under_a_wrong_number_is_not_sent_under_it(store: Store) -> None:
    await store.add(1, 2, 3)
    await store.query("UPDATE messages SET seq = 20 WHERE seq = 3")
    await store.query("UPDATE messages SET seq = 3 WHERE seq = 2")
    assert await seqs(store) == [1]
    assert [(seq, code) for seq, _, code, _ in await parked(store)] == [(2, "vanished"), (3, "damaged")]


async def test_more_damaged_messages_than_a_batch_holds_hide_none_behind_them(store: Store) -> None:
    await store.add(*range(50))
    await store.query("UPDATE messages SET crc = 0 WHERE seq <= 45")
    assert await seqs(store, limit=10) == [46, 47, 48, 49, 50]
    assert store.buffer.backlog().parked == 45
    await assert_adds_up(store)


async def test_a_damaged_name_does_not_keep_the_file_from_being_opened(open_again: OpenStore) -> None:
    store = await open_again()
    await store.add(*range(5))
    await store.close()
    closed = sqlite3.connect(store.database.path)
    with closed:
        closed.execute("UPDATE messages SET device = CAST(x'ff' AS TEXT) WHERE seq = 3")
        # as after a crash: the ledger has yet to count them
        closed.execute("UPDATE meta SET value = 0 WHERE key IN ('counted_seq', 'counted_waiting')")
    closed.close()
    store = await open_again()
    assert await store.numbers() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(4))
async def test_no_flipped_bit_in_the_file_makes_a_wrong_message(open_again: OpenStore, seed: int) -> None:
    """Anywhere in the pages of the messages: the rest is sent or the file refused, nothing false is sent."""
    random = Random(seed)
    store = await open_again()
    for number in range(400):
        store.append(number, device=random.choice(DEVICES))
    await store.settled_down()
    await store.close()
    path = store.database.path
    whole = path.read_bytes()
    page = whole.index(b'{"n":200}') // 4096
    for _ in range(15):
        place = random.randrange(page * 4096, (page + 1) * 4096)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << random.randrange(8)]) + whole[place + 1 :])
        try:
            store = await open_again(retry_s=0.01)
            batch = await store.buffer.take(limit=1000)
        except (StoreFormatError, StoreUnavailableError) as error:
            assert "damaged" in str(error)  # noqa: PT017
            continue
        finally:
            await store.close()
        assert all(number_of(message.payload) == message.seq - 1 for message in batch.messages)
        assert store.database.failed.done() is False
        assert len(batch.messages) >= 300
