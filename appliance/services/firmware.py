"""Firmware files on this box: which updates need which, one download of each, and who fetches them from here."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from appliance.contract.ota import DownloadStatus
from appliance.contract.times import Clock, rfc3339
from appliance.errors import FirmwareError, RequestError
from appliance.store.firmware import FirmwareFiles, Part

log = logging.getLogger(__name__)

MOST_FETCHES = 4
"""Files that are fetched at a time; one server that hangs must not hold up the others."""
MOST_DOWNLOADS = 50
"""Of all devices at a time."""
MOST_DOWNLOADS_OF_UPDATE = 2
BUSY_RETRY_S = 10


@dataclass(frozen=True, slots=True)
class Wish:
    """A file as it was ordered; what is ``None`` nobody has said."""

    url: str = field(repr=False)
    sha256: str | None
    size: int | None

    @property
    def name(self) -> str:
        """Of the file under way: the same for wishes that are the same file."""
        return self.sha256 or f"url-{hashlib.sha256(self.url.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is on disk and was checked."""

    sha256: str
    size: int


class FirmwareSource(Protocol):
    """Where updates get their files from; they are named by the position of the update."""

    @property
    def most_bytes(self) -> int:
        """The largest file that is taken."""

    def want(self, position: int, wish: Wish, done: Callable[[Fetched | str], None]) -> None:
        """Get a file and keep it; ``done`` is called later on the event loop, with why not as text."""

    def hold(self, position: int, sha256: str, size: int | None) -> bool:
        """Keep a file that should be here; whether it is."""

    def drop(self, position: int) -> None:
        """The update needs its file no more; a download only for it ends."""

    def resumed(self) -> None:
        """All updates from before a restart have said what they need."""

    def downloads(self, position: int) -> DownloadStatus | None:
        """What its device has fetched so far."""


class Fetcher(Protocol):
    """Fetches a file into a part, until it is whole and right; :class:`FirmwareError` if that cannot be."""

    async def fetch(self, wish: Wish, part: Part, /) -> None: ...


class _Want:
    __slots__ = ("done", "wish")

    def __init__(self, wish: Wish, done: Callable[[Fetched | str], None]) -> None:
        self.wish = wish
        self.done = done


class _Job:
    """One file that is fetched, for one or more updates."""

    __slots__ = ("name", "task", "wants")

    def __init__(self, name: str) -> None:
        self.name = name
        self.wants: dict[int, _Want] = {}
        self.task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Downloads:
    active: int = 0
    requests: int = 0
    bytes_sent: int = 0
    last_ms: int = 0


