"""Many devices in one process and one thread, with a record of what each of them was acknowledged for."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from appliance.contract.topics import is_serial
from firmware_sim.credentials import CredentialStore
from firmware_sim.device import Device
from firmware_sim.faults import Misbehaviour, Request, spread
from firmware_sim.flash import Flash, firmware_folder
from firmware_sim.habits import Habits
from firmware_sim.link import first_of
from firmware_sim.pairing import Contact, Label, PairingRefusedError
from firmware_sim.record import Recorder
from firmware_sim.signals import signal

CONNECTING_AT_A_TIME = 8
"""Handshakes cost the appliance's CPU, and it limits unpaired connections per address."""
STATUS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """How a fleet behaves.

    ``rate`` is readings per second of the whole fleet; ``None``: as each device's configuration says; 0: as fast as
    PUBACKs allow. ``duration_s`` counts from when all devices are connected; ``None``: until told to stop.
    ``store`` is a folder for credentials and firmware.
    """

    contact: Contact
    labels: tuple[Label, ...]
    rate: float | None = None
    window: int = 1
    duration_s: float | None = None
    drain_s: float = 60.0
    keepalive_s: int = 60
    longest_backoff_s: float = 30.0
    seed: int | None = None
    record: Path | None = None
    store: Path | None = None
    signal: str = "press"
    jitter: float = 0.0
    habits: Habits = field(default_factory=Habits)
    misbehave: tuple[Request, ...] = ()


class Fleet:
    """Runs the devices of a plan; ``report`` gets the state once a second."""

    def __init__(self, plan: FleetPlan, *, report: Callable[[dict[str, Any]], None]) -> None:
        self._plan = plan
        self._report = report
        self._recorder = Recorder(plan.record)
        self._stop = asyncio.Event()
        self._abort = asyncio.Event()
        self._refused: list[str] = []
        self._announced: set[str] = set()
        connecting = asyncio.Semaphore(CONNECTING_AT_A_TIME)
        randoms = Random(plan.seed)
        interval_s = None if plan.rate is None else (len(plan.labels) / plan.rate if plan.rate else 0.0)
        wrong = spread(plan.misbehave, [label.serial for label in plan.labels], Random(plan.seed))
        self._devices = [
            self._device(label, Random(randoms.getrandbits(64)), connecting, interval_s, wrong[label.serial])
            for label in plan.labels
        ]

    def _device(
        self,
        label: Label,
        random: Random,
        connecting: asyncio.Semaphore,
        interval_s: float | None,
        wrong: dict[str, float],
    ) -> Device:
        plan = self._plan
        path = None if plan.store is None else plan.store / f"{label.serial.replace(':', '_')}.json"
        return Device(
            label=label,
            contact=plan.contact,
            store=CredentialStore(path),
            recorder=self._recorder,
            signal=signal(plan.signal, random),
            random=random,
            connecting=connecting,
            window=plan.window,
            interval_s=interval_s,
            jitter=plan.jitter,
            flash=Flash(None if path is None else firmware_folder(path)),
            habits=plan.habits,
            misbehaviour=Misbehaviour(random=random, strengths=wrong),
            keepalive_s=plan.keepalive_s,
            longest_backoff_s=plan.longest_backoff_s,
        )

    @property
    def devices(self) -> tuple[Device, ...]:
        """In the plan's order; what they do wrong may be changed while they run."""
        return tuple(self._devices)

    def stop(self) -> None:
        """First call: publish no more and wait for what is unacknowledged. Second call: end now."""
        (self._abort if self._stop.is_set() else self._stop).set()

    async def run(self) -> bool:
        """Live until stopped or the duration is over; whether all that was published has been acknowledged."""
        tasks = [asyncio.create_task(self._live(device), name=f"device {device.serial}") for device in self._devices]
        reporter = asyncio.create_task(self._keep_reporting(), name="fleet reporter")
        try:
            await self._until_stopped(tasks)
            return await self._drain()
        finally:
            reporter.cancel()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, reporter, return_exceptions=True)
            self._tell(ended=True)
            self._recorder.close()
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def _live(self, device: Device) -> None:
        try:
            await device.run()
        except PairingRefusedError as error:
            self._refused.append(f"{device.serial}: {error}")

    async def _until_stopped(self, tasks: list[asyncio.Task[None]]) -> None:
        """Until :meth:`stop`, the end of the duration, or the failure of a device's task."""
        stopped = asyncio.create_task(self._stop.wait(), name="fleet stop")
        watchers: list[asyncio.Task[Any]] = [stopped]
        if self._plan.duration_s is not None:
            watchers.append(asyncio.create_task(self._duration(tasks, self._plan.duration_s), name="fleet duration"))
        waiting: set[asyncio.Task[Any]] = {*tasks, *watchers}
        try:
            while waiting and not any(watcher.done() for watcher in watchers):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for watcher in watchers:
                watcher.cancel()

    async def _duration(self, tasks: list[asyncio.Task[None]], seconds: float) -> None:
        """From when every device is connected, or was refused."""
        for device, task in zip(self._devices, tasks, strict=True):
            ready = asyncio.create_task(device.ready.wait(), name=f"device {device.serial} ready")
            await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
        await asyncio.sleep(seconds)

    async def _drain(self) -> bool:
        self._stop.set()
        for device in self._devices:
            device.stop_publishing()
        drained = asyncio.gather(*(device.drained() for device in self._devices))
        aborted = asyncio.create_task(self._abort.wait(), name="fleet abort")
        try:
            await first_of(drained, aborted, timeout_s=self._plan.drain_s)
            return drained.done()
        finally:
            aborted.cancel()
            drained.cancel()

    async def _keep_reporting(self) -> None:
        while True:
            self._tell()
            await asyncio.sleep(STATUS_EVERY_S)

    def _tell(self, *, ended: bool = False) -> None:
        newly_ready = [
            device.device_id
            for device in self._devices
            if device.ready.is_set() and device.device_id not in self._announced
        ]
        self._announced.update(newly_ready)
        counts = self._recorder.counts
        self._report(
            {
                "devices": len(self._devices),
                "paired": sum(device.is_paired for device in self._devices),
                "connected": sum(device.is_connected for device in self._devices),
                "ready": newly_ready,
                "published": counts["pub"],
                "acknowledged": counts["ack"],
                "dropped": counts["drop"],
                "commands": counts["cmd"],
                "connections_lost": counts["down"],
                "odd": counts["odd"],
                "firmware": Counter(device.firmware_version for device in self._devices),
                "refused": self._refused,
                "stopping": self._stop.is_set(),
                "ended": ended,
            }
        )


def read_labels(path: Path) -> tuple[Label, ...]:
    """Serial numbers and tokens from a JSON list, as the stand-in's ``POST /sim/devices`` returns it.

    ``ValueError`` says what is wrong with the file.
    """
    content = json.loads(path.read_text("utf-8"))
    entries = content.get("devices") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} holds no list of devices")
    for entry in entries:
        if not isinstance(entry, dict) or not is_serial(str(entry.get("serial"))):
            raise ValueError(f"{path}: every device needs a serial number, and a token unless it is paired")
    return tuple(Label(serial=entry["serial"], token=entry.get("token")) for entry in entries)


def print_json(state: dict[str, Any]) -> None:
    """A report as a line of JSON on standard output."""
    sys.stdout.write(json.dumps(state) + "\n")
    sys.stdout.flush()
