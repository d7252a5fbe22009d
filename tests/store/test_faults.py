"""The disk is full, fails, or may not be written: nothing is acknowledged, nothing is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import StoreFormatError, StoreUnavailableError
from appliance.store import connection
from appliance.store.connection import PAGE_BYTES
from appliance.store.database import Database
from tests.store.conftest import OpenStore
from tests.store.disk import ACKS, environment, read_log
from tests.store.support import ManualClock, Receipts, Store, assert_adds_up, open_store

ROOT = Path(__file__).parents[2]
QUOTA_BYTES = 1 << 20
"""The least a database takes."""
RETRY_S = 0.02
PADDING = b" " * 1000


def fill(store: Store, numbers: range) -> None:
    for number in numbers:
        store.buffer.append("press-07", 1, b'{"n":%d}' % number + PADDING, received_at_ms=number, receipt=number)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


async def numbers(store: Store) -> list[int]:
    rows = await store.query("SELECT received_at_ms FROM messages ORDER BY seq")
    return [number for (number,) in rows]


@pytest.fixture
async def full(open_again: OpenStore) -> Store:
    """A store whose quota is used up, with a good part of its 2,000 readings still in the queue."""
    store = await open_again(quota_bytes=QUOTA_BYTES, retry_s=RETRY_S)
    for start in range(0, 2000, 100):
        fill(store, range(start, start + 100))
        await asyncio.sleep(0.002)
    await until(lambda: store.database.unavailable)
    return store


async def test_while_the_quota_is_used_up_nothing_is_acknowledged_that_is_not_on_disk(full: Store) -> None:
    assert "full" in str(full.database.unavailable)
    before = len(full.receipts.all)
    stored = await numbers(full)
    assert before <= len(stored) < 1500
    assert stored == full.receipts.all[: len(stored)] == list(range(len(stored)))


async def test_while_the_store_is_full_jobs_that_need_room_fail_and_jobs_that_need_none_run(full: Store) -> None:
    with pytest.raises(StoreUnavailableError):
        await full.query("INSERT INTO meta VALUES ('large', zeroblob(900000))")
    batch = await full.buffer.take(limit=10)
    assert [message.seq for message in batch.messages] == list(range(1, 11))
    await assert_adds_up(full)


async def test_rows_are_committed_once_and_in_order_as_soon_as_odoo_has_taken_others(full: Store) -> None:
    while len(full.receipts.all) < 2000:
        batch = await full.buffer.take(limit=200)
        await full.buffer.settle([message.seq for message in batch.messages])
    assert full.receipts.all == list(range(2000))
    await until(lambda: full.database.unavailable is None)
    await assert_adds_up(full)
    assert full.buffer.backlog().last_seq == 2000


async def test_settling_is_possible_behind_more_rows_than_one_group_holds(full: Store) -> None:
    for number in range(10_000):
        full.append(number, receipt=None)
    async with asyncio.timeout(20):
        batch = await full.buffer.take(limit=1000)
        await full.buffer.settle([message.seq for message in batch.messages])
        await full.receipts.wait_for(len(full.receipts.all) + 300)


async def test_a_job_with_a_receipt_waits_for_room_and_runs_once(full: Store) -> None:
    ran = full.database.submit(lambda connection: connection.execute("UPDATE meta SET value = value"), receipt="job")
    while "job" not in full.receipts.all:
        batch = await full.buffer.take(limit=200)
        await full.buffer.settle([message.seq for message in batch.messages])
    assert ran.done()
    assert full.receipts.all == [*range(2000), "job"]


async def test_what_is_settled_gives_way_before_the_quota_is_used_up(open_again: OpenStore, clock: ManualClock) -> None:
    store = await open_again(quota_bytes=QUOTA_BYTES)
    unavailable = []
    for start in range(0, 4000, 50):
        fill(store, range(start, start + 50))
        await store.settled_down()
        await store.buffer.settle(range(start + 1, start + 51))
        unavailable.append(store.database.unavailable)
        clock.forward(2)
    assert unavailable == [None] * 80
    assert len(store.receipts.all) == 4000


async def test_closing_a_full_store_tells_everybody_who_waits(full: Store) -> None:
    for number in range(5000):
        full.append(number, receipt=None)
    waiting = [
        full.database.submit(lambda connection: None, receipt="kept"),
        full.database.submit(lambda connection: connection.execute("SELECT zeroblob(900000)"), receipt="kept"),
    ]
    await full.close()
    assert [type(future.exception()) for future in waiting] == [StoreUnavailableError] * 2
    assert "kept" not in full.receipts.all


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC])
async def test_a_transaction_that_was_rolled_back_leaves_no_message_id_behind(open_again: OpenStore, code: int) -> None:
    store = await open_again(retry_s=RETRY_S)
    await store.add(1, msg_id="a")
    failures = iter([code, code])

    def fail_twice(connection: sqlite3.Connection) -> None:
        for code in failures:
            error = sqlite3.OperationalError("made up")
            error.sqlite_errorcode = code
            raise error

    store.append(2, msg_id="b")
    store.append(3, msg_id="a")
    kept = store.database.submit(fail_twice, receipt="kept")
    await kept
    assert store.receipts.all == [1, 2, 3, "kept"]
    assert await store.numbers() == [1, 2]
    assert [(line.received, line.repeated) for line in await store.buffer.ledger()] == [(2, 1)]


async def test_a_writer_that_cannot_go_on_says_so_and_nobody_waits_for_it(store: Store) -> None:
    store.append(1)
    waiting = [store.database.submit(lambda connection: None) for _ in range(3)]
    store.buffer.append("press-07", 1, b"{}", received_at_ms=1 << 70)
    waiting += [store.database.submit(lambda connection: None, receipt="job") for _ in range(3)]
    with pytest.raises(OverflowError):
        await asyncio.wait_for(store.database.failed, 20)
    assert [type(future.exception()) for future in waiting] == [StoreUnavailableError] * 6
    with pytest.raises(StoreUnavailableError):
        await store.settled_down()
    assert store.receipts.all == []


async def test_a_writer_that_dies_while_the_store_is_full_leaves_nobody_waiting_either(full: Store) -> None:
    def deadly(connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT")  # no job may do that: what the writer does next fails

    waiting = [full.database.submit(deadly), full.database.submit(lambda connection: None)]
    await asyncio.wait(waiting, timeout=20)
    assert [type(future.exception()) for future in waiting] == [StoreUnavailableError] * 2
    with pytest.raises(sqlite3.OperationalError):
        await asyncio.wait_for(full.database.failed, 20)


# --- what is not a database -----------------------------------------------------------------------------------


async def test_a_file_of_garbage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "appliance.db").write_bytes(os.urandom(100_000))
    with pytest.raises(StoreFormatError, match="damaged"):
        await Database.open(tmp_path)


async def test_a_database_whose_header_is_damaged_is_refused(open_again: OpenStore, tmp_path: Path) -> None:
    store = await open_again()
    await store.close()
    with (tmp_path / "data" / "appliance.db").open("r+b") as file:
        file.write(b"garbage")
    with pytest.raises(StoreFormatError, match="damaged"):
        await open_again()


async def test_a_database_without_its_identity_is_refused(open_again: OpenStore) -> None:
    store = await open_again()
    await store.query("DELETE FROM meta WHERE key = 'epoch'")
    await store.close()
    with pytest.raises(StoreFormatError, match="epoch"):
        await open_again()


async def test_a_damaged_page_is_the_trouble_of_those_who_read_it(open_again: OpenStore) -> None:
    store = await open_again()
    fill(store, range(200))
    await store.settled_down()
    await store.close()
    path = store.database.path
    whole = path.read_bytes()
    page = whole.index(b'{"n":20}') // PAGE_BYTES
    path.write_bytes(whole[: page * PAGE_BYTES] + b"\xff" * PAGE_BYTES + whole[(page + 1) * PAGE_BYTES :])

    store = await open_again()
    for _ in range(3):
        with pytest.raises(StoreUnavailableError, match="damaged"):
            await store.buffer.take(limit=100)
        await store.add(1000)
    reading = store.database.submit(
        lambda connection: connection.execute("SELECT * FROM messages").fetchall(), receipt="job"
    )
    await asyncio.wait([reading], timeout=20)
    assert type(reading.exception()) is StoreUnavailableError
    assert store.receipts.withheld == ["job"]
    assert len((await store.buffer.take(after=100)).messages) == 103
    assert store.database.unavailable is None
    assert store.receipts.all == [1000] * 3


# --- a disk of our own ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs more rights than this test has")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


async def open_on(disk: Path) -> Store:
    return await open_store(disk / "data", retry_s=RETRY_S, ballast_bytes=2 << 20)


@pytest.fixture
async def on_small_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setitem(connection._PRAGMAS, "wal_autocheckpoint", 300)
    store = await open_on(small_disk)
    yield store
    await store.close()


async def test_a_full_disk_is_survived_and_work_goes_on_when_space_returns(
    on_small_disk: Store, small_disk: Path
) -> None:
    store = on_small_disk
    (small_disk / "filler").write_bytes(bytes(5_000_000))
    for start in range(0, 3000, 100):
        fill(store, range(start, start + 100))
        await asyncio.sleep(0.002)
    await until(lambda: store.database.unavailable)
    stored = await numbers(store)
    acknowledged = len(store.receipts.all)
    assert len(stored) <= acknowledged < 3000

    (small_disk / "filler").unlink()

    await until(lambda: len(store.receipts.all) > acknowledged)
    assert store.receipts.all == await numbers(store) == list(range(len(store.receipts.all)))
    await assert_adds_up(store)


async def test_a_full_disk_is_drained_with_the_ballast(on_small_disk: Store) -> None:
    store = on_small_disk
    for start in range(0, 8000, 100):
        fill(store, range(start, start + 100))
        await asyncio.sleep(0.001)
    await until(lambda: store.database.unavailable)
    async with asyncio.timeout(30):
        while len(store.receipts.all) < 8000:
            batch = await store.buffer.take(limit=200)
            await store.buffer.settle([message.seq for message in batch.messages])
    assert store.receipts.all == list(range(8000))
    await assert_adds_up(store)


async def test_a_store_on_a_full_disk_can_be_opened_and_drained(small_disk: Path) -> None:
    store = await open_on(small_disk)
    fill(store, range(500))
    await store.receipts.wait_for(500)
    await store.close()
    fill_up(small_disk / "filler")

    store = await open_on(small_disk)
    batch = await store.buffer.take(limit=500)
    await store.buffer.settle([message.seq for message in batch.messages])
    assert store.buffer.backlog().waiting == 0
    await store.close()


async def test_a_folder_that_cannot_be_written_is_a_clear_error(small_disk: Path) -> None:
    await (await open_store(small_disk / "data")).close()
    await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreUnavailableError, match="cannot be used"):
        await open_store(small_disk / "data")


# --- in a process of its own ----------------------------------------------------------------------------------


def run_child(function: Callable[..., Any], *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run a coroutine function of this module in a fresh interpreter; it must succeed."""
    code = f"import asyncio, sys; from {__name__} import {function.__name__} as f; asyncio.run(f(*sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


