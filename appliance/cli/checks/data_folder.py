"""The data folder: that it can be used, and what is in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from appliance.cli.checks.base import Check, Finding, failed, ok
from appliance.cli.checks.surroundings import Surroundings
from appliance.cli.exits import Exit

_RIGHTS = "give it to the appliance's user, or run this as that user, or as root"
_KEY_BYTES = 32


class DataFolderCheck(Check):
    """Whether this user may work in it."""

    name, title = "data_folder", "Data folder"
    before_start = True

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Rights, and the master key."""
        found = list(problems(box.folder))
        yield from found or [ok(f"{box.folder} can be used")]


def problems(folder: Path) -> Iterator[Finding]:
    """Why nothing can be done with the folder."""
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        yield _failed(f"IIOT_DATA_DIR: {nearest} is no folder", "name another folder")
    elif not os.access(nearest, os.W_OK | os.X_OK):
        what = "may not be written to" if nearest == folder else "cannot be made"
        yield _failed(f"IIOT_DATA_DIR: {folder} {what} by this user", _RIGHTS)
    elif nearest == folder:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not os.access(path, os.R_OK | os.W_OK):
                yield _failed(f"IIOT_DATA_DIR: {path} may not be read and written by this user", _RIGHTS)
        key = folder / "master.key"
        if key.is_file() and key.stat().st_size != _KEY_BYTES:
            text = f"{key} is damaged: every device's password is derived from it"
            yield _failed(text, "put a backup back (iiot-appliance restore)")
        if (folder / "restore-unfinished").exists():
            text = f"a backup was being put back into {folder}, and that was cut off"
            yield _failed(text, "run iiot-appliance restore again")


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _failed(reason: str, remedy: str) -> Finding:
    return failed(reason, remedy, status=Exit.DATA_FOLDER)
