"""Putting a backup back, onto the same box or another one: looked at as a whole before anything is touched.

What was there is moved aside, never deleted. While the files change places a mark stands in the folder with which no
appliance starts on it; it would make itself new keys for those that are not there yet. A restore that was cut off is
begun again, and finds the mark.
"""

from __future__ import annotations

import itertools
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.backup import archive
from appliance.contract.times import Clock
from appliance.errors import BackupError
from appliance.recovery import SETTINGS_FILE
from appliance.secret_files import MASTER_KEY_BYTES
from appliance.store.folder import RESTORE_MARK, DataFolder
from appliance.store.snapshot import check_copy

_STAGE, _ASIDE = ".restoring", "before-restore-"
_KEEP_FREE_BYTES = 64 << 20
_COPIED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back."""

    manifest: archive.Manifest
    folder: Path
    aside: Path | None
    """Where what was there before lies now."""
    settings_path: Path | None
    """The settings of the box that the backup is from; they are not used by themselves."""


def restore_backup(
    path: Path, folder: Path, *, passphrase: str | None = None, force: bool = False, clock: Clock | None = None
) -> Restored:
    """Put a backup into a data folder. ``force``: also where there is something; that is moved aside.

    :class:`BackupError`, :class:`StoreLockedError` where an appliance runs on the folder, :class:`StoreFormatError`.
    """
    data = DataFolder(folder, ballast_bytes=0)
    data.lock(restoring=True)
    try:
        present = [each for each in _entries(folder) if not _is_aside(each)]
        if present and not force and not (folder / RESTORE_MARK).exists():
            raise BackupError(
                f"{folder} is not empty: it holds an appliance of its own; with --force that is moved aside"
            )
        stage = folder / _STAGE
        try:
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir(mode=0o700)
            manifest = _unpack(path, stage, passphrase)
            _check(stage)
            at = datetime.fromtimestamp((clock or Clock()).now_ms() / 1000, UTC)
            aside = _put_in_place(folder, stage, present, f"{_ASIDE}{at:%Y%m%dT%H%M%SZ}")
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise BackupError(f"{error.filename or folder}: {error.strerror}") from error
    finally:
        data.unlock()
    settings = folder / SETTINGS_FILE
    return Restored(manifest, folder, aside, settings if settings.exists() else None)


def _entries(folder: Path) -> list[Path]:
    kept = {"lock", _STAGE, RESTORE_MARK}
    return sorted(each for each in folder.iterdir() if each.name not in kept)


def _is_aside(path: Path) -> bool:
    return path.name.startswith(_ASIDE)


def _unpack(path: Path, stage: Path, passphrase: str | None) -> archive.Manifest:
    with archive.reading(path, passphrase=passphrase) as members:
        for name, size, source in members.members():
            free = shutil.disk_usage(stage).free
            if free - size < _KEEP_FREE_BYTES:
                raise BackupError(f"the disk of {stage.parent} has {free >> 20} MiB free: {size >> 20} MiB are needed")
            target = stage / (SETTINGS_FILE if name == archive.SETTINGS else name.removeprefix("data/"))
            target.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                while data := source.read(_COPIED_BYTES):
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
        return members.manifest


def _check(stage: Path) -> None:
    """What must be in it, and whole."""
    database = stage / archive.DATABASE.removeprefix("data/")
    if not database.is_file():
        raise BackupError("it holds no buffer")
    check_copy(database)
    os.chmod(database, 0o640)
    key = stage / "master.key"
    if not key.is_file() or key.stat().st_size != MASTER_KEY_BYTES:
        raise BackupError("it holds no master key")


def _put_in_place(folder: Path, stage: Path, present: list[Path], aside_name: str) -> Path | None:
    """From here on the mark stands until all is done."""
    names = itertools.chain([aside_name], (f"{aside_name}-{number}" for number in itertools.count(2)))
    aside = next(folder / name for name in names if not (folder / name).exists())
    mark = folder / RESTORE_MARK
    mark.touch(mode=0o600)
    _sync(folder)
    if present:
        aside.mkdir(mode=0o700)
        for each in present:
            os.replace(each, aside / each.name)
        _sync(aside)
    for each in sorted(stage.iterdir()):
        os.replace(each, folder / each.name)
    for each in (folder / "tls", folder):
        with suppress(FileNotFoundError):
            _sync(each)
    mark.unlink()
    _sync(folder)
    return aside if present else None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
