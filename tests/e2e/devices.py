"""Devices that keep a record: what they published, what was acknowledged and when, which commands reached them.

They reconnect, and resend what was not acknowledged with the same ``msg_id``, as the contract asks of firmware.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, cast

from tests.bench.devices import PairedDevice
from tests.bench.wire import (
    CONNACK,
    DISCONNECT_PACKET,
    PUBACK,
    PUBLISH,
    SUBACK,
    WireError,
    connect_packet,
    puback_packet,
    publish_packet,
    split,
    split_publish,
    subscribe_packet,
)

LAST_ID = 65535
ANSWER = "answer to "
CONNECT_WITHIN_S = 5.0
LONGEST_PAUSE_S = 0.1
"""Between two attempts to connect: short, so that a test is short."""


class Acknowledgement(NamedTuple):
    """When a message went out for the first time and when its PUBACK came, on the monotonic clock."""

    sent_at: float
    acknowledged_at: float


class Outgoing(NamedTuple):
    """A message until it is acknowledged; ``key`` is its ``msg_id``, or names the command that it answers."""

    key: str
    topic: str
    payload: bytes
    at: float


class ReceivedCommand(NamedTuple):
    """A command as it reached the device; ``at`` is on the wall clock, in seconds."""

    command_id: str
    at: float


class Session(asyncio.Protocol):
    """One connection of a :class:`RecordingDevice`."""

    def __init__(self, device: RecordingDevice) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.WriteTransport
        self.error: WireError | None = None
        self._device = device
        self._buffer = bytearray()
        self._last_id = 1  # 1 is SUBSCRIBE's
        self._in_flight: dict[int, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)
        name = self._device.paired.device_id
        self.transport.write(connect_packet(name, username=name, password=self._device.paired.password))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            for first, body in split(self._buffer):
                self._packet(first, body)
        except WireError as error:
            self.error = error
            self.transport.close()

    def _packet(self, first: int, body: bytes) -> None:
        if first == PUBACK:
            key = self._in_flight.pop(int.from_bytes(body, "big"), None)
            if key is None:
                raise WireError(f"acknowledgement of {body.hex()}, which was not in flight")
            self._device.on_acknowledged(key)
        elif first & 0xF0 == PUBLISH:
            topic, packet_id, payload = split_publish(first, body)
            self._device.on_message(topic, payload)
            if packet_id is not None:
                self.transport.write(puback_packet(packet_id))
        elif first == CONNACK and body == b"\0\0":
            self.transport.write(subscribe_packet(list(self._device.paired.topics.receivable())))
        elif first == SUBACK and 0x80 not in body[2:] and not self.ready.done():
            self.ready.set_result(None)
        else:
            raise WireError(f"unexpected answer {first:#x} {body.hex()}")

    def publish(self, message: Outgoing) -> None:
        """Send a message with a packet id that is not in flight; on a lost connection nothing happens."""
        if self.transport.is_closing():
            return
        while True:
            self._last_id = self._last_id % LAST_ID + 1
            if self._last_id not in self._in_flight:
                break
        self._in_flight[self._last_id] = message.key
        self.transport.write(publish_packet(message.topic, message.payload, packet_id=self._last_id))

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.ready, self.lost):
            if not future.done():
                future.set_result(None)


class RecordingDevice:
    """A device with a memory. Use :meth:`run` as its task; ``full_speed`` keeps its window full by itself."""

    def __init__(
        self, paired: PairedDevice, *, port: int, window: int = 20, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.paired = paired
        self.window = window
        self.full_speed = False
        self.published = 0
        self.acknowledged: dict[str, Acknowledgement] = {}
        self.commands: list[ReceivedCommand] = []
        self.disconnected = 0
        self.connected = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while nothing is unacknowledged."""
        self.idle.set()
        self._port = port
        self._clock = clock
        self._unacknowledged: dict[str, Outgoing] = {}
        self._session: Session | None = None

    async def run(self) -> None:
        """Stay connected until cancelled."""
        try:
            while True:
                with suppress(OSError, TimeoutError):
                    await self._one_session()
                await asyncio.sleep(random.uniform(0, LONGEST_PAUSE_S))
        finally:
            if self._session is not None:
                self._session.transport.write(DISCONNECT_PACKET)
                self._session.transport.close()

    async def _one_session(self) -> None:
        loop = asyncio.get_running_loop()
        _, session = await loop.create_connection(lambda: Session(self), "127.0.0.1", self._port)
        try:
            await asyncio.wait_for(session.ready, CONNECT_WITHIN_S)
            if session.lost.done():
                return
            self._session = session
            self.connected.set()
            for message in self._unacknowledged.values():
                session.publish(message)
            self._top_up()
            await session.lost
            self.disconnected += 1
        finally:
            if session.error is not None:
                raise session.error
            self._session = None
            self.connected.clear()
            session.transport.close()

    def publish(self) -> None:
        """Publish one reading, now or as soon as there is a connection."""
        self.published += 1
        msg_id = f"{self.paired.device_id}/{self.published}"
        body = {"msg_id": msg_id, "temperature": 71.3, "n": self.published}
        self._send(Outgoing(msg_id, self.paired.topics.telemetry, json.dumps(body).encode(), self._clock()))

    def _send(self, message: Outgoing) -> None:
        self._unacknowledged[message.key] = message
        self.idle.clear()
        if self._session is not None:
            self._session.publish(message)

    @property
    def unacknowledged(self) -> int:
        """Messages sent, or waiting for a connection, and not acknowledged."""
        return len(self._unacknowledged)

    def set_full_speed(self, full_speed: bool) -> None:
        """Keep the window full from now on, or publish nothing by itself."""
        self.full_speed = full_speed
        self._top_up()

    def _top_up(self) -> None:
        while self.full_speed and self._session is not None and len(self._unacknowledged) < self.window:
            self.publish()

    def on_acknowledged(self, key: str) -> None:
        """A PUBACK came."""
        message = self._unacknowledged.pop(key)
        self.acknowledged[key] = Acknowledgement(message.at, self._clock())
        if not self._unacknowledged:
            self.idle.set()
        self._top_up()

    def on_message(self, topic: str, payload: bytes) -> None:
        """A command is noted and answered, each time it comes; anything else is not our business."""
        if topic != self.paired.topics.command:
            return
        command_id = json.loads(payload)["command_id"]
        self.commands.append(ReceivedCommand(command_id, time.time()))
        answer = json.dumps({"command_id": command_id, "status": "ok"}).encode()
        key = f"{ANSWER}{command_id}/{len(self.commands)}"
        self._send(Outgoing(key, self.paired.topics.command_response, answer, self._clock()))

    def readings_acknowledged(self) -> set[str]:
        """The ``msg_id`` of every reading that was acknowledged."""
        return {key for key in self.acknowledged if not key.startswith(ANSWER)}
