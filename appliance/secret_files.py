"""Secrets that the appliance makes for itself at the first start and keeps in its data folder, with mode 0600."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from appliance.errors import DataFolderError

MASTER_KEY_BYTES = 32


def master_key(folder: Path) -> bytes:
    """The key that all device passwords are derived from. ``DataFolderError`` if it is damaged."""
    path = folder / "master.key"
    key = secret_file(path, lambda: secrets.token_bytes(MASTER_KEY_BYTES))
    if len(key) != MASTER_KEY_BYTES:
        raise DataFolderError(f"{path} is damaged: restore it, every device's password is derived from it")
    return key


def api_key(folder: Path) -> str:
    """The generated key of the HTTP API. ``DataFolderError`` if its file holds none."""
    path = folder / "api_key"
    key = secret_file(path, lambda: f"{secrets.token_urlsafe(32)}\n".encode()).strip()
    if not key or not key.isascii():
        raise DataFolderError(f"{path} holds no key: remove it and a new one is made")
    return key.decode()


def secret_file(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of ``path``, which is made where it does not exist; two that start at once get the same secret."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        make_folder(path.parent)
        write_file(path, make(), replace=False)
    except OSError as error:
        raise DataFolderError(f"{path}: {error.strerror}") from error
    return secret_file(path, make)


def make_folder(folder: Path) -> None:
    """Make ``folder``, and those above it, for this user alone where they do not exist."""
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.is_dir():
                path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DataFolderError(f"{folder}: {error.strerror}") from error


def write_file(path: Path, content: bytes, *, replace: bool) -> None:
    """Put a file of mode 0600 in place at once and durably; without ``replace`` one that exists stays as it is."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(name, path)
            else:
                with suppress(FileExistsError):
                    os.link(name, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DataFolderError(f"{path}: {error.strerror}") from error
