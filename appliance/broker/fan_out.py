"""The way into amqtt: what attached clients are to see, in bounded memory and at amqtt's pace.

amqtt's own queue has no bound, so this one hands over a hundred messages, then a fence: a message that a session of our
own has subscribed to. The next hundred go when the fence has come out at the other end.

Every message carries an envelope through amqtt: a running number and the publisher's QoS. amqtt sends one copy for each
matching filter, with the QoS of the filter; by the envelope an attached client gets the message once, with the lower of
the publisher's QoS and its own (§3.3.5, §3.8.4).
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from amqtt.broker import Broker

from appliance.broker.adapters import Attachment
from appliance.contract.topics import FENCE_TOPIC

log = logging.getLogger(__name__)

BATCH_MESSAGES = 100
BATCH_BYTES = 1 << 20
FENCE_WITHIN_S = 10.0
"""After which a fence that has not come out is logged. Waiting goes on: more messages would only make it worse."""
START_WITHIN_S = 30.0
MOST_SHARE, MOST_SHARE_WHEN_BUSY, BUSY = 0.5, 0.1, 0.6
"""Of the event loop's time that passing on everything may take; less when its thread is busy for more than 60 % of the
time. Beyond it messages are dropped anyway, and the fan-out contents itself with a tenth of the time, so that those who
are looked at hardly notice who looks on."""
REST, GENTLE_REST = 1, 9
"""How long it rests after a batch, in units of the time the batch took."""
MOST_PAUSE_S = 1.0
MOST_PUBLISHED = 5000
MOST_PUBLISHED_BYTES = 32 << 20

_ENVELOPE = struct.Struct("!QB")


def wrap(number: int, qos: int, payload: bytes) -> bytes:
    """A payload in its envelope."""
    return _ENVELOPE.pack(number, qos) + payload


def unwrap(data: bytes) -> tuple[int, int, bytes]:
    """Running number, publisher's QoS and payload."""
    number, qos = _ENVELOPE.unpack_from(data)
    return number, qos, data[_ENVELOPE.size :]


class _Waiting(NamedTuple):
    number: int
    topic: str
    payload: bytes
    qos: int
    taken: Callable[[], None] | None = None

    @property
    def size(self) -> int:
        return len(self.topic) + len(self.payload)


class _Pace(NamedTuple):
    """Where the clocks and the count of messages stood."""

    time: float
    cpu_time: float
    number: int

    def keeps_up(self, before: _Pace, message_cpu_s: float) -> bool:
        """Whether there is time for all messages that come, if each costs as much as this."""
        passed_s = max(self.time - before.time, 1e-6)
        share = (self.number - before.number) * message_cpu_s / passed_s
        busy = (self.cpu_time - before.cpu_time) / passed_s
        return share < (MOST_SHARE if busy < BUSY else MOST_SHARE_WHEN_BUSY)


