"""The load generator, a process of its own: publishes with QoS 1 as fast as the server acknowledges.

Reads one job (JSON) from standard input, connects all devices, keeps ``in_flight`` messages of each unacknowledged, and
prints one JSON object with what was acknowledged, and what it cost, between the end of the warm-up and the end of the
window. What costs time is done once: frames are prebuilt and patched, acknowledgements compared with the bytes they
must be.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from struct import Struct
from typing import Any, cast

import uvloop

from tests.bench.processes import cpu_seconds
from tests.bench.wire import DISCONNECT_PACKET, PINGRESP, PUBACK, WireError, connect_packet, publish_packet

LAST_ID = 65535
_CONNACK = b"\x20\x02\x00\x00"
_COUNTER_BASE = 10_000_000
"""The payload's counter starts here, so that it always has eight digits."""
_pack_id = Struct(">H").pack_into
_MAX_IN_FLIGHT = 1000
_ACKS = b"".join(b"\x40\x02" + (index % LAST_ID + 1).to_bytes(2, "big") for index in range(LAST_ID + _MAX_IN_FLIGHT))
"""What the server must send: the acknowledgements of the ids 1, 2, …, 65535, 1, 2, … in this order."""


@dataclass(frozen=True)
class Account:
    """Who publishes where."""

    client_id: str
    topic: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Job:
    """One measurement; times in seconds."""

    port: int
    server_pid: int
    accounts: list[Account]
    in_flight: int
    payload_bytes: int = 200
    warm_up_s: float = 1.0
    window_s: float = 4.0
    keep_alive_s: int = 60
    host: str = "127.0.0.1"
    first_number: int = 0
    """Of a device's messages; packet ids follow it."""

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What :meth:`to_json` wrote."""
        raw: dict[str, Any] = json.loads(text)
        return cls(**raw | {"accounts": [Account(**account) for account in raw["accounts"]]})

    def to_json(self) -> str:
        """For the child's standard input."""
        return json.dumps(asdict(self))


def sensor_payload(size: int) -> tuple[bytes, int]:
    """A reading as controllers send it, ``size`` bytes of JSON, and where its eight-digit counter stands."""
    body = {
        "n": _COUNTER_BASE,
        "temperature": 71.3,
        "pressure": 1.234,
        "vibration": [0.11, 0.12, 0.09],
        "state": "running",
        "cycle_ms": 1840,
        "unit": "bar",
        "note": "",
    }
    missing = size - len(json.dumps(body, separators=(",", ":")))
    if missing < 0:
        raise ValueError(f"a payload has at least {size - missing} bytes")
    payload = json.dumps(body | {"note": "x" * missing}, separators=(",", ":")).encode()
    return payload, payload.index(str(_COUNTER_BASE).encode())


