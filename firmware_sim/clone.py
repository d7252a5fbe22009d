"""A second box with the same credentials, as when somebody has copied a flash: the two take over from each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from firmware_sim.credentials import Credentials, link_of
from firmware_sim.link import LinkError


async def fight(*, credentials: Callable[[], Credentials], pause_s: float) -> None:
    """Connect, stay until the other one takes over, wait, and again, until cancelled."""
    while True:
        own = credentials()
        link = link_of(own, own.password, on_message=lambda topic, payload: None, on_ack=lambda mid: None)
        try:
            await link.open(own.mqtt.host, own.mqtt.port)
            await asyncio.shield(link.closed)
        except LinkError:
            pass
        finally:
            await link.close()
        await asyncio.sleep(pause_s)