class FanOut:
    """Two queues that take turns: what devices published (droppable), and what attached clients published.

    :meth:`run` drains them, slowly enough that ingestion does not notice.
    """

    def __init__(
        self,
        *,
        amqtt: Broker,
        most_messages: int,
        most_bytes: int,
        time: Callable[[], float] = time.monotonic,
        cpu_time: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.dropped = 0
        """Messages of devices that had to make room, and messages of clients that found none."""
        self.stalled = False
        """Whether a fence is overdue: amqtt does not keep up, or does not work."""
        self.number = 0
        """Of the message that came last; each has its own."""
        self._amqtt = amqtt
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._time = time  # finer than the event loop's, which uvloop rounds to milliseconds
        self._cpu_time = cpu_time
        self._sleep = sleep
        self._loop = asyncio.get_running_loop()
        self._readings: deque[_Waiting] = deque()
        self._readings_bytes = 0
        self._published: deque[_Waiting] = deque()
        self._published_bytes = 0
        self._work = asyncio.Event()
        self._fence_reached = asyncio.Event()
        self._probe: Attachment | None = None
        self._probes = 0
        self._fences = 0

    def __len__(self) -> int:
        """Messages that wait."""
        return len(self._readings) + len(self._published)

    # --- from the listener and its sessions ------------------------------------------------------------------

    def offer(self, topic: str, payload: bytes, qos: int) -> None:
        """A device's reading, already stored. Where there is no room, the oldest one goes."""
        self.number += 1
        self._readings.append(_Waiting(self.number, topic, payload, qos))
        self._readings_bytes += len(topic) + len(payload)
        while len(self._readings) > self._most_messages or self._readings_bytes > self._most_bytes:
            self._readings_bytes -= self._readings.popleft().size
            self.dropped += 1
        self._work.set()

    def publish(self, topic: str, payload: bytes, qos: int, taken: Callable[[], None]) -> None:
        """A client's message. ``taken`` is called when it has left the queue, so that the client can be held up;
        the bound of all clients together is beyond what well-behaved sessions reach."""
        size = len(topic) + len(payload)
        if len(self._published) >= MOST_PUBLISHED or self._published_bytes + size > MOST_PUBLISHED_BYTES:
            self.dropped += 1
            self._loop.call_soon(taken)
            return
        self.number += 1
        self._published.append(_Waiting(self.number, topic, payload, qos, taken))
        self._published_bytes += size
        self._work.set()

    # --- at work ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Attach the session that sees the fences. ``TimeoutError`` if amqtt does not answer."""
        self._probes += 1
        answered = asyncio.Event()
        self._probe = Attachment(
            amqtt=self._amqtt,
            client_id=f"appliance/fence/{self._probes}",
            address="127.0.0.1",
            on_publish=self._at_fence,
            on_end=self._probe_lost,
        )
        self._probe.subscribe([FENCE_TOPIC], lambda codes: answered.set())
        try:
            async with asyncio.timeout(START_WITHIN_S):
                await answered.wait()
        except TimeoutError:
            self._probe_lost()
            raise

    async def run(self) -> None:
        """Hand over what waits, until cancelled."""
        pace = _Pace(self._time(), self._cpu_time(), self.number)
        while True:
            await self._work.wait()
            began_at, cpu_time = self._time(), self._cpu_time()
            handed_over = await self._hand_over()
            await self._fence()
            if not self._readings and not self._published:
                self._work.clear()
            before, pace = pace, _Pace(self._time(), self._cpu_time(), self.number)
            keeps_up = pace.keeps_up(before, (pace.cpu_time - cpu_time) / max(handed_over, 1))
            await self._sleep(min((pace.time - began_at) * (REST if keeps_up else GENTLE_REST), MOST_PAUSE_S))

    async def stop(self) -> None:
        """Detach from amqtt; after :meth:`run` has ended."""
        if self._probe is not None:
            self._probe.detach()
            await self._probe.ended()

    async def _hand_over(self) -> int:
        """Give amqtt a batch; how many messages it was."""
        size = 0
        for turn in range(BATCH_MESSAGES):
            waiting = self._next(published_first=turn % 2 == 0) if size < BATCH_BYTES else None
            if waiting is None:
                return turn
            size += waiting.size
            await self._broadcast(waiting.topic, wrap(waiting.number, waiting.qos, waiting.payload))
            if waiting.taken is not None:
                self._loop.call_soon(waiting.taken)
        return BATCH_MESSAGES

    def _next(self, *, published_first: bool) -> _Waiting | None:
        if self._published and (published_first or not self._readings):
            waiting = self._published.popleft()
            self._published_bytes -= waiting.size
            return waiting
        if self._readings:
            waiting = self._readings.popleft()
            self._readings_bytes -= waiting.size
            return waiting
        return None

    async def _broadcast(self, topic: str, data: bytes) -> None:
        # QoS 0 inside amqtt: it would wait for acknowledgements, and forget after 5 s
        await self._amqtt.internal_message_broadcast(topic, data, 0)

    # --- the fence -------------------------------------------------------------------------------------------

    async def _fence(self) -> None:
        """Wait until amqtt has passed on all that it was given."""
        self._fences += 1
        self._fence_reached.clear()
        await self._broadcast(FENCE_TOPIC, wrap(self._fences, 0, b""))
        while not await self._is_reached():
            if self._probe is None:
                with suppress(TimeoutError):
                    await self.start()
                await self._broadcast(FENCE_TOPIC, wrap(self._fences, 0, b""))

    async def _is_reached(self) -> bool:
        try:
            async with asyncio.timeout(FENCE_WITHIN_S):
                await self._fence_reached.wait()
        except TimeoutError:
            if not self.stalled:
                self.stalled = True
                log.error("amqtt has not passed on a message for %d s; viewers see nothing", FENCE_WITHIN_S)
            return False
        if self.stalled:
            self.stalled = False
            log.warning("amqtt passes on messages again")
        return True

    def _at_fence(self, topic: str, data: bytes) -> None:
        if unwrap(data)[0] == self._fences:
            self._fence_reached.set()

    def _probe_lost(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            log.error("amqtt does not serve the appliance's own session")
            probe.detach()