class FirmwareService:
    """Keeps what open updates need. Use :meth:`run` as a task; without it nothing is fetched."""

    def __init__(self, *, files: FirmwareFiles, fetcher: Fetcher, clock: Clock) -> None:
        self.active_downloads = 0
        self.bytes_sent = 0
        """To devices, since the start."""
        self._files = files
        self._fetcher = fetcher
        self._clock = clock
        self._held: dict[int, str] = {}
        self._jobs: dict[str, _Job] = {}
        self._job_of: dict[int, _Job] = {}
        self._downloads: dict[int, _Downloads] = {}
        self._wake = asyncio.Event()
        self._clean = False

    # --- for updates -----------------------------------------------------------------------------------------

    @property
    def most_bytes(self) -> int:
        """See :class:`FirmwareSource`, likewise below."""
        return self._files.most_bytes

    @property
    def stored_bytes(self) -> int:
        """Size of all files here."""
        return self._files.total_bytes

    def want(self, position: int, wish: Wish, done: Callable[[Fetched | str], None]) -> None:
        """See :class:`FirmwareSource`."""
        job = self._jobs.get(wish.name)
        if job is None:
            job = self._jobs[wish.name] = _Job(wish.name)
        job.wants[position] = _Want(wish, done)
        self._job_of[position] = job
        self._wake.set()

    def hold(self, position: int, sha256: str, size: int | None) -> bool:
        """See :class:`FirmwareSource`. A file of another size than it had is not it."""
        found = self._files.size(sha256)
        if found is None or (size is not None and found != size):
            return False
        self._held[position] = sha256
        return True

    def drop(self, position: int) -> None:
        """See :class:`FirmwareSource`."""
        self._held.pop(position, None)
        self._forget(position)
        job = self._job_of.pop(position, None)
        if job is None:
            return
        job.wants.pop(position, None)
        if not job.wants:
            # whoever wants the same file from now on begins anew, behind this one's end
            if job.task is None:
                self._jobs.pop(job.name, None)
            else:
                job.task.cancel()

    def resumed(self) -> None:
        """See :class:`FirmwareSource`."""
        self._clean = True
        self._wake.set()

    def downloads(self, position: int) -> DownloadStatus | None:
        """See :class:`FirmwareSource`."""
        seen = self._downloads.get(position)
        if seen is None:
            return None
        last_at = rfc3339(seen.last_ms) if seen.last_ms else None
        return DownloadStatus(active=seen.active, requests=seen.requests, bytes_sent=seen.bytes_sent, last_at=last_at)

    # --- for devices -----------------------------------------------------------------------------------------

    @contextmanager
    def download(self, position: int) -> Iterator[Callable[[int], None]]:
        """A place among the downloads; what it gives is called with the bytes that were sent.

        :class:`RequestError` 503 ``busy`` where there is none.
        """
        seen = self._downloads.get(position) or _Downloads()
        if self.active_downloads >= MOST_DOWNLOADS or seen.active >= MOST_DOWNLOADS_OF_UPDATE:
            text = "too many downloads at a time"
            raise RequestError(text, status=503, code="busy", retry_after_s=BUSY_RETRY_S)
        self._downloads[position] = seen

        def sent(size: int) -> None:
            seen.bytes_sent += size
            self.bytes_sent += size
            seen.last_ms = self._clock.now_ms()

        self.active_downloads += 1
        seen.active += 1
        seen.requests += 1
        try:
            yield sent
        finally:
            self.active_downloads -= 1
            seen.active -= 1
            self._forget(position)

    def _forget(self, position: int) -> None:
        """Of an update that has ended nobody asks any more; what its link still opens counts all the same."""
        seen = self._downloads.get(position)
        if seen is not None and not seen.active and position not in self._held:
            del self._downloads[position]

    # --- its own work ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fetch what is wanted until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                if self._clean:
                    self._clean = False
                    await self._files.clean(list(self._jobs))
                running = sum(1 for job in self._jobs.values() if job.task is not None)
                for job in list(self._jobs.values()):
                    if job.task is None and running < MOST_FETCHES:
                        running += 1
                        job.task = group.create_task(self._work(job), name="firmware fetch")
                await self._wake.wait()

    async def _work(self, job: _Job) -> None:
        try:
            while job.wants:
                wish = next(iter(job.wants.values())).wish
                try:
                    fetched = await self._fetch(job, wish)
                except FirmwareError as error:
                    log.warning("a firmware file cannot be had: %s", error)
                    self._give(job, str(error), url=wish.url)
                except Exception:
                    # whatever a server, or the disk, makes a library raise: it ends this file, not the appliance
                    log.exception("a firmware file cannot be had")
                    self._give(job, "an unexpected error; the appliance's log has it", url=wish.url)
                else:
                    self._give(job, fetched)
            await self._files.abandon(job.name)
        except asyncio.CancelledError:
            if not job.wants:
                # nobody wants it any more; when the appliance stops they all still do, and the next one goes on
                await self._files.abandon(job.name)
            raise
        finally:
            self._jobs.pop(job.name, None)
            if job.wants:
                self._jobs[job.name] = fresh = _Job(job.name)
                fresh.wants = job.wants
                self._job_of |= dict.fromkeys(job.wants, fresh)
            self._wake.set()

    async def _fetch(self, job: _Job, wish: Wish) -> Fetched:
        if wish.sha256 is not None and self._files.size(wish.sha256) is not None:
            await self._files.use(wish.sha256)
            return Fetched(wish.sha256, self._files.size(wish.sha256) or 0)
        # where nobody has said what the content is to be, nothing that an earlier process left can be trusted
        part = await self._files.begin(job.name, resume=wish.sha256 is not None)
        part.needed = self._needed
        try:
            await self._fetcher.fetch(wish, part)
            fetched = Fetched(await part.finish(), part.size)
        finally:
            part.close()
        log.info("firmware %s is here, %d bytes", fetched.sha256, fetched.size)
        return fetched

    def _give(self, job: _Job, result: Fetched | str, *, url: str | None = None) -> None:
        """Tell those who waited; of a failure those who want it from the same address."""
        for position, want in list(job.wants.items()):
            if url is not None and want.wish.url != url:
                continue
            del job.wants[position]
            self._job_of.pop(position, None)
            if isinstance(result, Fetched):
                if want.wish.size not in (None, result.size):
                    want.done(f"the file has {result.size} bytes, {want.wish.size} were ordered")
                    continue
                self._held[position] = result.sha256
            want.done(result)

    def _needed(self) -> set[str]:
        wanted = {want.wish.sha256 for job in self._jobs.values() for want in job.wants.values() if want.wish.sha256}
        return {*self._held.values(), *wanted}
