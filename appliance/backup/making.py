"""Making a backup while the appliance runs: written beside its place, read back, and only then put there."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance import __version__
from appliance.backup import archive
from appliance.contract.times import Clock, rfc3339
from appliance.errors import BackupError
from appliance.sealing import SealKey, derive_key
from appliance.settings import Settings
from appliance.settings_file import settings_text
from appliance.store.folder import FILE_NAME, VOLATILE
from appliance.store.snapshot import Snapshot

MIB = 1 << 20
KEEP_FREE_BYTES = 256 * MIB
"""Of the disk that the data folder is on: readings go before backups."""
KEEP_FREE_ELSEWHERE_BYTES = 16 * MIB
CHECK_S = 60.0
"""How long the database may be looked at before it is copied."""
_LOOK_EVERY_BYTES = 16 * MIB
_STALE_S = 86_400.0
_SUFFIX, _SEALED = ".tar.gz", ".sealed"


@dataclass(frozen=True, slots=True)
class Backup:
    """What was made."""

    path: Path
    size_bytes: int
    encrypted: bool
    manifest: archive.Manifest
    removed: list[Path]
    """Older ones that made room for it."""


def make_backup(
    settings: Settings,
    *,
    folder: Path | None = None,
    path: Path | None = None,
    passphrase: str | None = None,
    keep: int | None = None,
    clock: Clock | None = None,
) -> Backup:
    """Write a backup to ``path``, or under a name with the time into ``folder``, of which the ``keep`` newest stay.

    It is there whole, or not at all. :class:`BackupError`, :class:`StoreError`.
    """
    made_at_ms = (clock or Clock()).now_ms()
    if path is None:
        path = (folder or Path()) / _file_name(settings.mqtt_client_id, made_at_ms, sealed=passphrase is not None)
    key = None if passphrase is None else derive_key(passphrase)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path.parent)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".iiot-backup-", suffix=".new")
        temporary = Path(name)
        try:
            _write(settings, descriptor, temporary, key, rfc3339(made_at_ms))
            manifest = archive.check(temporary, key=key)
            size = temporary.stat().st_size
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        removed = [] if keep is None or folder is None else _remove_old(settings.mqtt_client_id, path, keep)
    except OSError as error:
        raise BackupError(f"{error.filename or path.parent}: {error.strerror}") from error
    return Backup(path, size, key is not None, manifest, removed)


def _write(settings: Settings, descriptor: int, path: Path, key: SealKey | None, made_at: str) -> None:
    data = settings.iiot_data_dir
    with os.fdopen(descriptor, "wb", buffering=MIB) as file:
        if not (data / FILE_NAME).is_file():
            raise BackupError(f"there is nothing to back up: no appliance was ever started on {data} (IIOT_DATA_DIR)")
        with Snapshot(data / FILE_NAME) as snapshot, archive.writing(file, key) as members:
            room = _Room(path, data)
            room.look_for(snapshot.size_bytes // 2)
            manifest = archive.Manifest(
                version=__version__,
                made_at=made_at,
                gateway_uid=_text(data / "gateway_uid"),
                name=settings.mqtt_client_id,
                database_bytes=snapshot.size_bytes,
                database_check=_verdict(snapshot),
            )
            members.add(archive.MANIFEST, manifest.model_dump_json().encode())
            members.add(archive.SETTINGS, settings_text(settings).encode())
            for name, each in small_files(data):
                members.add(f"data/{name}", each.read_bytes())
            members.copy(archive.DATABASE, _Watched(snapshot, room), snapshot.size_bytes)
        file.flush()
        os.fsync(file.fileno())


def _verdict(snapshot: Snapshot) -> archive.DatabaseCheck:
    flaws = snapshot.flaws(CHECK_S)
    return "not finished" if flaws is None else "damaged" if flaws else "ok"


def small_files(data: Path) -> Iterator[tuple[str, Path]]:
    """Keys, certificates and what else is small in a data folder: names and paths."""
    for prefix, folder in (("", data), ("tls/", data / "tls")):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name.startswith(".") or path.name in VOLATILE or path.name.startswith(FILE_NAME):
                continue
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= archive.MOST_SMALL_BYTES:
                yield prefix + path.name, path


class _Room:
    """Looks at the disk that is written to."""

    def __init__(self, path: Path, data: Path) -> None:
        self._path = path
        same = path.parent.stat().st_dev == data.stat().st_dev
        self._keep_free = KEEP_FREE_BYTES if same else KEEP_FREE_ELSEWHERE_BYTES

    def look_for(self, wanted_bytes: int) -> None:
        """:class:`BackupError` if there is not that much, and what is to stay free."""
        free = shutil.disk_usage(self._path.parent).free
        if free - wanted_bytes < self._keep_free:
            raise BackupError(
                f"{self._path.parent} has {free // MIB} MiB free: {wanted_bytes // MIB} MiB are needed, and "
                f"{self._keep_free // MIB} MiB stay free for the rest of the machine; make room, or use another disk"
            )


class _Watched:
    """The snapshot, with a look at the disk now and then."""

    def __init__(self, snapshot: Snapshot, room: _Room) -> None:
        self._snapshot, self._room = snapshot, room
        self._since_look = 0

    def read(self, count: int, /) -> bytes:
        self._since_look += count
        if self._since_look >= _LOOK_EVERY_BYTES:
            self._since_look = 0
            self._room.look_for(0)
        return self._snapshot.read(count)


def _file_name(name: str, at_ms: int, *, sealed: bool) -> str:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{_prefix(name)}{at:%Y%m%dT%H%M%SZ}{_SUFFIX}{_SEALED if sealed else ''}"


def _prefix(name: str) -> str:
    return f"iiot-{re.sub('[^A-Za-z0-9._-]', '_', name)}-"


def _remove_old(name: str, made: Path, keep: int) -> list[Path]:
    """All of this gateway's but the ``keep`` newest; never the one that was just made, whatever the clock says."""
    ours = re.compile(rf"{re.escape(_prefix(name))}\d{{8}}T\d{{6}}Z{re.escape(_SUFFIX)}({re.escape(_SEALED)})?")
    older = sorted((path for path in made.parent.iterdir() if ours.fullmatch(path.name) and path != made), reverse=True)
    removed = older[max(keep, 1) - 1 :]
    for path in removed:
        path.unlink()
    return removed


def _remove_stale(folder: Path) -> None:
    """What a backup left that did not come to its end, long ago."""
    for path in folder.glob(".iiot-backup-*.new"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _STALE_S:
                path.unlink()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
