"""A copy of the database file while the appliance writes to it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from appliance.errors import StoreFormatError, StoreUnavailableError
from appliance.store import snapshot as module
from appliance.store.database import Database
from appliance.store.snapshot import Snapshot, check_copy

QUICK_S = 20


def copy(path: Path, to: Path, between: Callable[[], None] = lambda: None) -> int:
    """Copy in small steps, with something done between them; how many bytes."""
    with Snapshot(path) as snapshot, to.open("wb") as file:
        while data := snapshot.read(max(snapshot.size_bytes // 10, 4096)):
            file.write(data)
            between()
        return snapshot.size_bytes


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row[0] for row in connection.execute("SELECT number FROM steps ORDER BY number")]


class Writing:
    """A store that commits one row after another, each with ballast, and sometimes deletes old ones."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.last = 0

    async def begin(self) -> None:
        await self.database.run(lambda c: c.execute("CREATE TABLE steps (number INTEGER PRIMARY KEY, ballast BLOB)"))

    async def step(self) -> None:
        number = self.last + 1

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO steps VALUES (?, ?)", (number, os.urandom(3000)))
            if number % 50 == 0:
                connection.execute("DELETE FROM steps WHERE number <= ? - 500", (number,))

        await self.database.run(job)
        self.last = number

    async def run(self) -> None:
        while True:
            await self.step()

    def wait_for_more(self) -> None:
        """In another thread: until a few more rows are committed."""
        goal = self.last + 10
        while self.last < goal:
            time.sleep(0.001)


async def test_every_copy_made_under_full_load_is_whole_and_of_one_moment(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "data")
    writing = Writing(database)
    await writing.begin()
    task = asyncio.create_task(writing.run())
    try:
        for turn in range(15):
            before = writing.last
            size = await asyncio.to_thread(copy, database.path, tmp_path / "copy.db", writing.wait_for_more)
            after = writing.last
            found = numbers(tmp_path / "copy.db")
            assert size == (tmp_path / "copy.db").stat().st_size
            assert before <= (found[-1] if found else 0) <= after
            assert found == list(range(found[0], found[-1] + 1)) if found else turn == 0
            check_copy(tmp_path / "copy.db")
        assert writing.last > 1000
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await database.close()


async def test_the_writer_goes_on_while_the_file_is_read_and_its_log_shrinks_afterwards(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "data")
    writing = Writing(database)
    await writing.begin()
    log = database.path.with_name("appliance.db-wal")
    with Snapshot(database.path) as snapshot:
        first = snapshot.read(4096)
        for _ in range(200):
            await writing.step()
        held = log.stat().st_size
    for _ in range(8000):
        if log.stat().st_size < held:
            break
        await writing.step()
    with Snapshot(database.path) as later:
        assert later.size_bytes > snapshot.size_bytes
        assert first[:16] == later.read(16) == b"SQLite format 3\0"
    await database.close()
    assert not log.exists()


async def test_a_stopped_appliance_is_copied_too_and_left_as_it_was(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "data")
    writing = Writing(database)
    await writing.begin()
    for _ in range(10):
        await writing.step()
    path = database.path
    await database.close()
    before = sorted((each.name, each.stat().st_size) for each in path.parent.iterdir())
    copy(path, tmp_path / "copy.db")
    assert sorted((each.name, each.stat().st_size) for each in path.parent.iterdir()) == before
    assert numbers(tmp_path / "copy.db") == list(range(1, 11))


async def test_a_log_that_grows_too_long_meanwhile_ends_the_copy(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "data")
    writing = Writing(database)
    await writing.begin()
    with Snapshot(database.path, most_log_bytes=100_000) as snapshot:
        for _ in range(100):
            await writing.step()
        with pytest.raises(StoreUnavailableError, match="given up"):
            snapshot.read(4096)
    await writing.step()
    await database.close()


async def test_another_reader_that_never_ends_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRIES_S", 0.2)
    database = await Database.open(tmp_path / "data")
    writing = Writing(database)
    await writing.begin()
    with closing(sqlite3.connect(database.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM steps").fetchall()
        await writing.step()
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="another program"), Snapshot(database.path):
            pass
        assert time.monotonic() - began < QUICK_S
    await database.close()


async def test_a_file_that_is_not_ours_damaged_newer_or_distrusted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "appliance.db"
    with pytest.raises(StoreUnavailableError), Snapshot(path):
        pass
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreFormatError), Snapshot(path):
        pass
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (x)")
    with pytest.raises(StoreFormatError), Snapshot(path):
        pass
    path.unlink()
    database = await Database.open(tmp_path)
    (tmp_path / "sync-failed").touch()
    with pytest.raises(StoreUnavailableError, match="disk"), Snapshot(path):
        pass
    (tmp_path / "sync-failed").unlink()
    await database.run(
        lambda c: c.execute(
            "INSERT INTO _sqlite_migrations"
            " SELECT id + 999, migration_set, 'm999_later', applied_at FROM _sqlite_migrations LIMIT 1"
        )
    )
    with pytest.raises(StoreFormatError, match="newer"), Snapshot(path):
        pass
    await database.close()


async def test_a_look_at_the_database_finds_damage_and_is_bounded_in_time(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "data")
    writing = Writing(database)
    await writing.begin()
    await database.run(
        lambda c: c.executemany("INSERT INTO steps (ballast) VALUES (zeroblob(3000))", ((),) * 20_000).rowcount
    )
    path = database.path
    await database.close()
    with Snapshot(path) as snapshot:
        assert snapshot.flaws(60) == []
        assert snapshot.flaws(0) is None
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 20_000)
    with Snapshot(path) as snapshot:
        assert snapshot.flaws(60)
    with pytest.raises(StoreFormatError):
        check_copy(path)
