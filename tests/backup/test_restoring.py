"""Putting a backup back: looked at before anything is touched, and nothing that was there is lost."""

from __future__ import annotations

import io
import os
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from appliance.backup import restoring
from appliance.backup.making import make_backup
from appliance.backup.restoring import restore_backup
from appliance.errors import BackupError, StoreError, StoreLockedError, StoreUnavailableError
from appliance.recovery import SETTINGS_FILE
from appliance.settings import Settings
from appliance.store.database import Database
from appliance.store.folder import RESTORE_MARK, DataFolder


@pytest.fixture
async def backup(settings: Settings, tmp_path: Path) -> Path:
    return make_backup(settings, path=tmp_path / "one.tar.gz").path


def note(folder: Path) -> str:
    with closing(sqlite3.connect(folder / "appliance.db")) as connection:
        return str(connection.execute("SELECT value FROM meta WHERE key = 'note'").fetchone()[0])


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


async def test_a_new_box_becomes_what_the_old_one_was(settings: Settings, backup: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    done = restore_backup(backup, new)
    assert (done.aside, done.manifest.name) == (None, "line 1")
    assert note(new) == "before"
    for name in ("master.key", "gateway_uid", "api_key", "tls/authority.pem", "tls/server.pem"):
        assert (new / name).read_bytes() == (settings.iiot_data_dir / name).read_bytes()
        assert (new / name).stat().st_mode & 0o077 == 0
    assert "MQTT_CLIENT_ID" in (new / SETTINGS_FILE).read_text()
    await (await Database.open(new)).close()


async def test_an_appliance_that_runs_is_not_overwritten(settings: Settings, backup: Path) -> None:
    database = await Database.open(settings.iiot_data_dir)
    with pytest.raises(StoreLockedError):
        restore_backup(backup, settings.iiot_data_dir, force=True)
    await database.close()


async def test_what_was_there_is_kept_aside_and_only_with_force(settings: Settings, backup: Path) -> None:
    data = settings.iiot_data_dir
    with closing(sqlite3.connect(data / "appliance.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = 'after' WHERE key = 'note'")
    before = files(data)
    with pytest.raises(BackupError, match="--force"):
        restore_backup(backup, data)
    assert files(data) == before
    aside = restore_backup(backup, data, force=True).aside
    assert aside is not None
    assert (note(data), note(aside)) == ("before", "after")
    assert restore_backup(backup, data, force=True).aside is not None
    assert note(aside) == "after", "a second restore must not touch what the first one put aside"


@pytest.mark.parametrize("cut", range(3))
async def test_a_restore_that_is_cut_off_can_only_be_begun_again(
    settings: Settings, backup: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """The power goes in the middle, after so many files have changed places."""
    data = settings.iiot_data_dir
    replace = os.replace
    left = [cut * 4]

    def fails(source: Path, target: Path) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fails)
        with pytest.raises(KeyboardInterrupt):
            restore_backup(backup, data, force=True)
    with pytest.raises(StoreUnavailableError, match="cut off"):
        await Database.open(data)
    restore_backup(backup, data)
    assert note(data) == "before"
    assert not (data / RESTORE_MARK).exists()
    assert not (data / restoring._STAGE).exists()
    await (await Database.open(data)).close()


def rewritten(backup: Path, change: Callable[[list[tuple[str, bytes]]], None]) -> Path:
    """The backup with its members changed by ``change``, whole as a file."""
    with tarfile.open(backup) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    change(members)
    path = backup.with_name("changed.tar.gz")
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def renamed(before: str, after: str) -> Callable[[list[tuple[str, bytes]]], None]:
    def change(members: list[tuple[str, bytes]]) -> None:
        members[:] = [(after if name == before else name, content) for name, content in members]

    return change


def without(gone: str) -> Callable[[list[tuple[str, bytes]]], None]:
    def change(members: list[tuple[str, bytes]]) -> None:
        members[:] = [(name, content) for name, content in members if name != gone]

    return change


def other_content(name: str, content: bytes) -> Callable[[list[tuple[str, bytes]]], None]:
    def change(members: list[tuple[str, bytes]]) -> None:
        members[:] = [(each, content if each == name else old) for each, old in members]

    return change


@pytest.mark.parametrize(
    "change",
    [
        renamed("data/api_key", "../outside"),
        renamed("data/api_key", "data/../../outside"),
        renamed("data/api_key", "/tmp/outside"),
        renamed("data/api_key", "data/.hidden"),
        renamed("data/api_key", "data/master.key"),
        without("data/master.key"),
        without("data/appliance.db"),
        without("digests.json"),
        without("manifest.json"),
        other_content("data/master.key", b"another key that has 32 bytes...."[:32]),
        other_content("manifest.json", b'{"format": 2}'),
        other_content("settings.env", bytes((1 << 20) + 1)),
    ],
)
async def test_what_is_no_whole_backup_changes_nothing(
    backup: Path, tmp_path: Path, change: Callable[[list[tuple[str, bytes]]], None]
) -> None:
    new = tmp_path / "deep" / "new"
    with pytest.raises(BackupError):
        restore_backup(rewritten(backup, change), new)
    assert files(new) == {}
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "deep" / "outside").exists()


@pytest.mark.parametrize("damage", ["cut off", "a bit", "no archive", "empty"])
def test_a_damaged_file_changes_nothing(backup: Path, tmp_path: Path, damage: str) -> None:
    content = bytearray(backup.read_bytes())
    if damage == "cut off":
        del content[len(content) * 2 // 3 :]
    elif damage == "a bit":
        content[len(content) // 2] ^= 4
    else:
        content[:] = b"" if damage == "empty" else b"holiday pictures" * 1000
    backup.write_bytes(content)
    with pytest.raises(BackupError):
        restore_backup(backup, tmp_path / "new")
    assert files(tmp_path / "new") == {}


async def test_a_backup_of_a_damaged_buffer_or_a_newer_version_is_refused_before_anything_is_touched(
    settings: Settings, tmp_path: Path
) -> None:
    data = settings.iiot_data_dir
    with closing(sqlite3.connect(data / "appliance.db")) as connection, connection:
        connection.execute("UPDATE _sqlite_migrations SET name = 'm999_later' WHERE name = 'm001_first_schema'")
    with pytest.raises(StoreError, match="newer"):
        make_backup(settings, path=tmp_path / "two.tar.gz")
    with closing(sqlite3.connect(data / "appliance.db")) as connection, connection:
        connection.execute("UPDATE _sqlite_migrations SET name = 'm001_first_schema' WHERE name = 'm999_later'")
    with (data / "appliance.db").open("r+b") as file:
        file.seek(data.joinpath("appliance.db").stat().st_size - 3 * 4096)
        file.write(b"\xff" * 3 * 4096)
    damaged = make_backup(settings, path=tmp_path / "three.tar.gz")
    before = files(data)
    with pytest.raises(StoreError, match="damaged"):
        restore_backup(damaged.path, data, force=True)
    assert files(data) == before


async def test_the_lock_is_free_afterwards(backup: Path, tmp_path: Path) -> None:
    restore_backup(backup, tmp_path / "new")
    folder = DataFolder(tmp_path / "new", ballast_bytes=0)
    folder.lock()
    folder.unlock()


async def test_an_encrypted_backup_is_put_back_with_its_passphrase_alone(settings: Settings, tmp_path: Path) -> None:
    made = make_backup(settings, path=tmp_path / "one.sealed", passphrase="correct horse")
    with pytest.raises(BackupError):
        restore_backup(made.path, tmp_path / "new", passphrase="battery staple")
    restore_backup(made.path, tmp_path / "new", passphrase="correct horse")
    assert note(tmp_path / "new") == "before"
