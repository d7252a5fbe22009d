"""What a misbehaving device does beside what it says: to its connections, and through a clone of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from firmware_sim.clone import fight
from firmware_sim.credentials import Credentials
from firmware_sim.disturbance import Disturbance
from firmware_sim.faults import Misbehaviour
from firmware_sim.link import MqttLink


class Mischief:
    """Follows ``misbehaviour`` from :meth:`start` to :meth:`stop`, also when it changes."""

    def __init__(
        self, *, misbehaviour: Misbehaviour, credentials: Callable[[], Credentials], keepalive_s: int, name: str
    ) -> None:
        self._misbehaviour = misbehaviour
        self._credentials = credentials
        self._keepalive_s = keepalive_s
        self._name = name
        self._disturbance: Disturbance | None = None
        self._clone: asyncio.Task[None] | None = None

    def start(self) -> None:
        """The device is paired."""
        self._misbehaviour.on_change = self._apply
        self._apply()

    async def stop(self) -> None:
        """No more of it. An error of the clone is raised here."""
        self._misbehaviour.on_change = lambda: None
        self.disconnected()
        clone, self._clone = self._clone, None
        if clone is not None:
            clone.cancel()
            await asyncio.wait({clone})
            if not clone.cancelled():
                clone.result()

    def connected(self, link: MqttLink) -> None:
        """The device has a connection."""
        self._disturbance = Disturbance(link=link, misbehaviour=self._misbehaviour, keepalive_s=self._keepalive_s)
        self._disturbance.apply()

    def disconnected(self) -> None:
        """It has none any more."""
        if self._disturbance is not None:
            self._disturbance.stop()
            self._disturbance = None

    def _apply(self) -> None:
        if self._disturbance is not None:
            self._disturbance.apply()
        pause_s = self._misbehaviour.get("clone")
        if pause_s is not None and self._clone is None:
            work = fight(credentials=self._credentials, pause_s=pause_s)
            self._clone = asyncio.create_task(work, name=f"clone of {self._name}")
        elif pause_s is None and self._clone is not None:
            self._clone.cancel()
            self._clone = None
