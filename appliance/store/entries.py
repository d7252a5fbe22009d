"""What the writer is given, and who it works for."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Protocol

Row = tuple[Any, ...]
"""A hot-path entry: columns, then the receipt. See :meth:`appliance.store.buffer.Buffer.append`."""


class RowSink(Protocol):
    """Who turns rows into SQL; all methods run in the writer thread."""

    @property
    def busy(self) -> bool:
        """Whether chores wait that :meth:`housekeep` does piece by piece."""

    def write(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Insert a group's rows inside its transaction."""

    def before_jobs(self, connection: sqlite3.Connection) -> None:
        """The rows of a group are written, its jobs come next."""

    def housekeep(self, connection: sqlite3.Connection, *, pressed: bool) -> bool:
        """Last in every transaction: small chores. ``pressed``: space is short; returns whether some was freed."""

    def committed(self) -> None:
        """The group is on disk. Must not fail, and therefore not read from it."""

    def undone(self, connection: sqlite3.Connection) -> None:
        """A group was rolled back: read anew what memory holds of the file."""


class Job:
    """A function to run inside a group's transaction, and who waits for it."""

    __slots__ = ("error", "fn", "future", "receipt", "result")

    def __init__(self, fn: Callable[[sqlite3.Connection], Any], future: asyncio.Future[Any], receipt: object) -> None:
        self.fn = fn
        self.future = future
        self.receipt = receipt
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def can_fail(self) -> bool:
        """Whether somebody waits who can be told; a job with a receipt is kept like a row, it must not be lost."""
        return self.receipt is None


Entry = Row | Job


class DamageError(Exception):
    """A job has come upon a damaged page."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
