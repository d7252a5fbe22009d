"""Whether anything may be asked of Odoo that changes something there: not before it has said who it is."""

from __future__ import annotations

import asyncio

from appliance.errors import OdooUnavailableError

WAIT_S = 3.0
RETRY_AFTER_S = 10.0


class Gate:
    """Closed at first; ``final`` closes it for longer, so that nobody waits before it."""

    def __init__(self, *, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        self._reason = "Odoo has not said yet which database it is"
        self._moved = asyncio.Event()
        self._open = False
        self._final = False

    def open(self) -> None:
        """Everything may pass."""
        self._open, self._final = True, False
        self._moved.set()

    def close(self, reason: str) -> None:
        """Nothing may pass until :meth:`open`."""
        self._open, self._final, self._reason = False, True, reason
        self._moved.set()

    async def passed(self) -> None:
        """Return once it is open; :class:`OdooUnavailableError` if it is closed, or stays undecided for too long."""
        if not self._open and not self._final:
            self._moved.clear()
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._moved.wait()
            except TimeoutError:
                pass
        if not self._open:
            raise OdooUnavailableError(self._reason, retry_after_s=RETRY_AFTER_S)
