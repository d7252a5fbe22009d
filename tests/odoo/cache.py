"""The folder outside the checkout where what takes long is kept between runs, and the locks of those who use it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
UNUSED_S = 30 * 86_400
"""What nobody has used for so long makes room when its like is made."""


def cache_folder() -> Path:
    """``TEST_CACHE``, or a folder in the user's cache. All checkouts share it."""
    if chosen := os.environ.get("TEST_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iiot-appliance-tests"


def say(text: str) -> None:
    """A line of progress for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def short_hash(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


def files_hash(*folders: Path) -> str:
    """One hash of all files in these folders, their names included, whatever place the folders are at."""
    parts: list[str | bytes] = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                parts += [path.relative_to(folder).as_posix(), path.read_bytes()]
    return short_hash(parts)


def lock_file(name: str) -> Path:
    return cache_folder() / "locks" / name


def is_open_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def unused(path: Path) -> bool:
    """Whether a lock or folder that is touched by each use has not been for a month."""
    try:
        return time.time() - path.stat().st_mtime > UNUSED_S
    except FileNotFoundError:
        return False


@contextmanager
def held(name: str, *, shared: bool = False, wait: bool = True, note: str = "") -> Iterator[bool]:
    """
    Holds the lock of that name, alone or shared, and yields whether it is held: ``False`` only with ``wait=False``.

    The kernel lets go of it when this process ends, however it ends. `note` is said when somebody else must be waited
    for.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    path = lock_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                if note:
                    say(note)
                fcntl.flock(file, kind)
            if is_open_at(path, file):  # otherwise what it stood for was removed while we waited
                os.utime(path)
                yield True
                return


def make(target: Path, build: Callable[[Path], None]) -> Path:
    """
    Lets `build` fill a folder beside `target` and renames it when it is whole, unless `target` is there already.

    What an interrupted run left behind is thrown away; two runs at once make it once. Others with the same name but for
    the part after the last dash are thrown away when they have not been used for long.
    """
    if target.exists():
        os.utime(target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with held(f"make-{target.name}", note=f"Another run is making {target.name}; waiting for it"):
        if not target.exists():
            for left in target.parent.glob(f".{target.name}.part-*"):
                shutil.rmtree(left, ignore_errors=True)
            # A name of its own: a child of the run that was killed may still write into the old one.
            part = target.with_name(f".{target.name}.part-{secrets.token_hex(4)}")
            part.mkdir()
            build(part)
            part.rename(target)
            for old in target.parent.glob(f"{target.name.rpartition('-')[0]}-*"):
                if unused(old):
                    shutil.rmtree(old, ignore_errors=True)
    os.utime(target)
    return target
