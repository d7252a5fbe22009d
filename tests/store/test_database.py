"""One file, one writer: what comes back is on disk, in order, and nobody else works on the folder."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from appliance.contract.odoo import Kind
from appliance.errors import StoreLockedError, StoreUnavailableError
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.writer import GROUP_ROWS, IDLE_S
from tests.store.conftest import OpenStore
from tests.store.promises import Promises
from tests.store.support import NOW_MS, Receipts, Store

LONG = bool(os.environ.get("IIOT_TEST_LONG"))
ROOT = Path(__file__).parents[2]


async def blocked(store: Store) -> threading.Event:
    """Hold the writer in a job until the event is set, so that the next entries gather into one group."""
    begun, release = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        begun.set()
        release.wait(20)

    store.database.submit(hold)
    await asyncio.to_thread(begun.wait, 20)
    return release


def transactions(store: Store) -> list[str]:
    """The statements that begin and end transactions, as the writer executes them from now on."""
    statements: list[str] = []
    words = ("BEGIN", "COMMIT", "ROLLBACK")
    store.database._writer._connection.set_trace_callback(
        lambda statement: statements.append(statement) if statement.startswith(words) else None
    )
    return statements


async def on_disk(store: Store) -> list[int]:
    """What another connection sees, and so what is committed."""
    other = sqlite3.connect(f"file:{store.database.path}?mode=ro", uri=True)
    try:
        return [seq for (seq,) in other.execute("SELECT seq FROM messages ORDER BY seq")]
    finally:
        other.close()


# --- group commit ---------------------------------------------------------------------------------------------


async def test_what_gathers_while_a_group_is_committed_is_one_group(store: Store, receipts: Receipts) -> None:
    release = await blocked(store)
    for number in range(1000):
        store.append(number)
    for _ in range(10):
        await asyncio.sleep(0)
    statements = transactions(store)
    release.set()
    await receipts.wait_for(1000)
    assert [statement[:5] for statement in statements].count("BEGIN") == 1


async def test_receipts_come_in_the_order_of_their_rows_and_jobs(store: Store, receipts: Receipts) -> None:
    release = await blocked(store)
    for number in range(0, 300, 3):
        store.append(number)
        store.append(number + 1, msg_id=str(number % 7))  # most are repeats
        store.database.submit(lambda connection: None, receipt=number + 2)
    release.set()
    assert await receipts.wait_for(300) == list(range(300))


async def test_a_receipt_is_handed_over_only_when_its_row_is_on_disk(store: Store) -> None:
    seen = asyncio.get_running_loop().create_future()
    store.database.committed = lambda receipts: seen.set_result(receipts)
    store.append(1, receipt="first")
    assert await asyncio.wait_for(seen, 20) == ["first"]
    assert await on_disk(store) == [1]


async def test_what_run_returns_is_on_disk(store: Store) -> None:
    assert await store.query("INSERT INTO meta VALUES ('answer', 42) RETURNING value") == [(42,)]
    other = sqlite3.connect(store.database.path)
    assert other.execute("SELECT value FROM meta WHERE key = 'answer'").fetchone() == (42,)
    other.close()


@pytest.mark.parametrize("rows", [10_000, GROUP_ROWS + 3])
async def test_a_group_that_fills_up_is_followed_by_the_next_at_once_and_in_order(
    store: Store, receipts: Receipts, rows: int
) -> None:
    for number in range(rows):
        store.append(number)
    assert await receipts.wait_for(rows, timeout_s=IDLE_S * 0.9) == list(range(rows))
    assert await on_disk(store) == list(range(1, rows + 1))


async def test_the_event_loop_goes_on_while_the_writer_waits_for_the_disk(store: Store) -> None:
    release = await blocked(store)
    future = store.database.submit(lambda connection: "done")
    for _ in range(100):
        await asyncio.sleep(0)
    assert not future.done()
    release.set()
    assert await asyncio.wait_for(future, 20) == "done"


# --- jobs -----------------------------------------------------------------------------------------------------


async def test_a_job_that_raises_undoes_only_itself(store: Store, receipts: Receipts) -> None:
    def half_done(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta VALUES ('half', 1)")
        raise LookupError("no such thing")

    release = await blocked(store)
    store.append(1)
    before = store.database.submit(lambda connection: connection.execute("INSERT INTO meta VALUES ('before', 1)"))
    failing = store.database.submit(half_done, receipt="never")
    after = store.database.submit(lambda connection: connection.execute("INSERT INTO meta VALUES ('after', 1)"))
    release.set()
    await asyncio.wait([before, failing, after])
    with pytest.raises(LookupError, match="no such thing"):
        failing.result()
    assert await store.query("SELECT key FROM meta WHERE key IN ('before', 'half', 'after')") == [
        ("after",),
        ("before",),
    ]
    assert (receipts.all, receipts.withheld) == ([1], ["never"])
    assert await on_disk(store) == [1]


async def test_a_job_that_raises_leaves_no_gap_in_the_numbers(store: Store) -> None:
    def half_done(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO messages (device, kind, received_at_ms, flags, payload, crc) VALUES ('a', 1, 1, 0, x'', 0)"
        )
        raise LookupError

    with pytest.raises(LookupError):
        await store.database.run(half_done)
    await store.add(1)
    assert await on_disk(store) == [1]


async def test_a_job_that_runs_out_of_rows_raises_instead_of_hanging(store: Store) -> None:
    with pytest.raises(RuntimeError, match="ran out"):
        await store.database.run(lambda connection: next(iter([])))


async def test_a_wrong_statement_is_its_callers_error_and_the_store_goes_on(store: Store) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await store.query("SELECT * FROM no_table")
    with pytest.raises(sqlite3.IntegrityError):
        await store.query("INSERT INTO meta (key) VALUES ('epoch')")
    assert store.database.unavailable is None
    await store.add(1)


async def test_a_caller_who_gives_up_does_not_disturb_the_others(store: Store, receipts: Receipts) -> None:
    release = await blocked(store)
    impatient = asyncio.ensure_future(
        store.database.run(lambda connection: connection.execute("INSERT INTO meta VALUES ('done', 1)"), receipt="job")
    )
    await asyncio.sleep(0)
    store.append(2)
    impatient.cancel()
    release.set()
    assert await receipts.wait_for(2) == ["job", 2]
    assert await store.query("SELECT value FROM meta WHERE key = 'done'") == [(1,)]


async def test_a_callback_that_raises_does_not_leave_a_caller_waiting(store: Store) -> None:
    def broken(receipts: object) -> None:
        raise LookupError("broken")

    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    store.database.committed = broken
    await asyncio.wait_for(store.database.run(lambda connection: None, receipt="job"), 20)
    assert [type(error) for error in errors] == [LookupError]


# --- opening and closing --------------------------------------------------------------------------------------


async def test_the_file_is_opened_so_that_it_loses_nothing(store: Store) -> None:
    names = (
        "journal_mode synchronous page_size auto_vacuum wal_autocheckpoint journal_size_limit mmap_size busy_timeout"
    )
    found = {name: (await store.query(f"PRAGMA {name}"))[0][0] for name in names.split()}
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "page_size": 4096,
        "auto_vacuum": 2,  # incremental
        "wal_autocheckpoint": 4000,
        "journal_size_limit": 67_108_864,
        "mmap_size": 0,
        "busy_timeout": 5000,
    }
    assert await store.query("PRAGMA max_page_count") == [((4 << 30) // 4096,)]


async def test_closing_commits_what_was_handed_over(open_again: OpenStore) -> None:
    store = await open_again()
    for number in range(5000):
        store.append(number)
    await store.close()
    assert store.receipts.all == list(range(5000))
    assert await on_disk(store) == list(range(1, 5001))


async def test_after_closing_jobs_are_refused_and_the_folder_is_free(open_again: OpenStore) -> None:
    store = await open_again()
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.settled_down()
    assert (await open_again()).database.epoch == store.database.epoch


async def test_nobody_else_in_this_process_opens_the_folder(store: Store) -> None:
    with pytest.raises(StoreLockedError, match="already works"):
        await Database.open(store.database.path.parent)


async def test_another_process_is_refused_until_the_first_has_ended(open_again: OpenStore) -> None:
    store = await open_again()
    code = (
        "import asyncio, pathlib, sys\n"
        "from appliance.store.database import Database\n"
        "from appliance.errors import StoreLockedError\n"
        "try: asyncio.run(Database.open(pathlib.Path(sys.argv[1])))\n"
        "except StoreLockedError as error: print(error); sys.exit(7)\n"
    )

    async def other_process() -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(store.database.path.parent), cwd=ROOT, stdout=subprocess.DEVNULL
        )
        return await process.wait()

    assert await other_process() == 7
    await store.add(1)
    await store.close()
    assert await other_process() == 0


async def test_a_file_keeps_its_identity_and_another_file_has_another(open_again: OpenStore, tmp_path: Path) -> None:
    store = await open_again()
    epoch = store.database.epoch
    await store.close()
    assert (await open_again()).database.epoch == epoch
    other = await Database.open(tmp_path / "other")
    assert other.epoch != epoch
    await other.close()


async def test_a_million_waiting_messages_do_not_delay_the_start(open_again: OpenStore) -> None:
    store = await open_again()
    count = 1_000_000

    def fill(connection: sqlite3.Connection) -> None:
        rows = (("press-07", 1, NOW_MS, 0, b"{}", 0) for _ in range(count))
        connection.executemany(
            "INSERT INTO messages (device, kind, received_at_ms, flags, payload, crc) VALUES (?, ?, ?, ?, ?, ?)", rows
        )

    await store.database.run(fill)
    await store.add(-1)
    await store.close()
    started = time.perf_counter()
    store = await open_again()
    took_s = time.perf_counter() - started
    assert store.buffer.backlog().waiting == count + 1
    assert took_s < 3  # the benchmark measures it


# --- kill -9 --------------------------------------------------------------------------------------------------


async def test_whenever_the_process_is_killed_what_was_acknowledged_is_there_and_everything_adds_up(
    tmp_path: Path,
) -> None:
    rounds = 2000 if LONG else 50
    folder, notes = tmp_path / "data", tmp_path / "notes"
    notes.touch()
    arguments = [str(folder), str(notes), str(rounds), "1"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.store.crash", *arguments, cwd=ROOT, stdin=-1, stdout=-1
    )
    assert process.stdin
    assert process.stdout
    promises, seen = Promises(), 0
    for number in range(rounds):
        assert await asyncio.wait_for(process.stdout.readline(), 60) == f"{number}\n".encode()
        text = notes.read_text()
        complete = text.rfind("\n") + 1
        promises.add(text[seen:complete])
        seen = len(text)  # a half line is a promise that nobody has read
        await promises.check(folder)
        process.stdin.write(b"\n")
    assert await process.wait() == 0
    assert len(promises.acknowledged) > 10 * rounds


def test_the_kind_of_a_message_is_what_the_file_holds() -> None:
    """The numbers stand in files out there: a change is a migration."""
    assert {kind.name: int(kind) for kind in Kind} == {
        "TELEMETRY": 1,
        "COMMAND_RESPONSE": 2,
        "COMMAND_STATE": 3,
        "OTA_STATUS": 4,
        "PRESENCE": 5,
        "GATEWAY_EVENT": 6,
    }


async def test_a_cancelled_wait_for_messages_leaves_nothing_behind(store: Store) -> None:
    buffer: Buffer = store.buffer
    waiting = [asyncio.ensure_future(buffer.wait_for_messages(0)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await store.add(1)
    await asyncio.wait_for(asyncio.gather(*waiting[1:]), 20)
    assert buffer._news == set()
