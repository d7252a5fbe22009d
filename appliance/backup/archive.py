"""What a backup looks like inside: a ``tar.gz``, encrypted as a whole where there is a passphrase.

manifest.json                   what it is, and of which appliance
settings.env                    the settings that were given
data/…                          keys, certificates, and other small files of the data folder
data/appliance.db               the buffer: readings, devices, commands, ledger
digests.json                    SHA-256 of each, so that reading to the end shows that nothing is missing
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.errors import BackupError, SealError
from appliance.sealing import SealedReader, SealingWriter, SealKey, is_sealed

FORMAT = 1
MANIFEST, SETTINGS, DIGESTS = "manifest.json", "settings.env", "digests.json"
DATABASE = "data/appliance.db"
MOST_SMALL_BYTES = 1 << 20
"""Of each member but the database."""
MOST_MEMBERS = 200
_NAME = re.compile(r"data/(tls/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_READ_BYTES = 1 << 20
_FOREIGN = (tarfile.TarError, EOFError, gzip.BadGzipFile, OSError, ValueError)
"""What reading something that is no backup may raise."""


DatabaseCheck = Literal["ok", "damaged", "not finished"]


class Manifest(BaseModel):
    """The first member."""

    model_config = ConfigDict(frozen=True)

    format: Annotated[int, Field(ge=1)] = FORMAT
    version: str
    """Of the appliance that made it."""
    made_at: str
    gateway_uid: str
    name: str
    database_bytes: Annotated[int, Field(ge=0)]
    database_check: DatabaseCheck
    """What a look at the database said when the backup was made, within its time."""


class Source(Protocol):
    """What a member is read from."""

    def read(self, count: int, /) -> bytes: ...


class ArchiveWriter:
    """Adds members one after another; get it from :func:`writing`."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._digests: dict[str, str] = {}

    def add(self, name: str, content: bytes) -> None:
        """Something small."""
        self.copy(name, BytesIO(content), len(content))

    def copy(self, name: str, source: Source, size: int) -> None:
        """``size`` bytes of a source; :class:`BackupError` if it has fewer."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        hashing = _Hashing(source)
        try:
            self._tar.addfile(info, cast("BinaryIO", hashing))
        except OSError as error:
            if error.args and error.args[0] == "unexpected end of data":
                raise BackupError(f"{name} has become shorter while it was read: try again") from error
            raise
        self._digests[name] = hashing.digest.hexdigest()

    def finish(self) -> None:
        """Add the digests."""
        self.add(DIGESTS, json.dumps(self._digests).encode())


@contextmanager
def writing(file: BinaryIO, key: SealKey | None) -> Iterator[ArchiveWriter]:
    """An archive written to ``file``, encrypted if there is a key; whole once the context was left without an error."""
    sealing = None if key is None else SealingWriter(file, key)
    target = file if sealing is None else cast("BinaryIO", sealing)
    with (
        gzip.GzipFile(fileobj=target, mode="wb", compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w|", bufsize=_READ_BYTES) as tar,
    ):
        archive = ArchiveWriter(tar)
        yield archive
        archive.finish()
    if sealing is not None:
        sealing.finish()


class ArchiveReader:
    """Walks through an archive once; get it from :func:`reading`."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.manifest: Manifest

    def members(self) -> Iterator[tuple[str, int, Source]]:
        """Name, size and content of each but manifest and digests, to be read before the next is asked for.

        :class:`BackupError` for what is no whole backup; that the end was reached says that nothing was wrong.
        """
        digests: dict[str, str] = {}
        promised: dict[str, str] | None = None
        for number, info in enumerate(self._tar):
            source = self._tar.extractfile(info) if info.isreg() else None
            if source is None or number >= MOST_MEMBERS or promised is not None:
                raise BackupError(f"it holds {info.name[:100]!r}, which does not belong there")
            hashing = _Hashing(source)
            if info.name != DATABASE and info.size > MOST_SMALL_BYTES:
                raise BackupError(f"{info.name[:100]!r} in it is too large")
            if (number == 0) != (info.name == MANIFEST):
                raise BackupError("it does not begin with a manifest")
            if info.name == MANIFEST:
                self.manifest = _manifest(hashing.read(info.size))
            elif info.name == DIGESTS:
                promised = json.loads(hashing.read(info.size))
                continue
            elif info.name in (SETTINGS, DATABASE) or (_NAME.fullmatch(info.name) and info.name not in digests):
                yield info.name, info.size, hashing
            else:
                raise BackupError(f"it holds {info.name[:100]!r}, which does not belong there")
            while hashing.read(_READ_BYTES):  # what the caller left
                pass
            digests[info.name] = hashing.digest.hexdigest()
        if promised is None:
            raise BackupError("it is cut off")
        if promised != digests:
            raise BackupError("it is damaged: its contents are not what they were")


@contextmanager
def reading(path: Path, *, passphrase: str | None = None, key: SealKey | None = None) -> Iterator[ArchiveReader]:
    """An archive to walk through. :class:`BackupError` if it is none, damaged, or the passphrase is not right."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            sealed = is_sealed(file.read(8))
            file.seek(0)
            plain: Any = file
            if sealed:
                if passphrase is None and key is None:
                    raise BackupError(f"{path} is encrypted: its passphrase is needed")
                plain = BufferedReader(SealedReader(file, passphrase=passphrase, key=key), _READ_BYTES)
            zipped = stack.enter_context(gzip.GzipFile(fileobj=plain, mode="rb"))
            tar = stack.enter_context(tarfile.open(fileobj=zipped, mode="r|", bufsize=_READ_BYTES))
            yield ArchiveReader(tar)
            while zipped.read(_READ_BYTES):  # the checksum stands at the very end
                pass
        except (BackupError, SealError) as error:
            raise BackupError(str(error)) from error
        except _FOREIGN as error:
            raise BackupError(f"{path} is no backup, or damaged: {error}") from error


def is_encrypted(path: Path) -> bool:
    """Whether a passphrase is needed. :class:`BackupError` if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return is_sealed(file.read(8))
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}") from error


def check(path: Path, *, passphrase: str | None = None, key: SealKey | None = None) -> Manifest:
    """Read a backup from front to back. :class:`BackupError` if anything of it is missing or was changed."""
    with reading(path, passphrase=passphrase, key=key) as archive:
        for _ in archive.members():
            pass
        return archive.manifest


class _Hashing:
    """Passes on what is read, and hashes it."""

    def __init__(self, source: Source | Any) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, count: int, /) -> bytes:
        data: bytes = self._source.read(count)
        self.digest.update(data)
        return data


def _manifest(content: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError:
        raise BackupError("its manifest cannot be read: it is from a newer version, or damaged") from None
    if manifest.format > FORMAT:
        raise BackupError(
            f"it was made by version {manifest.version[:50]}: install that version, or a later one, first"
        )
    return manifest
