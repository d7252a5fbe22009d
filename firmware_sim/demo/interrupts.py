"""Ctrl-C and its like: they end the play, and nothing interrupts what is cleaned up behind it."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def cancel_on_signals(task: asyncio.Task[int]) -> None:
    """Cancel the task. Not by the loop's own handlers: those end with it, and then a Ctrl-C would be a traceback."""
    loop = asyncio.get_running_loop()

    def interrupt(_number: int, _frame: object) -> None:
        with suppress(RuntimeError):  # the loop is closed, it is all over
            loop.call_soon_threadsafe(task.cancel)

    for number in SIGNALS:
        signal.signal(number, interrupt)


def ignore_signals() -> None:
    """Once all is over: the interpreter, on its way out, would make them deadly again, and change the exit status."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
