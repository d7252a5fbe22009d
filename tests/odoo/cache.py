"""The folder outside the checkout where what takes long is kept between runs, and the locks of those who use it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


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


@contextmanager
def held(name: str, *, shared: bool = False, wait: bool = True, note: str = "") -> Iterator[bool]:
    """
    Holds the lock of that name, alone or shared, and yields whether it is held: ``False`` only with ``wait=False``.

    The kernel lets go of it when this process ends, however it ends. `note` is said when somebody else must be waited
    for.
    """
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with (folder / name).open("a") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            if note:
                say(note)
            fcntl.flock(file, kind)
        yield True


def make(target: Path, build: Callable[[Path], None]) -> Path:
    """
    Lets `build` fill a folder beside `target` and renames it when it is whole, unless `target` is there already.

    What an interrupted run left behind is thrown away; two runs at once make it once.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with held(f"make-{target.name}", note=f"Another run is making {target.name}; waiting for it"):
        if not target.exists():
            part = target.with_name(f".{target.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            build(part)
            part.rename(target)
    return target
