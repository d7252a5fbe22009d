"""One SQLite file, one connection, one writer thread; everybody else hands over a job or a row and awaits its commit.

Group commit: the thread commits whatever has gathered since its last commit, with ``synchronous=FULL``. No timer
delays a commit; while one is being synced the next one gathers. Results and receipts reach the event loop only after
the commit (architecture, decision 2).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from appliance.contract.times import Clock
from appliance.errors import StoreUnavailableError
from appliance.store.connection import connect, is_known_after
from appliance.store.entries import Entry, Job, Row, RowSink
from appliance.store.folder import BALLAST_BYTES, DataFolder
from appliance.store.writer import Writer

__all__ = ["Database", "Row", "RowSink"]

T = TypeVar("T")
RETRY_S = 1.0


class Database:
    """The one door to the database file of a data folder. Make it with :meth:`open`."""

    def __init__(self, folder: Path, *, quota_bytes: int, clock: Clock, retry_s: float, ballast_bytes: int) -> None:
        self.clock = clock
        self.epoch = ""
        """Identity of the file: with ``seq`` it names a message for ever."""
        self.committed: Callable[[list[Any]], None] = lambda receipts: None
        """Called on the event loop after each commit with the receipts of its rows and jobs, in their order."""
        self.withheld: Callable[[list[Any]], None] = lambda receipts: None
        """Called with the receipts of jobs that raised: what they stand for is not stored, and never will be."""
        self.failed: asyncio.Future[None]
        """Gets an exception if the writer thread dies of something it cannot mend; the process must end then."""
        self._folder = DataFolder(folder, ballast_bytes=ballast_bytes)
        self._quota_bytes = quota_bytes
        self._retry_s = retry_s
        self._loop: asyncio.AbstractEventLoop
        self._writer: Writer
        self._closed = False

    @property
    def path(self) -> Path:
        """The database file."""
        return self._folder.database_path

    # --- opening and closing ---------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        folder: Path,
        *,
        quota_bytes: int = 4 << 30,
        clock: Clock | None = None,
        retry_s: float = RETRY_S,
        ballast_bytes: int = BALLAST_BYTES,
    ) -> Database:
        """Lock the folder, open or make the file, migrate it and start the writer.

        ``retry_s`` is how long the writer waits before it tries again on a medium that failed, ``ballast_bytes`` what
        is put by for a full disk. Raises :class:`StoreLockedError`, :class:`StoreFormatError` or
        :class:`StoreUnavailableError`.
        """
        database = cls(
            folder,
            quota_bytes=quota_bytes,
            clock=clock or Clock(),
            retry_s=retry_s,
            ballast_bytes=ballast_bytes,
        )
        database._loop = asyncio.get_running_loop()
        database.failed = database._loop.create_future()
        await database._loop.run_in_executor(None, database._start)
        return database

    def _start(self) -> None:
        self._folder.lock()
        try:
            connection = self._open_file()
        except BaseException:
            self._folder.unlock()
            raise
        self._writer = Writer(
            connection,
            folder=self._folder,
            connect=self._connect,
            deliver=self._deliver,
            died=self._bury,
            loop=self._loop,
            retry_s=self._retry_s,
        )
        self.append: Callable[[Row], None] = self._writer.put
        """Hand over a row; it is committed with the next group."""
        self.append_together: Callable[[list[Row]], None] = self._writer.put_together
        """Hand over rows that are committed together; the last alone has a receipt."""
        self._folder.keep_ballast()
        self._writer.start()

    def _open_file(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except StoreUnavailableError:
            if not self._folder.release_ballast():
                raise
        return self._connect()  # the disk was full, and that much is needed to open

    def _connect(self) -> sqlite3.Connection:
        self._folder.renew_log()
        try:
            connection, self.epoch = connect(self.path, quota_bytes=self._quota_bytes)
        except StoreUnavailableError as error:
            if not is_known_after(error.__cause__):
                self._folder.distrust_log()
            raise
        return connection

    async def close(self) -> None:
        """Commit what was handed over, end the writer, close the file and release the folder."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        self._refuse_left_over("the store is closed")
        self._folder.unlock()

    def attach(self, sink: RowSink) -> None:
        """Name who writes the rows given to :attr:`append`; in the writer thread, once, before the first row."""
        self._writer.sink = sink

    # --- on the event loop -----------------------------------------------------------------------------------

    async def run(self, job: Callable[[sqlite3.Connection], T], *, receipt: object = None) -> T:
        """Run ``job`` in the writer thread inside a group's transaction; returns after the commit.

        A job that raises is undone alone and its error raised here. ``receipt`` is handed to :attr:`committed`
        after the commit, to :attr:`withheld` when the job raised. :class:`StoreUnavailableError` if nothing can be
        committed now; a job with a receipt waits instead, as rows do.
        """
        return await self.submit(job, receipt=receipt)

    def submit(self, job: Callable[[sqlite3.Connection], T], *, receipt: object = None) -> asyncio.Future[T]:
        """Like :meth:`run`, for callers that do not wait."""
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            future.set_exception(StoreUnavailableError("the store is closed"))
        elif self.failed.done():
            future.set_exception(StoreUnavailableError(f"nothing can be stored ({self.unavailable})"))
        else:
            self._writer.put(Job(job, future, receipt))
        return future

    def join(self, receipt: object, change: Callable[[sqlite3.Connection], None]) -> None:
        """Run ``change`` in the transaction of the row or job with this receipt, which is to be handed over next.

        It must not fail but by the medium's fault.
        """
        self._writer.joined[receipt] = change

    def part(self, receipt: object) -> None:
        """Take back a :meth:`join`: what has this receipt is not handed over after all."""
        self._writer.joined.pop(receipt, None)

    @property
    def queued(self) -> int:
        """Rows and jobs that wait for the writer."""
        return self._writer.queued

    @property
    def commits(self) -> int:
        """Transactions that were committed since the start."""
        return self._writer.commits

    @property
    def unavailable(self) -> str | None:
        """Why nothing can be committed now, or ``None``."""
        return self._writer.unavailable

    def call_on_loop(self, fn: Callable[..., None], *args: object) -> None:
        """From the writer thread: call ``fn`` on the event loop."""
        self._writer.call_on_loop(fn, *args)

    def _deliver(self, entries: Sequence[Entry]) -> None:
        receipts: list[Any] = []
        withheld: list[Any] = []
        jobs: list[Job] = []
        for entry in entries:
            if isinstance(entry, Job):
                jobs.append(entry)
                if entry.receipt is not None:
                    (receipts if entry.error is None else withheld).append(entry.receipt)
            elif entry[-1] is not None:
                receipts.append(entry[-1])
        if self._writer.joined:
            for receipt in (*receipts, *withheld):
                self._writer.joined.pop(receipt, None)
        try:
            if receipts:
                self.committed(receipts)
            if withheld:
                self.withheld(withheld)
        finally:
            for job in jobs:
                _resolve(job)

    def _bury(self, error: BaseException) -> None:
        """The writer thread has died: nobody may wait for it."""
        self._refuse_left_over(f"nothing can be stored ({self.unavailable})")
        if not self.failed.done():
            self.failed.set_exception(error)

    def _refuse_left_over(self, reason: str) -> None:
        for entry in self._writer.left_over():
            if isinstance(entry, Job):
                entry.error = StoreUnavailableError(reason)
                _resolve(entry)


def _resolve(job: Job) -> None:
    if job.future.done():
        return
    if job.error is not None:
        job.future.set_exception(job.error)
    else:
        job.future.set_result(job.result)
