"""Files of every version ever released become files of this version; files of others are refused untouched."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlite_utils import Database as Tables
from sqlite_utils import Migrations

from appliance.errors import StoreFormatError
from appliance.store import schema
from appliance.store.database import Database
from tests.store.conftest import OpenStore
from tests.store.old_file import EPOCH, restore
from tests.store.support import assert_adds_up, open_store

OLD_FILES = {file.stem: file.read_text() for file in sorted((Path(__file__).parent / "files").glob("v*.sql"))}
FIRST = OLD_FILES["v1"]


def structure(path: Path) -> str:
    """Tables and indexes as the file holds them, without comments and spacing."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
    lines = [" ".join(line.split("--")[0].strip() for line in sql.splitlines()) for (sql,) in rows]
    connection.close()
    return "\n".join(" ".join(line.split()) for line in lines)


def make(path: Path, *statements: str) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return path.read_bytes()


async def refused(folder: Path, match: str) -> None:
    before = (folder / "appliance.db").read_bytes()
    with pytest.raises(StoreFormatError, match=match):
        await Database.open(folder)
    assert (folder / "appliance.db").read_bytes() == before
    assert not (folder / "appliance.db-wal").exists()


async def test_a_file_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "appliance.db", "PRAGMA application_id = 252006674", "CREATE TABLE fossil (x)")
    await refused(tmp_path, "another program")


async def test_a_file_of_a_program_that_does_not_sign_its_files_is_refused_too(tmp_path: Path) -> None:
    make(tmp_path / "appliance.db", "CREATE TABLE messages (id INTEGER PRIMARY KEY, body TEXT)")
    await refused(tmp_path, "another program")


FUTURE = "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('appliance', 'm999_future', 'now')"


@pytest.mark.parametrize(
    "says", ["UPDATE meta SET value = 'm999_future' WHERE key = 'needs'", "DELETE FROM meta WHERE key = 'needs'"]
)
async def test_a_file_that_needs_a_newer_version_is_refused_and_left_alone(
    open_again: OpenStore, tmp_path: Path, says: str
) -> None:
    store = await open_again()
    await store.close()
    make(store.database.path, FUTURE, says)
    await refused(tmp_path / "data", "newer version.*m999_future")


async def test_what_a_newer_version_has_only_added_stays_and_nothing_that_it_took_is_lost(
    open_again: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = await open_again()
    await store.add(1)
    await store.close()
    make(
        store.database.path,
        FUTURE,
        "CREATE TABLE later (x INTEGER)",
        "ALTER TABLE devices ADD COLUMN later TEXT",
        "INSERT INTO later VALUES (7)",
    )
    store = await open_again()
    assert store.buffer.backlog().waiting == 1
    await store.add(2)
    await store.close()
    assert "additions of a newer version, which stay as they are: m999_future" in caplog.text
    with sqlite3.connect(store.database.path) as connection:
        assert connection.execute("SELECT x FROM later").fetchall() == [(7,)]
        # the newer version is not told that its migration has yet to be made, nor that less is needed than it said
        assert schema.unknown_migrations(connection) == ["m999_future"]
        assert connection.execute("SELECT value FROM meta WHERE key = 'needs'").fetchone() == (schema.NEEDS,)
    connection.close()


def test_what_is_needed_is_a_migration_that_there_is() -> None:
    assert schema.knows(schema.NEEDS)
    assert not schema.knows("m999_future")


async def test_migrations_of_another_set_in_the_same_file_do_not_matter(open_again: OpenStore) -> None:
    store = await open_again()
    await store.close()
    make(
        store.database.path,
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('plugin', 'm001', 'now')",
    )
    await open_again()


async def test_a_migration_that_fails_leaves_the_file_as_it_was_and_is_tried_again(
    open_again: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_again()
    await store.add(1)
    await store.close()
    before = structure(store.database.path)
    later = Migrations("appliance")
    later._migrations = [*schema.migrations._migrations]
    fails = True

    @later()
    def m002_half(tables: object) -> None:
        tables.execute("CREATE TABLE half (x INTEGER)")  # type: ignore[attr-defined]
        if fails:
            raise sqlite3.OperationalError("the power goes")

    monkeypatch.setattr(schema, "migrations", later)
    with pytest.raises(Exception, match="the power goes"):
        await open_store(tmp_path / "data")
    assert structure(store.database.path) == before
    fails = False
    store = await open_again()
    assert await store.query("SELECT count(*) FROM half") == [(0,)]
    assert await store.numbers() == [1]


async def test_tables_of_what_must_not_be_lost_are_strict(open_again: OpenStore) -> None:
    store = await open_again()
    tables = await store.query("SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    assert {name for name, strict in tables if not strict} <= {
        "sqlite_schema",
        "sqlite_sequence",
        "_sqlite_migrations",
    }


# --- from the very first schema on ----------------------------------------------------------------------------


def test_the_first_migration_makes_today_what_it_made_when_it_was_released(tmp_path: Path) -> None:
    """A released migration is never edited: what differs is a new one. (Before the release: ``old_file.py``.)"""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    restore(FIRST, old)
    connection = sqlite3.connect(new)
    later = [migration.name for migration in schema.migrations._migrations[1:]]
    schema.migrations.apply(Tables(connection), stop_before=later)
    connection.close()
    assert structure(new) == structure(old)


@pytest.mark.parametrize("version", OLD_FILES)
async def test_a_file_of_an_earlier_version_is_brought_up_to_date_and_loses_nothing(
    open_again: OpenStore, tmp_path: Path, version: str
) -> None:
    restore(OLD_FILES[version], tmp_path / "data" / "appliance.db")
    store = await open_again()
    batch = await store.buffer.take()
    assert (batch.epoch, batch.floor, batch.settled) == (EPOCH, 3, 1)
    assert [(message.seq, message.device, message.at_ms, message.flags) for message in batch.messages] == [
        (3, "press-08", 1_789_999_999_000, 1),
        (4, "press-07", None, 0),
    ]
    await assert_adds_up(store)
    await store.add(6, device="press-08", msg_id="m-3")
    assert await store.numbers() == [3, 5]
    assert await store.query("SELECT seq, code FROM parked") == [(2, "invalid")]
    await store.add(7)
    assert (await store.buffer.take(after=4)).messages[0].seq == 5


async def test_a_file_that_was_brought_up_to_date_is_built_like_a_new_one(
    open_again: OpenStore, tmp_path: Path
) -> None:
    restore(FIRST, tmp_path / "data" / "appliance.db")
    updated = await open_again()
    await updated.close()
    new = await open_store(tmp_path / "new")
    await new.close()
    assert structure(updated.database.path) == structure(new.database.path)
