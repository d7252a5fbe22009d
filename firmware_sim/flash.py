"""A device's flash: a folder with small JSON files that are replaced as a whole, and images."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; what cannot be read counts as empty, as on a device that lost power while it was made."""
    with suppress(FileNotFoundError, ValueError):
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file, mode 0600, so that it holds the old or the new content whenever the power fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in it durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def firmware_folder(credentials: Path) -> Path:
    """Where the firmware of a device lies whose credentials are in this file."""
    return credentials.with_name(credentials.name.removesuffix(".json") + "-firmware")


class Flash:
    """``folder`` keeps everything; with ``None`` it is a temporary one, made when something is kept for the first time
    and gone with :meth:`close`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def path(self, name: str) -> Path:
        """Where something of this name lies; its folder exists."""
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="iiot-device-", ignore_cleanup_errors=True)
            self._folder = Path(self._temporary.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / name

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file; empty if it is not there."""
        return {} if self._folder is None else read_json(self._folder / name)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Replace a JSON file."""
        write_json(self.path(name), content)

    def close(self) -> None:
        """Let go of a temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
            self._folder = None
