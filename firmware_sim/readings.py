"""When a device takes a reading, and what it then has to say; a misbehaving one says more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from pydantic_core import to_json

from appliance.contract.times import Clock, rfc3339
from firmware_sim.faults import Misbehaviour
from firmware_sim.send_queue import Outgoing
from firmware_sim.signals import Signal

OVERSIZE_BYTES = 300_000
"""More than the 262,144 bytes that an appliance takes unless told otherwise."""
TELEMETRY = "telemetry"


class Readings:
    """``beat`` is called when a reading is due; ``every_s`` says how far apart they are now.

    ``jitter`` is the part of that time by which a reading may come late, so that a fleet does not speak in step.
    """

    def __init__(
        self,
        *,
        signal: Signal,
        random: Random,
        clock: Clock,
        misbehaviour: Misbehaviour,
        every_s: Callable[[], float],
        beat: Callable[[], None],
        jitter: float,
    ) -> None:
        self._signal = signal
        self._random = random
        self._clock = clock
        self._misbehaviour = misbehaviour
        self._every_s = every_s
        self._beat = beat
        self._jitter = jitter
        self._boot = f"{random.getrandbits(32):08x}"
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.count = 0
        """Readings taken since the start."""

    def schedule(self, delay_s: float) -> None:
        """Take readings in the configured rhythm from then on. A timer, not a task: it fires for every reading."""
        self.stop()
        self._due = self._clock.monotonic() + delay_s
        self._set_timer()

    def new_rhythm(self) -> None:
        """The configured rhythm is another: it holds from now on, if readings are taken at all."""
        if self._timer is not None:
            self.schedule(self._every_s())

    def stop(self) -> None:
        """Take no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def take(self, wrong_topic: str) -> list[Outgoing]:
        """One reading, and what comes with it where the device misbehaves."""
        wrong = self._misbehaviour
        self.count += 1
        msg_id = f"{self._boot}-{self.count}"
        now_ms = self._clock.now_ms() + round((wrong.get("clock-skew") or 0.0) * 1000)
        payload = to_json({"ts": rfc3339(now_ms), "msg_id": msg_id, **self._signal.sample()})
        messages = [Outgoing(TELEMETRY, payload, msg_id)]
        if wrong.now("duplicate"):
            messages.append(Outgoing(TELEMETRY, payload, odd="duplicate"))
        if wrong.now("wrong-topic"):
            messages.append(Outgoing(wrong_topic, payload, odd="wrong-topic"))
        if wrong.now("bad-json"):
            messages.append(Outgoing(TELEMETRY, payload[:-1], odd="bad-json"))
        if wrong.now("oversize"):
            messages.append(Outgoing(TELEMETRY, b'"%d ' % self.count + b"x" * OVERSIZE_BYTES + b'"', odd="oversize"))
        return messages

    def _set_timer(self) -> None:
        late_s = self._random.random() * self._jitter * self._every_s()
        wait_s = max(0.0, self._due - self._clock.monotonic()) + late_s
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._fire)

    def _fire(self) -> None:
        # missed beats are left out, not made up for
        self._due = max(self._due + self._every_s(), self._clock.monotonic())
        self._set_timer()
        self._beat()
