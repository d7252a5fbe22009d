"""Five thousand devices at once: until all are served, what each costs, and whether many are dearer than few."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import uvloop

from tests.bench.devices import PairedDevice, device_names, pair_devices
from tests.bench.ingest import run_load
from tests.bench.load import Account, Job, sensor_payload
from tests.bench.processes import cpu_seconds, memory_bytes
from tests.bench.report import finish, progress, table
from tests.bench.wire import (
    CONNACK,
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
from tests.e2e.harness import Appliance

SETTLE_S = 3.0
"""What logins leave to do in the background ends; then memory is read."""
RETRY_S = 1.0
GIVE_UP_S = 60.0
TICK_S = 0.01
KEEP_ALIVE_S = 600
PUBACK_BYTES = 4


class Plan(NamedTuple):
    """How many, how often, how long."""

    devices: int = 5000
    few: int = 100
    rounds: int = 3
    per_s: int = 5000
    """Readings of all devices together, in the paced load."""
    warm_up_s: float = 2.0
    window_s: float = 10.0


QUICK = Plan(devices=200, few=20, rounds=1, per_s=500, warm_up_s=0.2, window_s=1.0)


class FleetDevice(asyncio.Protocol):
    """Connects, subscribes to all it may receive, and publishes when told to. Its packets are made beforehand."""

    __slots__ = ("_buffer", "_connect", "_publish", "_subscribe", "acknowledged", "lost", "served", "transport")

    def __init__(self, device: PairedDevice) -> None:
        name, password = device.device_id, device.password
        self._connect = connect_packet(name, username=name, password=password, keep_alive_s=KEEP_ALIVE_S)
        self._subscribe = subscribe_packet(list(device.topics.receivable()))
        self._publish = publish_packet(device.topics.telemetry, sensor_payload(200)[0], packet_id=1)
        self._buffer = bytearray()
        self.transport: asyncio.WriteTransport
        self.served: asyncio.Future[None] | None = None
        self.acknowledged = 0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)
        self.transport.write(self._connect)

    def data_received(self, data: bytes) -> None:
        if len(data) == PUBACK_BYTES and data[0] == PUBACK and not self._buffer:
            self.acknowledged += 1
            return
        self._buffer += data
        for first, body in split(self._buffer):
            if first == PUBACK:
                self.acknowledged += 1
            elif first == CONNACK and body == b"\0\0":
                self.transport.write(self._subscribe)
            elif first == SUBACK and body == b"\0\1\1\1\1" and self.served is not None:
                self.served.set_result(None)
            elif first & 0xF0 == PUBLISH:
                # its configuration, at its first login
                _, packet_id, _ = split_publish(first, body)
                self.transport.write(puback_packet(packet_id or 0))
            elif self.served is not None and not self.served.done():
                self.served.set_exception(WireError(f"unexpected packet {first:#x} {body.hex()}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.served is not None and not self.served.done():
            self.served.set_exception(ConnectionError("disconnected"))

    def publish(self) -> None:
        """One reading; the packet id is free again long before the next."""
        self.transport.write(self._publish)


class Storm(NamedTuple):
    """A fleet that came at once."""

    clients: list[FleetDevice]
    seconds: float
    server_cpu_s: float
    client_cpu_s: float
    retries: int


async def storm(
    port: int, devices: Sequence[PairedDevice], *, server_pid: int, context: ssl.SSLContext | None
) -> Storm:
    """All of them connect and subscribe at once; who is cut off tries again after a second, as devices do."""
    loop = asyncio.get_running_loop()
    troubles: Counter[str] = Counter()

    async def one(client: FleetDevice) -> None:
        while True:
            client.served, client._buffer, client.lost = loop.create_future(), bytearray(), False
            served = client.served
            try:
                await loop.create_connection(
                    lambda: client,
                    *("127.0.0.1", port),
                    ssl=context,
                    ssl_handshake_timeout=GIVE_UP_S if context else None,
                )
                await served
                return
            except OSError as error:
                troubles[str(error)] += 1
                served.cancel()
                await asyncio.sleep(RETRY_S)

    clients = [FleetDevice(device) for device in devices]
    cpu_s, own_cpu_s, began = cpu_seconds(server_pid), time.process_time(), time.monotonic()
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(one(client), name="device")
    seconds = time.monotonic() - began
    own_cpu_s = time.process_time() - own_cpu_s
    await asyncio.sleep(SETTLE_S)
    if troubles:
        progress(f"tried again: {dict(troubles)}")
    return Storm(clients, seconds, cpu_seconds(server_pid) - cpu_s, own_cpu_s, troubles.total())


async def paced(clients: Sequence[FleetDevice], plan: Plan, *, server_pid: int) -> dict[str, float]:
    """``plan.per_s`` readings a second, of all devices in turn: how many were acknowledged, and the server's CPU."""
    sent = 0
    began = time.monotonic()

    async def until(end_s: float) -> None:
        nonlocal sent
        while (passed_s := time.monotonic() - began) < end_s:
            due = int(passed_s * plan.per_s)
            for number in range(sent, due):
                clients[number % len(clients)].publish()
            sent = max(sent, due)
            await asyncio.sleep(TICK_S)

    def acknowledged() -> int:
        return sum(client.acknowledged for client in clients)

    await until(plan.warm_up_s)
    before = (time.monotonic(), acknowledged(), cpu_seconds(server_pid))
    await until(plan.warm_up_s + plan.window_s)
    after = (time.monotonic(), acknowledged(), cpu_seconds(server_pid))
    seconds, messages, cpu_s = (end - start for start, end in zip(before, after, strict=True))
    async with asyncio.timeout(10):
        while acknowledged() < sent:
            await asyncio.sleep(TICK_S)
    if acknowledged() != sent or any(client.lost for client in clients):
        raise WireError(f"{sent} readings, {acknowledged()} acknowledgements, or a device was disconnected")
    return {"per_s": messages / seconds, "server_cpu_us": cpu_s / messages * 1e6}