class Totals:
    """What all devices have seen together."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.out_of_order = 0
        self.stopping = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        """End the measurement: the server broke a rule."""
        if not self.failed.done():
            self.failed.set_exception(WireError(reason))


class Device(asyncio.Protocol):
    """One connection; never more than ``in_flight`` messages unacknowledged."""

    def __init__(self, account: Account, job: Job, totals: Totals) -> None:
        payload, counter = sensor_payload(job.payload_bytes)
        frame = publish_packet(account.topic, payload, packet_id=1)
        self._frames = bytearray(frame * job.in_flight)
        self._frame_bytes = len(frame)
        self._id_offset = len(frame) - len(payload) - 2
        self._counter_offset = len(frame) - len(payload) + counter
        self._window = job.in_flight
        self._account = account
        self._keep_alive_s = job.keep_alive_s
        self._totals = totals
        self._sent = self._acked = job.first_number  # all before _acked are acknowledged
        self._early: set[int] = set()  # acknowledged before their turn
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connected = False
        self.leaving = False
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by inheritance
        account = self._account
        self._transport.write(
            connect_packet(
                account.client_id,
                username=account.username,
                password=account.password,
                keep_alive_s=self._keep_alive_s,
            )
        )

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        count = len(data) >> 2
        start = (self._acked % LAST_ID) << 2
        expected = _ACKS[start : start + (count << 2)]
        if data == expected and not self._early and self._acked + count <= self._sent:
            self._acked += count
        else:
            count = self._read_slowly(data)
        totals = self._totals
        totals.acknowledged += count
        if count and not totals.stopping:
            self._publish(count)

    def _publish(self, count: int) -> None:
        """Send the next ``count`` messages in one write."""
        frames, size, window = self._frames, self._frame_bytes, self._window
        id_offset, counter_offset = self._id_offset, self._counter_offset
        first = self._sent % window
        for number in range(self._sent, self._sent + count):
            offset = number % window * size
            _pack_id(frames, offset + id_offset, number % LAST_ID + 1)
            position = offset + counter_offset
            frames[position : position + 8] = b"%d" % (_COUNTER_BASE + number)
        self._sent += count
        end = first + count
        if end <= window:
            self._transport.write(bytes(frames[first * size : end * size]))
        else:
            self._transport.write(bytes(frames[first * size :] + frames[: (end - window) * size]))

    def _read_slowly(self, data: bytes) -> int:
        """Anything that is not just the acknowledgements expected next; returns how many there were."""
        if not self._connected:
            if len(data) < len(_CONNACK):
                self._rest = data
            elif data != _CONNACK:
                self._totals.fail(f"CONNACK of {self._account.client_id} is {data[:8].hex()}")
            else:
                self._connected = True
                self.ready.set_result(None)
            return 0
        count = position = 0
        while len(data) - position >= 2:
            if data[position] == PINGRESP:
                position += 2
                continue
            if data[position] != PUBACK or data[position + 1] != 2:
                self._totals.fail(f"unexpected packet {data[position : position + 8].hex()}")
                return count
            if len(data) - position < 4:
                break
            self._note(int.from_bytes(data[position + 2 : position + 4], "big"))
            count += 1
            position += 4
        self._rest = data[position:]
        return count

    def _note(self, packet_id: int) -> None:
        number = self._acked + (packet_id - 1 - self._acked) % LAST_ID
        if number >= self._sent or number in self._early:
            self._totals.fail(f"acknowledgement of packet id {packet_id}, which was not in flight")
            return
        if number != self._acked:
            self._totals.out_of_order += 1
        self._early.add(number)
        while self._acked in self._early:
            self._early.remove(self._acked)
            self._acked += 1

    def start(self) -> None:
        """Fill the window."""
        self._publish(self._window)

    @property
    def in_flight(self) -> int:
        """Messages sent and not acknowledged."""
        return self._sent - self._acked - len(self._early)

    def leave(self) -> None:
        """Say goodbye."""
        self.leaving = True
        if self._transport is None:
            self.lost.set_result(None)
        elif not self._transport.is_closing():
            self._transport.write(DISCONNECT_PACKET)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.leaving:
            self._totals.fail(f"{self._account.client_id} was disconnected ({exc})")
        self.lost.set_result(None)


async def _connect(devices: list[Device], job: Job, at_once: int = 20) -> None:
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(at_once)

    async def one(device: Device) -> None:
        async with gate:
            await loop.create_connection(lambda: device, job.host, job.port)
            await device.ready

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for number, device in enumerate(devices):
            group.create_task(one(device), name=f"connect {number}")


async def measure(job: Job) -> dict[str, Any]:
    """Run the job; raises :class:`WireError` when the server breaks a rule."""
    totals = Totals()
    devices = [Device(account, job, totals) for account in job.accounts]
    try:
        async with asyncio.TaskGroup() as tasks:
            measuring = tasks.create_task(_measure(job, devices, totals), name="measure")
            guard = tasks.create_task(_raise(totals.failed), name="guard")
            await measuring
            guard.cancel()
        return measuring.result()
    except ExceptionGroup as group:
        if isinstance(group.exceptions[0], WireError):
            raise group.exceptions[0] from None
        raise
    finally:
        for device in devices:
            device.leave()
        await asyncio.wait([device.lost for device in devices], timeout=5)


async def _raise(failed: asyncio.Future[None]) -> None:
    await failed


async def _measure(job: Job, devices: list[Device], totals: Totals) -> dict[str, Any]:
    await _connect(devices, job)
    for device in devices:
        device.start()
    await asyncio.sleep(job.warm_up_s)
    before = (time.perf_counter(), totals.acknowledged, cpu_seconds(job.server_pid), time.process_time())
    await asyncio.sleep(job.window_s)
    after = (time.perf_counter(), totals.acknowledged, cpu_seconds(job.server_pid), time.process_time())
    totals.stopping = True
    await _drain(devices)
    seconds, messages, server_s, load_s = (end - start for start, end in zip(before, after, strict=True))
    return {
        "messages": messages,
        "seconds": seconds,
        "per_s": messages / seconds,
        "server_cpu_us": server_s / max(messages, 1) * 1e6,
        "load_cpu_us": load_s / max(messages, 1) * 1e6,
        "server_cores": server_s / seconds,
        "out_of_order": totals.out_of_order,
        "acknowledged": totals.acknowledged,
    }


async def _drain(devices: list[Device], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while missing := sum(device.in_flight for device in devices):
        if time.monotonic() > end:
            raise WireError(f"{missing} messages were never acknowledged")
        await asyncio.sleep(0.02)


def main() -> None:
    """The child process."""
    job = Job.from_json(sys.stdin.read())
    gc.disable()
    try:
        result = uvloop.run(measure(job))
    except WireError as error:
        sys.exit(f"load generator: {error}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
