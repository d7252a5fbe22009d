"""One SQLite file, one connection, one writer thread; everybody else hands over a job or a row and awaits its commit.

Group commit: the thread commits whatever has gathered since its last commit, with ``synchronous=FULL``. No timer
delays a commit; while one is being synced the next one gathers. Results and receipts reach the event loop only after
the commit (architecture, decision 2).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from appliance.contract.times import Clock
from appliance.errors import StoreFormatError, StoreLockedError, StoreUnavailableError
from appliance.store.connection import connect, is_medium_error

log = logging.getLogger(__name__)
T = TypeVar("T")

FILE_NAME = "appliance.db"
BALLAST_BYTES = 512 * 1024
GROUP_ROWS = 4096
RETRY_S = 1.0
IDLE_S = 5.0
Row = tuple[Any, ...]
"""A hot-path entry: (columns, msg_id digest or None, receipt). See :mod:`appliance.store.buffer`."""


class RowSink(Protocol):
    """Who turns rows into SQL; all methods run in the writer thread."""

    def write(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Insert a group's rows inside its transaction."""

    def housekeep(self, connection: sqlite3.Connection) -> None:
        """Small chores inside the transaction of any group."""

    def before_jobs(self, connection: sqlite3.Connection) -> None:
        """The rows of a group are written, its jobs come next."""

    def committed(self, connection: sqlite3.Connection) -> None:
        """The group is on disk."""

    def undone(self, connection: sqlite3.Connection) -> None:
        """The group was rolled back, or the file reopened: forget what it left in memory."""


class _Job:
    __slots__ = ("error", "fn", "future", "receipt", "result")

    def __init__(self, fn: Callable[[sqlite3.Connection], Any], future: asyncio.Future[Any], receipt: object) -> None:
        self.fn = fn
        self.future = future
        self.receipt = receipt
        self.result: Any = None
        self.error: BaseException | None = None