def leave(clients: Sequence[FleetDevice]) -> None:
    """Break all connections."""
    for client in clients:
        client.transport.abort()


async def one_storm(folder: Path, devices: Sequence[PairedDevice], plan: Plan, *, tls: bool) -> dict[str, Any]:
    """A fresh process that gets the fleet; without TLS the paced load after it."""
    appliance = Appliance(folder)
    async with appliance:
        alone, _ = memory_bytes(appliance.pid)
        context = None
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the client's time is not the question
        port = appliance.mqtt_tls_port if tls else appliance.mqtt_port
        came = await storm(port, devices, server_pid=appliance.pid, context=context)
        rss, _ = memory_bytes(appliance.pid)
        lost = sum(client.lost for client in came.clients)
        if lost:
            raise WireError(f"{lost} devices were disconnected while they said nothing")
        result: dict[str, Any] = {
            "seconds": came.seconds,
            "server_cpu_ms": 1000 * came.server_cpu_s / len(devices),
            "client_cpu_ms": 1000 * came.client_cpu_s / len(devices),
            "kb_per_device": (rss - alone) / len(devices) / 1000,
            "retries": came.retries,
        }
        progress(f"{'TLS' if tls else 'plain'}: all served after {came.seconds:.2f} s; {result}")
        if not tls:
            result["paced"] = await paced(came.clients, plan, server_pid=appliance.pid)
        leave(came.clients)
    return result


async def few_paced(folder: Path, devices: Sequence[PairedDevice], plan: Plan) -> dict[str, float]:
    """The paced load from few devices, in a fresh process too."""
    async with Appliance(folder) as appliance:
        came = await storm(appliance.mqtt_port, devices[: plan.few], server_pid=appliance.pid, context=None)
        result = await paced(came.clients, plan, server_pid=appliance.pid)
        leave(came.clients)
        return result


async def flat_out(folder: Path, devices: Sequence[PairedDevice], count: int, plan: Plan) -> dict[str, float]:
    """As many readings as go, with as many in flight in all as there are devices in the fleet (64 each at most)."""
    async with Appliance(folder) as appliance:
        result = await run_load(
            Job(
                port=appliance.mqtt_port,
                server_pid=appliance.pid,
                accounts=[
                    Account(each.device_id, each.topics.telemetry, each.device_id, each.password)
                    for each in devices[:count]
                ],
                in_flight=min(len(devices) // count, 64),
                warm_up_s=plan.warm_up_s,
                window_s=plan.window_s,
            )
        )
        return {key: result[key] for key in ("per_s", "server_cpu_us")}


def middle(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: median(sample[key] for sample in samples) for key in samples[0]}


async def measure(plan: Plan) -> dict[str, Any]:
    """Medians of the rounds; ``WireError`` if a device was not served."""
    found: dict[str, list[dict[str, float]]] = {}
    with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        devices = await pair_devices(folder / "data", device_names(plan.devices))
        async with Appliance(folder) as first:  # makes the keys, and tells each device its configuration
            came = await storm(first.mqtt_port, devices, server_pid=first.pid, context=None)
            leave(came.clients)
            await first.stop()
        gc.collect()
        gc.freeze()
        for number in range(plan.rounds):
            progress(f"round {number + 1}")
            plain = await one_storm(folder, devices, plan, tls=False)
            found.setdefault("paced_many", []).append(plain.pop("paced"))
            found.setdefault("plain", []).append(plain)
            found.setdefault("tls", []).append(await one_storm(folder, devices, plan, tls=True))
            found.setdefault("paced_few", []).append(await few_paced(folder, devices, plan))
            for name, count in (("flat_out_few", plan.few), ("flat_out_many", plan.devices)):
                found.setdefault(name, []).append(await flat_out(folder, devices, count, plan))
    return {"devices": plan.devices, "few": plan.few, "paced_per_s": plan.per_s} | {
        name: middle(samples) for name, samples in found.items()
    }


def main(*, as_json: bool, quick: bool) -> int:
    """``python -m tests.bench fleet``."""
    result = uvloop.run(measure(QUICK if quick else Plan()))
    storms = [
        (
            name,
            f"{result[key]['seconds']:.2f} s",
            f"{result[key]['server_cpu_ms']:.2f} ms",
            f"{result[key]['client_cpu_ms']:.2f} ms",
            f"{result[key]['kb_per_device']:.1f} kB",
        )
        for name, key in (("plain", "plain"), ("TLS", "tls"))
    ]
    loads = [
        (f"{name}, {result[count]} devices", f"{result[key]['per_s']:,.0f}/s", f"{result[key]['server_cpu_us']:.1f} µs")
        for name, key, count in (
            (f"{result['paced_per_s']:,}/s", "paced_few", "few"),
            (f"{result['paced_per_s']:,}/s", "paced_many", "devices"),
            ("flat out", "flat_out_few", "few"),
            ("flat out", "flat_out_many", "devices"),
        )
    ]
    text = "\n\n".join(
        (
            table((f"{result['devices']} at once", "all served", "CPU each", "load's CPU each", "memory each"), storms),
            table(("readings", "acknowledged", "CPU each"), loads),
        )
    )
    finish(text, result, as_json=as_json)
    return 0
