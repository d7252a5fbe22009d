"""What 1,000 paired devices cost that are connected over plain TCP and say nothing but PINGREQ."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from tests.bench.devices import PairedDevice, device_names, pair_devices
from tests.bench.processes import cpu_seconds, memory_bytes
from tests.bench.report import finish, progress, table
from tests.bench.wire import (
    CONNACK,
    PINGREQ_PACKET,
    PINGRESP,
    SUBACK,
    WireError,
    connect_packet,
    split,
    subscribe_packet,
)
from tests.e2e.harness import Appliance

DEVICES = 1000
WINDOW_S = 20.0
KEEP_ALIVE_S = 60
AT_ONCE = 50
MB = 1_000_000


class QuietDevice(asyncio.Protocol):
    """Connects, subscribes to all it may receive, and pings once per keep-alive."""

    def __init__(self, device: PairedDevice) -> None:
        self._device = device
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport
        self._pings = 0
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False

    @property
    def unanswered(self) -> int:
        """Pings without an answer."""
        return self._pings

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        name, password = self._device.device_id, self._device.password
        self._transport.write(connect_packet(name, username=name, password=password, keep_alive_s=KEEP_ALIVE_S))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for first, body in split(self._buffer):
            if first == CONNACK and body == b"\0\0":
                self._transport.write(subscribe_packet(list(self._device.topics.receivable())))
            elif first == SUBACK and body == b"\0\1\1\1\1":
                self.subscribed.set_result(None)
            elif first == PINGRESP:
                self._pings -= 1
            elif not self.subscribed.done():
                self.subscribed.set_exception(WireError(f"answer {first:#x} {body.hex()}"))

    def ping(self) -> None:
        """Say that it is still there."""
        self._pings += 1
        self._transport.write(PINGREQ_PACKET)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.subscribed.done():
            self.subscribed.set_exception(WireError(f"{self._device.device_id} was disconnected"))

    def close(self) -> None:
        """Break the connection."""
        self._transport.abort()


async def connect_all(port: int, devices: Sequence[PairedDevice]) -> list[QuietDevice]:
    """Connect and subscribe all, some at a time."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(device: PairedDevice) -> QuietDevice:
        async with gate:
            _, protocol = await loop.create_connection(lambda: QuietDevice(device), "127.0.0.1", port)
            await asyncio.wait_for(protocol.subscribed, 30)
            return protocol

    return await asyncio.gather(*(one(device) for device in devices))


async def stay_quiet(clients: Sequence[QuietDevice], seconds: float) -> None:
    """Let ``seconds`` pass while each client pings once per keep-alive, evenly spread."""
    start = time.monotonic()
    for number in range(int(seconds / KEEP_ALIVE_S * len(clients))):
        await asyncio.sleep(max(0.0, start + number * KEEP_ALIVE_S / len(clients) - time.monotonic()))
        clients[number % len(clients)].ping()
    await asyncio.sleep(max(0.0, start + seconds - time.monotonic()))


async def measure(count: int, window_s: float) -> dict[str, Any]:
    """The figures of one run; ``WireError`` if a device was not served."""
    with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        appliance = Appliance(Path(temporary))
        devices = await pair_devices(appliance.data_folder, device_names(count))
        async with appliance:
            alone, _ = memory_bytes(appliance.pid)
            began = time.monotonic()
            clients = await connect_all(appliance.mqtt_port, devices)
            connected_s = time.monotonic() - began
            progress(f"{count} devices connected and subscribed in {connected_s:.2f} s; {window_s:g} s of silence")
            await asyncio.sleep(min(3.0, window_s))  # what the logins left to do in the background ends
            before = cpu_seconds(appliance.pid)
            await stay_quiet(clients, window_s)
            cpu_s = cpu_seconds(appliance.pid) - before
            rss, pss = memory_bytes(appliance.pid)
            lost, unanswered = sum(client.lost for client in clients), sum(client.unanswered for client in clients)
            for client in clients:
                client.close()
            if lost or unanswered > 1:  # the last ping may still be on its way
                raise WireError(f"{lost} devices were disconnected, {unanswered} pings unanswered")
    return {
        "devices": count,
        "window_s": window_s,
        "connect_s": connected_s,
        "cpu_percent": 100 * cpu_s / window_s,
        "rss_mb": rss / MB,
        "pss_mb": pss / MB,
        "rss_without_devices_mb": alone / MB,
        "kb_per_device": (rss - alone) / count / 1000,
    }


def main(*, as_json: bool, quick: bool) -> int:
    """``python -m tests.bench idle``."""
    result = asyncio.run(measure(*((100, 2.0) if quick else (DEVICES, WINDOW_S))))
    rows = [
        ("memory (RSS)", f"{result['rss_mb']:.1f} MB"),
        ("memory (PSS)", f"{result['pss_mb']:.1f} MB"),
        ("memory without devices (RSS)", f"{result['rss_without_devices_mb']:.1f} MB"),
        ("memory per device", f"{result['kb_per_device']:.1f} kB"),
        ("CPU of one core", f"{result['cpu_percent']:.2f} %"),
        ("time to connect and subscribe all", f"{result['connect_s']:.2f} s"),
    ]
    finish(table((f"{result['devices']} devices", ""), rows), result, as_json=as_json)
    return 0
