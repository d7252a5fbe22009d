"""Parked messages are listed, sent again and removed in small steps; the ledger adds up through all of it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from appliance.contract.odoo import Kind
from appliance.errors import NotRetryableError, UnknownDeadLetterError
from appliance.store import dead_letters, ledger, parked
from appliance.store.buffer import Rejection
from appliance.store.dead_letters import DeadLetter, DeadLetters, Filter
from appliance.store.ledger import LedgerPage, read_page
from appliance.store.messages import Damage
from appliance.store.parked import park, park_damage
from tests.store.support import NOW_MS, ManualClock, Store, assert_adds_up, open_store

OLD_MS = NOW_MS - 3_600_000


@pytest.fixture
def letters(store: Store) -> DeadLetters:
    return DeadLetters(database=store.database, buffer=store.buffer)


async def refuse(store: Store, *numbers: int, code: str = "invalid", **options: object) -> None:
    """Readings that Odoo refuses."""
    before = store.buffer.backlog().last_seq
    await store.add(*numbers, **options)
    seqs = range(before + 1, before + 1 + len(numbers))
    await store.buffer.settle([], [Rejection(seq, code, "no such rule") for seq in seqs])


async def park_garbage(store: Store, payload: bytes = b"not json", device: str = "press-07") -> int:
    return await store.database.run(
        lambda connection: park(
            connection,
            device=device,
            kind=Kind.TELEMETRY,
            payload=payload,
            code="not_json",
            message="not JSON",
            received_at_ms=NOW_MS,
        )
    )


async def everything(letters: DeadLetters, **options: object) -> list[DeadLetter]:
    return (await letters.page(Filter(**options), limit=1000, payload_up_to=1 << 20)).letters  # type: ignore[arg-type]


async def ledger_page(store: Store) -> LedgerPage:
    page = await store.database.run(lambda connection: read_page(connection, search="", after="", limit=100))
    assert page.adds_up
    return page


async def assert_stock(store: Store, letters: DeadLetters) -> None:
    """Rows and bytes as the rows themselves say."""
    (counted,) = await store.query("SELECT count(*), total(length(payload)) FROM parked")
    stock = await letters.stock()
    assert (stock.rows, stock.payload_bytes) == counted
    await assert_adds_up(store)
    await ledger_page(store)


# --- sending again --------------------------------------------------------------------------------------------


async def test_a_retried_reading_waits_under_a_new_number_with_its_old_times(
    store: Store, letters: DeadLetters
) -> None:
    await refuse(store, 7, at_ms=OLD_MS - 5, received_at_ms=OLD_MS, flags=1, msg_id="a")
    (parked_one,) = await everything(letters)
    assert await letters.retry(parked_one.id) == 2
    (message,) = (await store.buffer.take()).messages
    assert (message.seq, message.device, message.kind) == (2, "press-07", Kind.TELEMETRY)
    assert (message.at_ms, message.received_at_ms, message.flags) == (OLD_MS - 5, OLD_MS, 1)
    assert message.payload == b'{"n":7}'
    assert await everything(letters) == []
    assert store.buffer.backlog().oldest_received_at_ms == OLD_MS
    (line,) = await store.buffer.ledger()
    assert (line.received, line.stored, line.parked, line.waiting, line.repeated) == (1, 0, 0, 1, 0)
    await assert_stock(store, letters)
    await store.buffer.settle([2])
    (line,) = await store.buffer.ledger()
    assert (line.received, line.stored, line.parked, line.waiting) == (1, 1, 0, 0)
    await assert_stock(store, letters)
    with pytest.raises(UnknownDeadLetterError):
        await letters.retry(parked_one.id)


async def test_a_crash_after_a_retry_does_not_count_the_reading_again(
    store: Store, letters: DeadLetters, tmp_path: Path
) -> None:
    await refuse(store, 1, 2, 3)
    await store.add(4)
    await letters.retry_many(Filter(), limit=2)
    # the files as a killed process leaves them
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in store.database.path.parent.glob("appliance.db*"):
        shutil.copy(path, copy)
    after = await open_store(copy, clock=ManualClock())
    try:
        (line,) = await after.buffer.ledger()
        assert (line.received, line.parked, line.waiting) == (4, 1, 3)
        await assert_adds_up(after)
    finally:
        await after.close()


async def test_a_retry_that_fails_halfway_changes_nothing(
    store: Store, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    await refuse(store, 1, 2)

    def broken(connection: sqlite3.Connection, rows: object) -> None:
        raise RuntimeError("the power goes")

    with monkeypatch.context() as patch:
        patch.setattr(dead_letters, "take_off", broken)
        with pytest.raises(RuntimeError):
            await letters.retry_many(Filter(), limit=10)
    assert [letter.seq for letter in await everything(letters)] == [1, 2]
    assert await store.numbers() == []
    await assert_stock(store, letters)
    await store.add(3)
    assert await store.numbers() == [3]
    await assert_stock(store, letters)


async def test_what_never_was_a_whole_message_is_not_retried(store: Store, letters: DeadLetters) -> None:
    garbage = await park_garbage(store)
    await store.database.run(
        lambda connection: park_damage(connection, Damage(5, 8, "vanished", None), at_ms=NOW_MS),
    )
    await refuse(store, 1)
    for letter_id in (garbage, garbage + 1):
        with pytest.raises(NotRetryableError):
            await letters.retry(letter_id)
    changed = await letters.retry_many(Filter(), limit=10)
    assert (changed.count, changed.skipped, changed.next) == (1, 2, None)
    assert [letter.id for letter in await everything(letters)] == [garbage, garbage + 1]
    assert await store.numbers() == [1]


async def test_other_kinds_are_retried_without_touching_the_counts_of_readings(
    store: Store, letters: DeadLetters
) -> None:
    store.buffer.append("press-07", Kind.OTA_STATUS, b"{}", received_at_ms=NOW_MS)
    await store.settled_down()
    await store.buffer.settle([], [Rejection(1, "invalid", "no")])
    changed = await letters.retry_many(Filter(kind=Kind.OTA_STATUS), limit=10)
    assert changed.count == 1
    assert [message.kind for message in (await store.buffer.take()).messages] == [Kind.OTA_STATUS]
    assert await store.buffer.ledger() == []
    await assert_stock(store, letters)


async def test_many_are_retried_in_order_and_in_small_transactions(
    store: Store, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "CHANGED_ROWS", 10)
    monkeypatch.setattr(dead_letters, "SCANNED_ROWS", 25)
    await refuse(store, *range(100))
    await refuse(store, *range(100, 130), device="mixer-1")
    changed = await letters.retry_many(Filter(device="press-07"), limit=35)
    assert (changed.count, changed.skipped) == (35, 0)
    assert await store.numbers() == list(range(35))
    await assert_stock(store, letters)
    rest = await letters.retry_many(Filter(device="press-07", after=changed.next or 0), limit=1000)
    assert (rest.count, rest.next) == (65, None)
    assert await store.numbers() == list(range(100))
    assert {letter.device for letter in await everything(letters)} == {"mixer-1"}
    await assert_stock(store, letters)


async def test_what_odoo_refuses_again_meanwhile_is_not_retried_in_a_circle(
    store: Store, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "CHANGED_ROWS", 5)

    async def odoo_refuses_all() -> None:
        after = 0
        while True:
            await store.buffer.wait_for_messages(after)
            seqs = [message.seq for message in (await store.buffer.take(after=after)).messages]
            await store.buffer.settle([], [Rejection(seq, "invalid", "still no") for seq in seqs])
            after = max([after, *seqs])

    await refuse(store, *range(50))
    refusing = asyncio.ensure_future(odoo_refuses_all())
    changed = await asyncio.wait_for(letters.retry_many(Filter(), limit=10_000), 20)
    assert (changed.count, changed.next) == (50, None)
    again = await letters.retry_many(Filter(up_to=changed.up_to), limit=10_000)
    assert again.count == 0
    refusing.cancel()
    await assert_stock(store, letters)


# --- removing -------------------------------------------------------------------------------------------------


async def test_what_is_removed_is_counted_by_device_kind_and_reason(store: Store, letters: DeadLetters) -> None:
    await refuse(store, 1, 2, 3)
    await refuse(store, 4, code="other", device="mixer-1")
    store.buffer.append("mixer-1", Kind.COMMAND_STATE, b"{}", received_at_ms=NOW_MS)
    await store.settled_down()
    await store.buffer.settle([], [Rejection(5, "invalid", "no")])
    first = (await everything(letters))[0]
    await letters.remove(first.id)
    with pytest.raises(UnknownDeadLetterError):
        await letters.remove(first.id)
    changed = await letters.remove_many(Filter(code="invalid"), limit=10)
    assert (changed.count, changed.skipped, changed.next) == (3, 0, None)
    page = await ledger_page(store)
    lines = {line.device: (line.received, line.parked, line.removed, line.waiting) for line in page.lines}
    assert lines == {"mixer-1": (1, 1, 0, 0), "press-07": (3, 0, 3, 0)}
    removals = [(removal.device, removal.kind, removal.reason, removal.count) for removal in page.removals]
    assert removals == [("mixer-1", Kind.COMMAND_STATE, "operator", 1), ("press-07", Kind.TELEMETRY, "operator", 3)]
    assert (page.total.received, page.total.removed, page.total.parked) == (4, 3, 1)
    await assert_stock(store, letters)


async def test_a_gap_in_the_file_counts_as_many_as_it_stands_for(store: Store, letters: DeadLetters) -> None:
    await store.add(*range(6))
    await store.query("DELETE FROM messages WHERE seq BETWEEN 2 AND 4")
    assert await store.numbers() == [0, 4, 5]
    (gap,) = await everything(letters)
    assert (gap.messages, gap.code, gap.payload) == (3, "vanished", b"null")
    page = await ledger_page(store)
    assert (page.total.received, page.total.parked, page.total.waiting) == (6, 3, 3)
    await letters.remove(gap.id)
    page = await ledger_page(store)
    assert (page.total.received, page.total.removed, page.total.waiting) == (6, 3, 3)


@pytest.mark.parametrize(("rows", "size"), [(10, 1 << 30), (1000, 100)])
async def test_a_full_list_drops_the_oldest_and_counts_them(
    store: Store, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch, rows: int, size: int
) -> None:
    monkeypatch.setattr(parked, "MOST_PARKED", rows)
    monkeypatch.setattr(parked, "MOST_PARKED_BYTES", size)
    await refuse(store, *range(10, 30))
    await park_garbage(store, device="mixer-1")
    left = await everything(letters)
    assert left[-1].device == "mixer-1"
    kept = [letter.seq for letter in left[:-1]]
    assert kept == list(range(21 - len(kept), 21))
    assert 5 < len(left) <= rows
    assert (await letters.stock()).payload_bytes <= size
    page = await ledger_page(store)
    assert [(each.device, each.reason, each.count) for each in page.removals] == [("press-07", "limit", 20 - len(kept))]
    await assert_stock(store, letters)


async def test_one_that_is_longer_than_the_whole_list_may_be_is_still_kept(
    store: Store, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "MOST_PARKED_BYTES", 100)
    await park_garbage(store, b"x" * 1000)
    await park_garbage(store, b"y" * 1000)
    assert len(await everything(letters)) == 1
    await assert_stock(store, letters)


# --- looking --------------------------------------------------------------------------------------------------


async def test_pages_have_no_gap_no_repeat_and_no_empty_end(
    store: Store, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "SCANNED_ROWS", 7)
    for number in range(0, 40, 2):
        await refuse(store, number)
        await refuse(store, number + 1, device="mixer-1", code="other")
    for wanted in ({"device": "mixer-1"}, {"code": "other"}, {"device": "mixer-1", "kind": Kind.TELEMETRY}):
        seen: list[int] = []
        after: int | None = 0
        while after is not None:
            page = await letters.page(Filter(**wanted, after=after), limit=5)  # type: ignore[arg-type]
            assert len(page.letters) == 5
            assert all(letter.payload is None for letter in page.letters)
            seen += [letter.seq or 0 for letter in page.letters]
            after = page.next
        assert seen == list(range(2, 41, 2))
    assert (await letters.page(Filter(kind=Kind.PRESENCE), limit=5)).letters == []


async def test_a_page_with_payloads_is_bounded_in_bytes_and_leaves_out_the_long_ones(
    store: Store, letters: DeadLetters
) -> None:
    for size in (60_000, 100_000, 60_000, 60_000, 60_000, 60_000, 60_000, 60_000):
        await park_garbage(store, b'"' + b"x" * size + b'"')
    page = await letters.page(Filter(), limit=500, payload_up_to=65_536)
    assert [letter.payload is not None for letter in page.letters] == [True, False, True, True, True, True]
    assert page.next == page.letters[-1].id
    assert len((await letters.get(2)).payload or b"") == 100_002


async def test_an_export_never_holds_more_than_a_chunk_and_ends_where_it_began(
    store: Store, letters: DeadLetters
) -> None:
    for _ in range(20):
        await park_garbage(store, b'"' + b"x" * 100_000 + b'"')
    seen: list[int] = []
    async for chunk in letters.export(Filter()):
        assert len(chunk) <= 3
        seen += [letter.id for letter in chunk]
        await park_garbage(store)
    assert seen == list(range(1, 21))


# --- the check of the ledger ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ledger SET received = received + 1",
        "UPDATE ledger SET stored = stored + 1",
        "UPDATE ledger SET removed = removed - 1",
        "UPDATE ledger SET parked = parked + 1, stored = stored - 1",
        "DELETE FROM parked",
        "DELETE FROM messages WHERE seq = 4",
    ],
)
async def test_the_ledger_is_held_against_the_rows(store: Store, damage: str) -> None:
    await store.add(*range(6))
    await store.buffer.settle([1, 2], [Rejection(3, "invalid", "no")])
    await ledger_page(store)
    await store.query(damage)
    page = await store.database.run(lambda connection: read_page(connection, search="", after="", limit=100))
    assert not page.adds_up


async def test_a_long_backlog_is_not_counted_in_passing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "COUNTED_ROWS", 5)
    await store.add(*range(6))
    page = await ledger_page(store)
    assert (page.counted_waiting, page.counted_parked) == (None, 0)


async def test_ledger_pages_are_filtered_and_without_gap(store: Store) -> None:
    for number in range(25):
        await store.add(number, device=f"press-{number:02}")
    seen: list[str] = []
    after, more = "", True
    while more:
        page = await store.database.run(
            lambda connection, after=after: read_page(connection, search="ss-1", after=after, limit=4)  # type: ignore[misc]
        )
        seen += [line.device for line in page.lines]
        more, after = page.more, page.lines[-1].device
        assert (page.devices, page.total.received) == (25, 25)
    assert seen == [f"press-{number}" for number in range(10, 20)]