class Database:
    """The one door to the database file of a data folder. Make it with :meth:`open`."""

    def __init__(self, folder: Path, *, quota_bytes: int, clock: Clock) -> None:
        self.path = folder / FILE_NAME
        self.clock = clock
        self.epoch = ""
        self.unavailable: str | None = None
        """Why nothing can be committed now, or ``None``; read by health."""
        self.committed: Callable[[list[Any]], None] = lambda receipts: None
        """Called on the event loop after each commit with the receipts of its rows and jobs, in their order."""
        self.withheld: Callable[[list[Any]], None] = lambda receipts: None
        """Called with the receipts of jobs that raised: what they stand for is not stored, and never will be."""
        self.failed: asyncio.Future[None]
        """Gets an exception if the writer thread dies of something it cannot mend; the process must end then."""
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._connection: sqlite3.Connection
        self._sink: RowSink | None = None
        self._entries: deque[Row | _Job] = deque()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._waking = False
        self._kick_scheduled = False
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._lock_file: int | None = None
        self._closing = False

    # --- opening and closing ---------------------------------------------------------------------------------

    @classmethod
    async def open(cls, folder: Path, *, quota_bytes: int = 4 << 30, clock: Clock | None = None) -> Database:
        """Lock the folder, open or make the file, migrate it and start the writer.

        Raises :class:`StoreLockedError`, :class:`StoreFormatError` or :class:`StoreUnavailableError`.
        """
        database = cls(folder, quota_bytes=quota_bytes, clock=clock or Clock())
        database._loop = asyncio.get_running_loop()
        database.failed = database._loop.create_future()
        await database._loop.run_in_executor(None, database._start)
        return database

    def _start(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._lock_file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StoreUnavailableError(f"the data folder {self._folder} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_file)
            self._lock_file = None
            raise StoreLockedError(f"another appliance already works on the data folder {self._folder}") from None
        try:
            self._connect()
            self._make_ballast()
        except BaseException:
            self._unlock()
            raise
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        self._connection = connect(self.path, quota_bytes=self._quota_bytes)
        self.epoch = self._connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0]

    def _make_ballast(self) -> None:
        """Half a megabyte that is given back when the disk is full, so that deleting is possible at all."""
        path = self._folder / "ballast"
        try:
            if not path.exists() or path.stat().st_size < BALLAST_BYTES:
                path.write_bytes(os.urandom(BALLAST_BYTES))
        except OSError:
            path.unlink(missing_ok=True)

    def _drop_ballast(self) -> None:
        (self._folder / "ballast").unlink(missing_ok=True)

    def _unlock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    async def close(self) -> None:
        """Commit what was handed over, end the writer, close the file and release the folder."""
        if self._thread is None:
            return
        self._closing = True
        self._wake.put(True)
        thread, self._thread = self._thread, None
        await self._loop.run_in_executor(None, thread.join)
        await self._loop.run_in_executor(None, self._connection.close)
        self._unlock()

    def attach(self, sink: RowSink) -> None:
        """Name who writes the rows given to :meth:`append`; once, before the first row."""
        self._sink = sink

    # --- on the event loop -----------------------------------------------------------------------------------

    def append(self, row: Row) -> None:
        """Hand over a row; it is committed with the next group."""
        self._entries.append(row)
        if not self._kick_scheduled:
            self._kick_scheduled = True
            # one wake-up for all that this turn of the loop brings
            self._loop.call_soon(self._kick)

    async def run(self, job: Callable[[sqlite3.Connection], T], *, receipt: object = None) -> T:
        """Run ``job`` in the writer thread inside a group's transaction; returns after the commit.

        A job that raises is undone alone and its error raised here. ``receipt`` is handed to :attr:`committed`
        after the commit, to :attr:`withheld` when the job raised. :class:`StoreUnavailableError` if nothing can be committed now;
        a job with a receipt waits instead, as rows do.
        """
        return await self.submit(job, receipt=receipt)

    def submit(self, job: Callable[[sqlite3.Connection], T], *, receipt: object = None) -> asyncio.Future[T]:
        """Like :meth:`run`, for callers that do not wait."""
        future: asyncio.Future[T] = self._loop.create_future()
        if self._thread is None:
            future.set_exception(StoreUnavailableError("the store is closed"))
            return future
        self._entries.append(_Job(job, future, receipt))
        if not self._kick_scheduled:
            self._kick_scheduled = True
            self._loop.call_soon(self._kick)
        return future

    @property
    def queued(self) -> int:
        """Rows and jobs that wait for the writer."""
        return len(self._entries)

    def _kick(self) -> None:
        self._kick_scheduled = False
        if not self._waking:
            self._waking = True
            self._wake.put(True)

    def _deliver(self, entries: Sequence[Row | _Job]) -> None:
        receipts: list[Any] = []
        withheld: list[Any] = []
        jobs: list[_Job] = []
        for entry in entries:
            if isinstance(entry, _Job):
                jobs.append(entry)
                if entry.receipt is not None:
                    (receipts if entry.error is None else withheld).append(entry.receipt)
            elif entry[-1] is not None:
                receipts.append(entry[-1])
        if receipts:
            self.committed(receipts)
        if withheld:
            self.withheld(withheld)
        self._resolve_all(jobs)

    @staticmethod
    def _resolve(job: _Job) -> None:
        if job.future.done():
            return
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)

    # --- in the writer thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while True:
                with suppress(queue.Empty):
                    self._wake.get(timeout=RETRY_S if self.unavailable else IDLE_S)
                self._waking = False
                while self._turn() and not self.unavailable:
                    pass
                if self._closing and (self.unavailable or not self._entries):
                    self._fail_jobs(self._take(), StoreUnavailableError("the store is closing"))
                    return
        except BaseException as error:
            log.critical("the store's writer ends: %s", error, exc_info=error)
            self.call_on_loop(self._report_death, error)

    def _report_death(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def call_on_loop(self, fn: Callable[..., None], *args: object) -> None:
        """From the writer thread: call ``fn`` on the event loop."""
        try:
            self._loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:
            # the loop is gone: nobody waits any more
            self._closing = True

    def _take(self) -> list[Row | _Job]:
        entries = self._entries
        return [entries.popleft() for _ in range(min(len(entries), GROUP_ROWS))]

    def _turn(self) -> bool:
        """Commit one group; whether another waits already."""
        entries = self._take()
        if self.unavailable:
            entries = self._recover(entries)
            if self.unavailable:
                return False
        if entries or self._sink is not None:
            self._group(entries)
        return bool(self._entries)

    def _group(self, entries: list[Row | _Job]) -> None:
        try:
            self._commit(entries)
        except sqlite3.Error as error:
            if not is_medium_error(error):
                raise
            self._give_up(entries, error)
            return
        if entries:
            self.call_on_loop(self._deliver, entries)

    def _commit(self, entries: Sequence[Row | _Job]) -> None:
        connection = self._connection
        rows = [entry for entry in entries if type(entry) is tuple]
        connection.execute("BEGIN IMMEDIATE")
        try:
            if rows and self._sink is not None:
                self._sink.write(connection, rows)
            if len(rows) != len(entries):
                if self._sink is not None:
                    self._sink.before_jobs(connection)
                for entry in entries:
                    if type(entry) is not tuple:
                        self._run_job(connection, entry)  # type: ignore[arg-type]
            if self._sink is not None:
                self._sink.housekeep(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if self._sink is not None:
            self._sink.committed(connection)

    @staticmethod
    def _run_job(connection: sqlite3.Connection, job: _Job) -> None:
        job.error = None
        connection.execute("SAVEPOINT job")
        try:
            job.result = job.fn(connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and is_medium_error(error):
                raise
            connection.execute("ROLLBACK TO job")
            job.error = error
        connection.execute("RELEASE job")

    # --- when the medium fails -------------------------------------------------------------------------------

    def _give_up(self, entries: list[Row | _Job], error: sqlite3.Error) -> None:
        """Nothing was acknowledged: keep what must not be lost, answer the rest, and try again in a second."""
        self.unavailable = f"{type(error).__name__}: {error}"
        log.error("the store cannot commit, nothing is acknowledged until it can: %s", self.unavailable)
        self._drop_ballast()
        self._put_back(entries)

    def _put_back(self, entries: list[Row | _Job]) -> None:
        keep: list[Row | _Job] = []
        failed: list[Row | _Job] = []
        for entry in entries:
            kept = type(entry) is tuple or entry.receipt is not None  # type: ignore[union-attr]
            (keep if kept else failed).append(entry)
        self._entries.extendleft(reversed(keep))
        self._fail_jobs(failed, StoreUnavailableError(f"nothing can be stored now ({self.unavailable})"))

    def _fail_jobs(self, entries: list[Row | _Job], error: StoreUnavailableError) -> None:
        jobs = [entry for entry in entries if isinstance(entry, _Job)]
        for job in jobs:
            job.error = error
        if jobs:
            self.call_on_loop(self._resolve_all, jobs)

    def _resolve_all(self, jobs: list[_Job]) -> None:
        for job in jobs:
            self._resolve(job)

    def _recover(self, entries: list[Row | _Job]) -> list[Row | _Job]:
        """Open the file anew; jobs that may free space go first and alone. Returns what is still to commit."""
        try:
            self._connection.close()
            self._connect()
            if self._sink is not None:
                self._sink.undone(self._connection)
            bare = [entry for entry in entries if type(entry) is not tuple and entry.receipt is None]  # type: ignore[union-attr]
            for job in bare:
                self._commit([job])
                self.call_on_loop(self._deliver, [job])
                entries.remove(job)
            self._commit(entries)
        except (sqlite3.Error, StoreUnavailableError, StoreFormatError) as error:
            self.unavailable = f"{type(error).__name__}: {error}"
            self._put_back(entries)
            return []
        log.warning("the store commits again")
        self.unavailable = None
        self._make_ballast()
        if entries:
            self.call_on_loop(self._deliver, entries)
        return []
