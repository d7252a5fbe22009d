"""The watchdog: systemd hears from us only while listener, writer and uplink all get on with their work.

Each is asked for progress, not for a flag: the writer has to commit a job of ours, the listener's round must have come
by and nobody may stand at a door that stopped opening, the uplink must not be in the same step for longer than a step
can take. What a restart would not mend is no reason: a full disk is answered at once by a writer that lives, and an
uplink that waits for an absent Odoo sleeps.
"""

from __future__ import annotations

import asyncio
import logging

from appliance.broker.listener import Listener
from appliance.errors import StoreUnavailableError
from appliance.notify import Notifier
from appliance.parts.health import HealthService
from appliance.parts.odoo import OdooLink
from appliance.store.database import Database

log = logging.getLogger(__name__)

LOOKS_IN_TIME = 4
"""Looks in the time that systemd grants: one may fail by chance, and the next feeds again."""
STATUS_EVERY_S = 30.0
"""Without a watchdog systemd is still told how it is."""
ROUND_S = 30.0
"""The listener's round comes every second; a processor that is busy may delay it."""


class Watchdog:
    """:meth:`run` it where systemd listens."""

    def __init__(
        self,
        *,
        notifier: Notifier,
        database: Database,
        listener: Listener,
        odoo: OdooLink | None,
        health: HealthService,
    ) -> None:
        self._notifier = notifier
        self._database = database
        self._listener = listener
        self._odoo = odoo
        self._health = health
        self._asked: asyncio.Future[None] | None = None
        granted_s = notifier.watchdog_s
        self._every_s = STATUS_EVERY_S if granted_s is None else granted_s / LOOKS_IN_TIME

    async def run(self) -> None:
        """Look and feed until cancelled."""
        while True:
            troubles = await self.look(self._every_s)
            if troubles:
                log.error("the watchdog is not fed: %s", "; ".join(troubles))
            else:
                self._notifier.tell("WATCHDOG=1", f"STATUS={self.status()}")
            await asyncio.sleep(self._every_s)

    async def look(self, within_s: float) -> list[str]:
        """What is stuck, in words; waits for the writer's answer, at most so many seconds."""
        troubles = [] if await self._writer_answers(within_s) else ["the store's writer does not answer"]
        if trouble := self._listener.stuck(ROUND_S):
            troubles.append(trouble)
        if self._odoo is not None and (trouble := self._odoo.stuck()):
            troubles.append(trouble)
        return troubles

    def status(self) -> str:
        """One line for ``systemctl status``."""
        health = self._health.health()
        broker, buffer = health.details["broker"], health.details["buffer"]
        said = [f"{broker['devices_online']} devices online", f"{buffer['waiting']} messages wait", *health.reasons]
        return f"{health.status}: {'; '.join(said)}"

    async def _writer_answers(self, within_s: float) -> bool:
        # one question at a time: a writer that hangs must not find a queue of them
        if self._asked is None or self._asked.done():
            self._asked = self._database.submit(_nothing)
        await asyncio.wait({self._asked}, timeout=within_s)
        if not self._asked.done():
            return False
        # a store that cannot commit says so itself, and one that has ended ends the process
        return self._asked.exception() is None or isinstance(self._asked.exception(), StoreUnavailableError)


def _nothing(_: object) -> None:
    """A job that only takes its turn."""
