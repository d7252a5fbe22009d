"""What a misbehaving device does to its own connection: it falls silent, reads slowly, or drops it."""

from __future__ import annotations

import asyncio

from firmware_sim.faults import Misbehaviour
from firmware_sim.link import MqttLink


class Disturbance:
    """Of one connection, from :meth:`apply` to :meth:`stop`. Timers instead of a task: most devices behave."""

    def __init__(self, *, link: MqttLink, misbehaviour: Misbehaviour, keepalive_s: int) -> None:
        self._link = link
        self._misbehaviour = misbehaviour
        self._keepalive_s = keepalive_s
        self._timers: list[asyncio.TimerHandle] = []

    def apply(self) -> None:
        """Do what is asked for now; again whenever that has changed. Silence ends as it was meant to."""
        if self._link.is_frozen:
            return
        self.stop()
        self._link.read_every(self._misbehaviour.get("slow-reading"))
        for kind, act in (("flapping", self._link.abort), ("silence", self._fall_silent)):
            after_s = self._misbehaviour.after_s(kind)
            if after_s is not None:
                self._timers.append(asyncio.get_running_loop().call_later(after_s, act))

    def stop(self) -> None:
        """Nothing more happens."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _fall_silent(self) -> None:
        """As when a switch on the way loses its power: nothing comes, nothing goes, nobody hears of it.

        The firmware notices after twice its keep-alive time; the appliance has to notice before.
        """
        self.stop()
        self._link.freeze()
        again = asyncio.get_running_loop().call_later(2 * self._keepalive_s, self._link.abort)
        self._timers.append(again)
