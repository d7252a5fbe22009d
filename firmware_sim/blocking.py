"""Blocking work beside the event loop, without keeping the process from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


async def in_thread(work: Callable[[], object], *, undo: Callable[[], None]) -> None:
    """Run blocking work in a daemon thread: a peer that never answers cannot keep the process from ending.

    If the caller is cancelled, ``undo`` runs once the work is over.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.cancelled():
            undo()
        elif error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def body() -> None:
        error: BaseException | None = None
        try:
            work()
        except Exception as caught:
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=body, name="mqtt connect", daemon=True).start()
    await done
