"""The writer thread: commits what has gathered, and knows what to do when the medium fails.

A failed transaction is rolled back on the same connection. What it may have left in the log is overwritten by the next
one, so nothing of it can come back while this process lives, and it can be tried again without being there twice.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from appliance.errors import StoreError, StoreUnavailableError
from appliance.store.connection import is_damage, is_known_after, is_medium_error
from appliance.store.entries import DamageError, Entry, Job, Row, RowSink
from appliance.store.folder import DataFolder

log = logging.getLogger(__name__)

GROUP_ROWS = 4096
MOST_TOGETHER = 2000
SMALL_GROUP_ROWS = 16
"""If not even so many fit on a full disk, wait."""
IDLE_S = 5.0
GATHER_TURNS = 4
GATHERED_ROWS = 256
"""While the event loop goes on reading what has arrived, the writer leaves it the interpreter lock: at most so many
turns of the loop, or until so many entries are there. It halves what a message costs where each device has one in
flight, and adds no delay: a loop that has nothing to read wakes the writer at once."""


class Writer:
    """Owns the connection. Entries come in by :meth:`put` and leave by ``deliver``, both on the event loop."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        folder: DataFolder,
        connect: Callable[[], sqlite3.Connection],
        deliver: Callable[[Sequence[Entry]], None],
        died: Callable[[BaseException], None],
        loop: asyncio.AbstractEventLoop,
        retry_s: float,
    ) -> None:
        self.unavailable: str | None = None
        self.sink: RowSink | None = None
        self.commits = 0
        """Groups that were committed."""
        self._folder = folder
        self._connect = connect
        self._connection = connection
        self._deliver = deliver
        self._died = died
        self._loop = loop
        self._retry_s = retry_s
        self._retry_at = 0.0
        self.joined: dict[object, Callable[[sqlite3.Connection], None]] = {}
        """Changes by the receipt of the row or job in whose transaction they belong."""
        self._entries: deque[Entry] = deque()
        self._taken: list[Entry] = []
        self._group_rows = GROUP_ROWS
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._waking = False
        self._kick_scheduled = False
        self._closing = False
        self._memory_is_stale = False
        self._must_reopen = False
        self._freed_space = False
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)

    # --- on the event loop -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Hand over; it is committed with the next group."""
        self._entries.append(entry)
        if not self._kick_scheduled:
            self._kick_scheduled = True
            self._loop.call_soon(self._kick, 0, GATHER_TURNS)

    def put_together(self, rows: list[Row]) -> None:
        """Hand over rows of which the last alone has a receipt, :data:`MOST_TOGETHER` at most: they are committed
        together."""
        # one call, during which the writer's thread cannot look into the queue
        self._entries.extend(rows)
        if not self._kick_scheduled:
            self._kick_scheduled = True
            self._loop.call_soon(self._kick, 0, GATHER_TURNS)

    def _kick(self, gathered: int, turns_left: int) -> None:
        """Wake the writer, as soon as a turn of the loop has brought nothing more."""
        entries = len(self._entries)
        if gathered < entries < GATHERED_ROWS and turns_left:
            self._loop.call_soon(self._kick, entries, turns_left - 1)
            return
        self._kick_scheduled = False
        if not self._waking:
            self._waking = True
            self._wake.put(True)

    @property
    def queued(self) -> int:
        """Entries that wait."""
        return len(self._entries)

    async def close(self) -> None:
        """Commit what was handed over, if that is possible now; then end the thread and close the file."""
        self._closing = True
        self._wake.put(True)
        await self._loop.run_in_executor(None, self._thread.join)
        await self._loop.run_in_executor(None, self._connection.close)

    def left_over(self) -> list[Entry]:
        """What the ended thread has not committed."""
        entries = [*self._taken, *self._entries]
        self._taken = []
        self._entries.clear()
        return entries

    # --- in the writer thread --------------------------------------------------------------------------------

    def call_on_loop(self, fn: Callable[..., None], *args: object) -> None:
        """Call ``fn`` on the event loop, after everything that was delivered before."""
        try:
            self._loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:
            # the loop is gone: nobody waits any more
            self._closing = True

    def _work(self) -> None:
        try:
            while True:
                idle = self._wait()
                while not self.unavailable and self._turn(idle=idle):
                    idle = False
                if self.unavailable:
                    self._recover()
                if self._closing and (self.unavailable or not self._entries):
                    return
        except BaseException as error:
            self.unavailable = f"the writer has ended: {type(error).__name__}: {error}"
            log.critical("the store's writer ends: %s", error, exc_info=error)
            self.call_on_loop(self._died, error)

    def _wait(self) -> bool:
        """Wait to be woken; whether nobody did in time."""
        # the real clock, as every time-out of a thread is
        wait_s = max(self._retry_at - time.monotonic(), 0.0) if self.unavailable else IDLE_S
        idle = False
        try:
            self._wake.get(timeout=wait_s)
        except queue.Empty:
            idle = True
        self._waking = False
        return idle

    def _turn(self, *, idle: bool) -> bool:
        """Commit one group; without entries only for chores. Whether there is more to do."""
        entries = self._take()
        if not entries and (self.sink is None or not (idle or self.sink.busy)):
            return False
        if not self._try(entries):
            self._put_back(entries)
            self._retry_at = time.monotonic() + self._retry_s
            log.error("the store cannot commit, nothing is acknowledged until it can: %s", self.unavailable)
            return False
        group_was_full = len(entries) >= self._group_rows
        self._group_rows = min(self._group_rows * 2, GROUP_ROWS)
        if entries and self._folder.log_has_outgrown() and not self._checkpoint():
            self._retry_at = time.monotonic() + self._retry_s
            log.error("the store's log cannot be written into its file: %s", self.unavailable)
            return False
        if self._closing:
            return bool(self._entries)
        # what came meanwhile has its own wake-up, unless there is much of it; what did not fit into the group has none
        more = group_was_full or len(self._entries) >= GATHERED_ROWS
        return more or (self.sink is not None and self.sink.busy)

    def _take(self) -> list[Entry]:
        entries = self._entries
        taken = self._taken = [entries.popleft() for _ in range(min(len(entries), self._group_rows))]
        # not in the middle of what was handed over together
        for _ in range(MOST_TOGETHER):
            if not entries or not taken or type(taken[-1]) is not tuple or taken[-1][-1] is not None:
                break
            taken.append(entries.popleft())
        return taken

    def _put_back(self, entries: Sequence[Entry]) -> None:
        self._entries.extendleft(reversed(entries))
        self._taken = []

    def _try(self, entries: list[Entry]) -> bool:
        """Commit a group and deliver it; ``False`` and :attr:`unavailable` if the medium does not let us.

        A job that needs a damaged page is taken out of ``entries`` and told so; everybody else goes on.
        """
        committed = False
        while not committed:
            try:
                if self._memory_is_stale and self.sink is not None:
                    self.sink.undone(self._connection)
                self._memory_is_stale = False
                self._commit(entries)
                committed = True
            except DamageError as damage:
                entries.remove(damage.job)
                self.call_on_loop(self._deliver, [damage.job])
            except sqlite3.Error as error:
                if not is_medium_error(error):
                    raise
                self._note(error)
                return False
        self._taken = []
        if entries:
            self.call_on_loop(self._deliver, entries)
        return True

    def _commit(self, entries: Sequence[Entry]) -> None:
        connection, sink = self._connection, self.sink
        rows = [entry for entry in entries if type(entry) is tuple]
        connection.execute("BEGIN IMMEDIATE")
        try:
            if rows and sink is not None:
                sink.write(connection, rows)
            if len(rows) != len(entries):
                if sink is not None:
                    sink.before_jobs(connection)
                self._run_jobs(connection, entries)
                sink = self.sink  # the first job of all is the one that brings the sink
            elif self.joined:
                self._run_jobs(connection, entries)
            if sink is not None:
                self._freed_space = sink.housekeep(connection, pressed=self.unavailable is not None)
            connection.execute("COMMIT")
        except BaseException:
            self._memory_is_stale = True
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.commits += 1
        if sink is not None:
            sink.committed()

    def _run_jobs(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
        """Jobs, and what joins them or a row, in their order."""
        joined = self.joined
        for entry in entries:
            receipt = entry[-1] if type(entry) is tuple else None
            if isinstance(entry, Job):
                self._run_job(connection, entry)
                receipt = entry.receipt if entry.error is None else None
            if joined and receipt is not None and (change := joined.get(receipt)) is not None:
                change(connection)

    @staticmethod
    def _run_job(connection: sqlite3.Connection, job: Job) -> None:
        job.error = None
        connection.execute("SAVEPOINT job")
        try:
            job.result = job.fn(connection)
        except Exception as error:
            if is_damage(error):
                log.error("the database file is damaged where a job needs it: %s", error)
                job.error = StoreUnavailableError(f"the database file is damaged there ({error})")
                # SQLite takes no more changes in this transaction
                raise DamageError(job) from error
            if is_medium_error(error):
                raise
            connection.execute("ROLLBACK TO job")
            # a future does not take a StopIteration
            job.error = RuntimeError("the job ran out of rows") if isinstance(error, StopIteration) else error
        connection.execute("RELEASE job")

    # --- when the medium fails -------------------------------------------------------------------------------

    def _note(self, error: Exception) -> None:
        self.unavailable = f"{type(error).__name__}: {error}"
        if not is_known_after(error):
            self._must_reopen = True
            self._folder.distrust_log()

    def _recover(self) -> None:
        """Nothing of what failed was acknowledged. Jobs may free space or only read: they go first and each alone."""
        due = self._closing or time.monotonic() >= self._retry_at
        if self._folder.release_ballast():
            self._checkpoint()
        jobs = self._take_jobs()
        if self._must_reopen and not (due and self._reopen()):
            self._refuse(jobs)
        else:
            freed = self._run_alone(jobs)
            if (freed or due) and not self._must_reopen and self._commit_waiting():
                log.warning("the store commits again")
                self.unavailable = None
                return
        if due:
            self._retry_at = time.monotonic() + self._retry_s

    def _take_jobs(self) -> list[Job]:
        """Take the jobs that can fail from anywhere in the queue; behind many rows they would wait for ever."""
        entries = [self._entries.popleft() for _ in range(len(self._entries))]
        self._entries.extendleft(
            entry for entry in reversed(entries) if not (isinstance(entry, Job) and entry.can_fail)
        )
        return [entry for entry in entries if isinstance(entry, Job) and entry.can_fail]

    def _refuse(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.error = StoreUnavailableError(f"nothing can be stored now ({self.unavailable})")
        if jobs:
            self.call_on_loop(self._deliver, jobs)

    def _run_alone(self, jobs: Sequence[Job]) -> bool:
        """Commit each by itself or tell who waits that it is not possible; whether one freed space."""
        freed = False
        for number, job in enumerate(jobs):
            self._taken = list(jobs[number:])
            if not self._must_reopen and self._try([job]):
                freed = freed or self._freed_space
            else:
                self._refuse([job])
        self._taken = []
        return freed

    def _commit_waiting(self) -> bool:
        """Try all that waits; smaller groups where space is short."""
        if not self._checkpoint() or not self._try([]) or not self._folder.keep_ballast():
            return False
        while self._entries:
            entries = self._take()
            if self._try(entries):
                self._group_rows = min(self._group_rows * 2, GROUP_ROWS)
                continue
            self._put_back(entries)
            tried = min(self._group_rows, len(entries))
            self._group_rows = max(tried // 2, 1)
            self._folder.release_ballast()
            if self._must_reopen or not self._try([]) or not self._folder.keep_ballast():
                return False
            if not self._freed_space and tried <= SMALL_GROUP_ROWS:
                return False
        return True

    def _checkpoint(self) -> bool:
        """Let the next transaction write over the log instead of behind it. SQLite's own checkpoints fail silently."""
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            self._note(error)
            return False
        return True

    def _reopen(self) -> bool:
        """Trust nothing after a failed sync (see :mod:`appliance.store.folder`): begin with an empty log.

        What was acknowledged is written from it into the file and synced; then the file is opened afresh.
        """
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise StoreUnavailableError("another program reads the database file")
            self._folder.trust_log()
            fresh = self._connect()
        except (sqlite3.Error, StoreError) as error:
            self.unavailable = f"{type(error).__name__}: {error}"
            return False
        self._connection.close()
        self._connection = fresh
        self._must_reopen = False
        self._memory_is_stale = True
        return True
