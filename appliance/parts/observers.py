"""What watches over clock and connections, built and run as one: the gateway's clock, and the devices' presence."""

from __future__ import annotations

import asyncio

from appliance import RELEASED
from appliance.contract.times import Clock, parse_rfc3339
from appliance.services.gateway_clock import GatewayClock
from appliance.services.presence import PresenceService
from appliance.services.presence_keeper import PresenceKeeper
from appliance.store.database import Database
from appliance.store.presence import PresenceStore


class Observers:
    """Call :meth:`load` before the broker listens, keep :meth:`run` running, and :meth:`close` after its end."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self.gateway_clock = GatewayClock(database=database, clock=clock, released_ms=parse_rfc3339(RELEASED))
        self.presence = PresenceService(clock=clock)
        self.keeper = PresenceKeeper(
            presence=self.presence,
            store=PresenceStore(database),
            clock=clock,
            flags=lambda: int(self.gateway_clock.flag),
        )

    async def load(self) -> None:
        """Read what the file knows."""
        await self.gateway_clock.load()
        await self.keeper.load()

    async def run(self) -> None:
        """Watch, write and tell, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.gateway_clock.run(), name="gateway clock")
            tasks.create_task(self.keeper.run(), name="presence keeper")

    async def close(self) -> None:
        """Write what is left; after the last device has gone."""
        await self.keeper.close()