def test_a_limit_on_file_sizes_is_survived_and_work_goes_on_when_it_is_raised(tmp_path: Path) -> None:
    run_child(_limited_child, str(tmp_path))


async def _limited_child(folder: str) -> None:
    import resource

    store = await open_store(Path(folder) / "data", retry_s=RETRY_S)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    fill(store, range(200))
    await until(lambda: len(store.receipts.all) == 200)
    fill(store, range(200, 2000))
    await until(lambda: store.database.unavailable)
    await asyncio.sleep(RETRY_S * 3)
    acknowledged = len(store.receipts.all)
    assert acknowledged < 2000
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.receipts.wait_for(2000)
    assert store.receipts.all == await numbers(store) == list(range(2000))
    await assert_adds_up(store)
    await store.close()


def test_nothing_is_acknowledged_while_syncs_fail_and_the_log_is_written_anew_before_anything_is(
    disk_library: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    fail_file, log = tmp_path / "fail", tmp_path / "log"
    env = environment(disk_library, data, DISK_FAIL_FILE=str(fail_file), DISK_LOG=str(log))
    run_child(_failing_child, str(data), str(fail_file), env=env)

    events = read_log(log)
    if not events:
        pytest.skip("this Python's SQLite cannot be watched")
    last_failure = max(index for index, event in enumerate(events) if event.operation == "S")
    promise = next(index for index, event in enumerate(events) if event.name == ACKS and event.data == b"second")
    between = [(event.operation, event.name, event.offset) for event in events[last_failure:promise]]
    written = between.index(("s", "appliance.db", 0))
    emptied = between.index(("t", "appliance.db-wal", 0))
    assert written < emptied < between.index(("s", "appliance.db-wal", 0), emptied)


async def _failing_child(folder: str, fail_file: str) -> None:
    store = await open_store(Path(folder), retry_s=RETRY_S)
    acks = os.open(f"{folder}/{ACKS}", os.O_WRONLY | os.O_CREAT)
    await store.add(1)
    os.close(os.open(fail_file, os.O_CREAT))
    store.append(2)
    kept = store.database.submit(lambda connection: None, receipt="kept")
    await until(lambda: store.database.unavailable)
    with pytest.raises(StoreUnavailableError, match="I/O"):
        await store.query("UPDATE meta SET value = value")
    await asyncio.sleep(RETRY_S * 3)
    assert store.receipts.all == [1]
    os.unlink(fail_file)
    await kept
    os.write(acks, b"second")
    assert store.receipts.all == [1, 2, "kept"]
    assert await store.numbers() == [1, 2]
    await assert_adds_up(store)
    await store.close()


async def test_a_ballast_that_cannot_be_kept_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "data" / "ballast").mkdir(parents=True)
    store = await open_store(tmp_path / "data", quota_bytes=QUOTA_BYTES, retry_s=RETRY_S)
    receipts: Receipts = store.receipts
    fill(store, range(100))
    assert await receipts.wait_for(100)
    await store.close()
