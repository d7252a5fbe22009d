"""An Odoo that serves: started, waited for, stopped or killed."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.odoo.cache import cache_folder
from tests.odoo.cluster import Cluster, free_port
from tests.odoo.databases import ADDONS, connection, tail
from tests.odoo.releases import Odoo

LOGIN, PASSWORD = "admin", "admin"
"""Of the one person in a new database."""


class ServerError(Exception):
    """Odoo ended or does not answer; the message has the end of its log."""


def living_processes(group: int) -> list[int]:
    """The processes of a group, its leader first."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue  # it has ended meanwhile
            if int(its_group) == group and state not in "ZX":
                found.append(int(folder.name))
    return sorted(found, key=lambda pid: pid != group)


class OdooServer:
    """
    Odoo on one database, at a port of its own on the loopback address; a context manager.

    `workers` 0 is one process with threads. The log goes to `log` and is appended to by each start. Port and database
    stay the same over :meth:`stop`, :meth:`kill` and :meth:`start`, so that clients find it again.
    """

    def __init__(
        self,
        odoo: Odoo,
        cluster: Cluster,
        database: str,
        *,
        workers: int = 0,
        cron_threads: int = 0,
        port: int | None = None,
        addons: tuple[Path, ...] = ADDONS,
        log: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.odoo = odoo
        self.database = database
        self.port = port or free_port()
        self.log = log or cache_folder() / "logs" / f"{database}-server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = odoo.command(
            *connection(odoo, cluster, database),
            *(f"--http-port={self.port}", f"--gevent-port={free_port()}"),
            *(f"--workers={workers}", f"--max-cron-threads={cron_threads}"),
            *options,
            addons=addons,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, timeout_s: float = 120) -> None:
        """Returns when Odoo has loaded the database and answers. Raises :class:`ServerError`."""
        self.launch()
        self.wait_until_ready(timeout_s)

    def launch(self) -> None:
        """Starts the process, and does not wait."""
        assert self.process is None, "it runs already"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self.odoo.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own: workers end with it
            )
        atexit.register(self.kill)

    def wait_until_ready(self, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise ServerError(f"Odoo has ended; {self.log}:\n{tail(self.log)}")
            if self.answers():
                return
            time.sleep(0.1)
        raise ServerError(f"Odoo does not answer within {timeout_s:.0f} s; {self.log}:\n{tail(self.log)}")

    def answers(self, timeout_s: float = 30) -> bool:
        """Whether the database is served: this route goes through its registry, as every route does."""
        try:
            with urllib.request.urlopen(f"{self.url}/web/health", timeout=timeout_s) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def pids(self) -> list[int]:
        """All its processes, the master first: for measuring. Empty when it does not run; zombies do not count."""
        return [] if self.process is None else living_processes(self.process.pid)

    def stop(self, timeout_s: float = 30) -> None:
        """Lets Odoo end in order, and kills what has not ended by then."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """``kill -9`` for all its processes at once."""
        if self.process is None:
            return
        group = self.process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + 10
        while living_processes(group) and time.monotonic() < deadline:  # workers are not our children
            time.sleep(0.01)
        self.process = None
        atexit.unregister(self.kill)

    def __enter__(self) -> OdooServer:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
