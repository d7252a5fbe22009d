"""A backup is there whole or not at all, holds what makes the appliance itself, and leaves room for the rest."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.backup import archive, making
from appliance.backup.making import make_backup
from appliance.contract.times import Clock
from appliance.errors import BackupError
from appliance.settings import Settings


class FixedClock(Clock):
    def __init__(self, day: int) -> None:
        self.day = day

    def now_ms(self) -> int:
        return 1_800_000_000_000 + self.day * 86_400_000


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def contents(path: Path, passphrase: str | None = None) -> dict[str, bytes]:
    with archive.reading(path, passphrase=passphrase) as members:
        return {name: source.read(size) for name, size, source in members.members()}


async def test_it_holds_keys_certificates_settings_and_the_buffer(settings: Settings, tmp_path: Path) -> None:
    made = make_backup(settings, path=tmp_path / "one.tar.gz")
    found = contents(made.path)
    data = settings.iiot_data_dir
    for name in ("master.key", "gateway_uid", "api_key", "tls/authority.pem", "tls/server.pem"):
        assert found[f"data/{name}"] == (data / name).read_bytes()
    assert found["data/appliance.db"].startswith(b"SQLite format 3\0")
    assert not {"data/lock", "data/ballast", "data/appliance.db-wal"} & found.keys()
    lines = found["settings.env"].decode().splitlines()
    assert {"MQTT_CLIENT_ID='line 1'", "ODOO_API_KEY='5ecret-of-odoo#1'"} < set(lines)
    assert b"5ecret-passphrase" not in found["settings.env"]
    assert made.manifest.database_check == "ok"
    assert made.manifest.gateway_uid == (data / "gateway_uid").read_text().strip()
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600


async def test_with_a_passphrase_nothing_can_be_read_without_it(settings: Settings, tmp_path: Path) -> None:
    made = make_backup(settings, folder=tmp_path / "backups", passphrase="correct horse")
    assert made.path.name.endswith(".tar.gz.sealed")
    assert archive.is_encrypted(made.path)
    assert b"SQLite" not in made.path.read_bytes()
    assert "data/appliance.db" in contents(made.path, "correct horse")
    with pytest.raises(BackupError, match="passphrase is wrong"):
        contents(made.path, "battery staple")
    with pytest.raises(BackupError, match="is needed"):
        contents(made.path)


async def test_the_newest_stay_and_what_is_no_backup_of_this_gateway_is_left_alone(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    strangers = {"iiot-line_2-20260101T000000Z.tar.gz", "iiot-line_1-notes.tar.gz", "holiday.jpg"}
    for name in strangers:
        (folder / name).touch()
    made = [make_backup(settings, folder=folder, keep=3, clock=FixedClock(day)) for day in range(5)]
    assert {path.name for path in folder.iterdir()} == strangers | {each.path.name for each in made[2:]}
    assert [each.removed for each in made] == [[], [], [], [made[0].path], [made[1].path]]
    earlier = make_backup(settings, folder=folder, keep=1, clock=FixedClock(-400))
    assert {path.name for path in folder.iterdir()} == strangers | {earlier.path.name}, "the clock went back"


async def test_a_backup_that_fails_leaves_what_was_there_and_nothing_else(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "backups" / "one.tar.gz"
    make_backup(settings, path=path)
    before = path.read_bytes()
    checked = archive.check

    def fails(path: Path, **more: object) -> archive.Manifest:
        with path.open("r+b") as file:
            file.seek(1000)
            file.write(b"\0\0\0\0")
        return checked(path)

    monkeypatch.setattr(archive, "check", fails)
    with pytest.raises(BackupError):
        make_backup(settings, path=path)
    assert (path.read_bytes(), os.listdir(path.parent)) == (before, [path.name])


async def test_a_disk_without_room_is_told_before_and_meanwhile(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 30, 0, 100 << 20))
    with pytest.raises(BackupError, match="100 MiB free"):
        make_backup(settings, folder=folder)
    looks = iter([1 << 40, 10 << 20])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 30, 0, next(looks)))
    monkeypatch.setattr(making, "_LOOK_EVERY_BYTES", 1000)
    with pytest.raises(BackupError, match="10 MiB free"):
        make_backup(settings, folder=folder)
    assert list(folder.iterdir()) == []


async def test_a_damaged_database_is_copied_all_the_same_and_said_to_be_damaged(
    settings: Settings, tmp_path: Path
) -> None:
    database = settings.iiot_data_dir / "appliance.db"
    with database.open("r+b") as file:
        file.seek(database.stat().st_size - 3 * 4096)
        file.write(b"\xff" * 3 * 4096)
    assert make_backup(settings, path=tmp_path / "one").manifest.database_check == "damaged"


async def test_where_nothing_was_ever_started_there_is_nothing_to_back_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IIOT_DATA_DIR", str(tmp_path / "nothing"))
    with pytest.raises(BackupError, match="ever started"):
        make_backup(Settings(), path=tmp_path / "one")
    assert os.listdir(tmp_path) == []


async def test_what_a_cut_off_backup_left_goes_with_a_later_one(settings: Settings, tmp_path: Path) -> None:
    old, young = tmp_path / ".iiot-backup-a.new", tmp_path / ".iiot-backup-b.new"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    make_backup(settings, path=tmp_path / "one.tar.gz")
    assert (old.exists(), young.exists()) == (False, True)
