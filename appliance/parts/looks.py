"""What is looked at now and then for health and metrics: disk, dead letters, ledger, and how fast readings come."""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from appliance.contract.times import Clock
from appliance.errors import StoreUnavailableError
from appliance.store.database import Database
from appliance.store.dead_letters import Stock, read_stock
from appliance.store.ledger import check_ledger, read_total
from appliance.store.parked import MOST_PARKED, MOST_PARKED_BYTES

EVERY_S = 10.0
LEDGER_EVERY = 6
"""Looks: the whole ledger is held against itself once a minute."""
RATE_LOOKS = 6
"""The rate is that of the last so many looks, about a minute."""


class Looks:
    """Everything as of the last look. The disk is looked at in a thread, because a sick one may take its time."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._count = 0
        self._received: deque[tuple[float, int]] = deque(maxlen=RATE_LOOKS + 1)
        self.disk: Mapping[str, int] = {}
        """``total_bytes``, ``free_bytes`` and ``file_bytes``; empty before the first look."""
        self.dead_letters: Stock | None = None
        """``None`` while the store cannot be asked, as the next."""
        self.adds_up: bool | None = None
        """Whether the ledger does."""

    @property
    def readings_per_s(self) -> float | None:
        """Over the last minute, or since the start where that is shorter; ``None`` before two looks."""
        if len(self._received) < 2:
            return None
        (begin, first), (end, last) = self._received[0], self._received[-1]
        return max(last - first, 0) / (end - begin) if end > begin else None

    @property
    def received(self) -> int | None:
        """How many readings were ever received; ``None`` while the store cannot be asked."""
        return self._received[-1][1] if self._received else None

    @property
    def dead_letters_share(self) -> float:
        """How full the list of dead letters is, from 0 to 1."""
        stock = self.dead_letters
        return 0.0 if stock is None else max(stock.rows / MOST_PARKED, stock.payload_bytes / MOST_PARKED_BYTES)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Look once."""
        with suppress(OSError):
            # a disk that cannot even be looked at is the store's to report; the looking must go on
            self.disk = await asyncio.to_thread(_disk, self._database.path)
        try:
            await self._ask_the_store()
        except StoreUnavailableError:
            self.dead_letters, self.adds_up = None, None
            self._received.clear()
            self._count = 0

    async def _ask_the_store(self) -> None:
        total, _ = await self._database.run(read_total)
        self._received.append((self._clock.monotonic(), total.received))
        self.dead_letters = await self._database.run(read_stock)
        if self._count % LEDGER_EVERY == 0:
            self.adds_up = await self._database.run(check_ledger)
        self._count += 1


def _disk(path: Path) -> dict[str, int]:
    usage = shutil.disk_usage(path.parent)
    file_bytes = sum(each.stat().st_size for each in path.parent.glob(path.name + "*"))
    return {"total_bytes": usage.total, "free_bytes": usage.free, "file_bytes": file_bytes}
