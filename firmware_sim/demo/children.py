"""Processes that the demo starts: each has a log, is watched, and ends with the demo whatever happens to it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LONGEST_LINE_BYTES = 1 << 20
LOG_TAIL_LINES = 20


class ChildEndedError(Exception):
    """A child has ended by itself; the text tells which, how, and what it said last."""


class Child:
    """One process. ``arguments`` follow ``python -m``; standard output is read by :meth:`line`, or logged."""

    def __init__(self, name: str, *arguments: str, folder: Path, environment: Mapping[str, str], log_all: bool) -> None:
        self.name = name
        self._arguments = arguments
        self._folder = folder
        self._environment = environment
        self._log_all = log_all
        self._log = folder / f"{name.replace(' ', '-')}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def start(self) -> None:
        """Begin. Ctrl-C of the terminal does not reach it, and it ends when the demo is killed."""
        command = [sys.executable, "-m", *self._arguments]
        if setpriv := shutil.which("setpriv"):  # of util-linux, on every Debian
            command = [setpriv, "--pdeathsig", "TERM", "--", *command]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._folder,  # where no .env lies
                env={**os.environ, **self._environment, "PYTHONPATH": path},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log if self._log_all else asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                limit=LONGEST_LINE_BYTES,
            )

    async def line(self) -> bytes:
        """The next line of its standard output; empty at the end."""
        if self._process is None or self._process.stdout is None:
            return b""
        return await self._process.stdout.readline()

    async def watch(self) -> None:
        """``ChildEndedError`` when it ends before it was told to."""
        if self._process is None:
            return
        status = await self._process.wait()
        if not self._stopping:
            raise ChildEndedError(f"{self.name} ended by itself (status {status}). Its last lines:\n{self.tail()}")

    async def ended(self) -> int:
        """Its exit status, once it has ended by itself."""
        return 0 if self._process is None else await self._process.wait()

    def tail(self) -> str:
        """The last lines of its log."""
        try:
            lines = self._log.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        except OSError:
            lines = []
        return "\n".join(f"  {line}" for line in lines) or "  (it said nothing)"

    def terminate(self) -> None:
        """Tell it to end; :meth:`stop` waits for it."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    async def stop(self, *, within_s: float) -> int | None:
        """End it, by force when the time is over; its exit status."""
        self.terminate()
        if self._process is None:
            return None
        try:
            async with asyncio.timeout(within_s):
                return await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            return await self._process.wait()
