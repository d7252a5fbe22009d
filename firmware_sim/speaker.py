"""What a device says: its queue, the connection of the moment, and a record of what went out and was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from appliance.contract.times import Clock
from firmware_sim.faults import Misbehaviour
from firmware_sim.link import MqttLink
from firmware_sim.record import Recorder
from firmware_sim.send_queue import Outgoing, SendQueue


class Speaker:
    """Sends what the window allows. ``name`` and ``topics`` are the device's of the moment.

    ``take`` gives what a new reading has to say; with ``full_speed`` it is called whenever there is room. ``settled``
    gets the number of each report that was acknowledged.
    """

    def __init__(
        self,
        *,
        queue: SendQueue,
        recorder: Recorder,
        clock: Clock,
        misbehaviour: Misbehaviour,
        name: Callable[[], str],
        topics: Callable[[], Mapping[str, str]],
        take: Callable[[], list[Outgoing]],
        settled: Callable[[int], None],
        full_speed: bool,
    ) -> None:
        self._queue = queue
        self._recorder = recorder
        self._clock = clock
        self._misbehaviour = misbehaviour
        self._name = name
        self._topics = topics
        self._take = take
        self._settled = settled
        self._full_speed = full_speed
        self._stopped = False
        self._idle = asyncio.Event()
        self.link: MqttLink | None = None
        """The connection, while the device is connected and subscribed."""

    def read(self) -> None:
        """Take a reading and say it."""
        self._queue_reading()
        self.pump()

    def say(self, message: Outgoing) -> None:
        """Anything else."""
        self._idle.clear()
        self._queue.put(message)
        self.pump()

    def stop(self) -> None:
        """Take no more readings; what waits is still sent."""
        self._stopped = True
        self._note_idle()

    async def drained(self) -> None:
        """Wait until everything said has been acknowledged; only after :meth:`stop`."""
        await self._idle.wait()

    def lost(self) -> None:
        """The connection has gone."""
        self.link = None
        self._queue.connection_lost()

    def pump(self) -> None:
        """Send what the window allows."""
        link = self.link
        if link is None or link.is_frozen:
            return
        if self._full_speed:
            while not self._stopped and self._queue.has_room:
                self._queue_reading()
                self._send_next(link)
        while self._send_next(link):
            pass
        self._note_idle()

    def acknowledged(self, mid: int) -> None:
        """PUBACK."""
        message = self._queue.acknowledged(mid)
        if message is not None:
            if message.msg_id is not None:
                waited_ms = round((self._clock.monotonic() - message.sent_at) * 1000, 2)
                self._recorder.note("ack", self._name(), id=message.msg_id, ms=waited_ms)
            self._settle(message)
        self.pump()

    def _queue_reading(self) -> None:
        for message in self._take():
            dropped = self._queue.put(message)
            if dropped is not None and dropped.msg_id is not None:
                self._recorder.note("drop", self._name(), id=dropped.msg_id)

    def _send_next(self, link: MqttLink) -> bool:
        message = self._queue.take()
        if message is None:
            return False
        wrong = self._misbehaviour
        promises_nothing = not self._full_speed and wrong.get("qos0") is not None
        if not message.transmissions:
            # first, so that whatever is acknowledged stands in the record as published
            self._note(message, promises_nothing)
        topic = self._topics().get(message.topic, message.topic)
        if promises_nothing:
            link.publish(topic, message.payload, qos=0)
            self._settle(message)
            return True
        mid = link.publish(topic, message.payload)
        self._queue.sent(mid, message, self._clock.monotonic())
        if message.msg_id is not None and wrong.now("dup-packet"):
            self._recorder.note("odd", self._name(), kind="dup-packet")
            link.repeat(mid, topic, message.payload)
        return True

    def _note(self, message: Outgoing, promises_nothing: bool) -> None:
        if message.msg_id is not None:
            self._recorder.note("pub0" if promises_nothing else "pub", self._name(), id=message.msg_id)
        elif message.odd is not None:
            self._recorder.note("odd", self._name(), kind=message.odd)

    def _settle(self, message: Outgoing) -> None:
        if message.report is not None:
            self._settled(message.report)

    def _note_idle(self) -> None:
        if self._stopped and not len(self._queue):
            self._idle.set()
