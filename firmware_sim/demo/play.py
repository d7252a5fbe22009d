"""One run of the demo, from the first process to the last line."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import sys
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from firmware_sim.demo.children import ChildEndedError
from firmware_sim.demo.interrupts import cancel_on_signals, ignore_signals
from firmware_sim.demo.launch import DRAIN_FLEET_S, Stage, cancelled
from firmware_sim.demo.screen import LiveLine, Progress, introduction, summary, tell
from firmware_sim.demo.sides import TROUBLE, call
from firmware_sim.demo.update import Update
from firmware_sim.demo.verdict import Verdict, compare
from firmware_sim.record import read_record

CONNECT_WITHIN_S = 90.0
ANSWER_WITHIN_S = 75.0
STALLED_AFTER_S = 60.0
POLL_S = 0.2
LINE_EVERY_S = 1.5
COMMANDS_AT_A_TIME = 4
COMMAND_EVERY_S = 10.0
FINAL_STATES = frozenset(("done", "failed", "expired", "cancelled", "not_sent"))
INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for on the command line; ``rate`` is readings per second of all devices together."""

    seconds: float | None
    devices: int
    rate: float
    inject: str | None
    real: bool = False
    """Whether with a real Odoo in place of the stand-in."""


def run(plan: Plan) -> int:
    """Run the demo; its exit status: 0 only if all was checked and is well, 130 if it was interrupted."""
    # a child that ends just when asyncio closes its pipes is reaped twice: harmless, and no news for who watches
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    status = asyncio.run(_guarded(plan))
    ignore_signals()
    return status


async def _guarded(plan: Plan) -> int:
    """Signals end the play; what is cleaned up behind it, nothing interrupts."""
    with tempfile.TemporaryDirectory(prefix="iiot-demo-", ignore_cleanup_errors=True) as folder:
        async with AsyncExitStack() as stack:
            demo = _Demo(plan, Stage(folder=Path(folder), stack=stack))
            task = asyncio.create_task(demo.play(), name="demo")
            cancel_on_signals(task)
            return await _outcome(task)


async def _outcome(task: asyncio.Task[int]) -> int:
    """The exit status, and for people what it means."""
    try:
        return await task
    except asyncio.CancelledError:
        with suppress(BrokenPipeError):
            tell("\nStopped.")
        return INTERRUPTED
    except (*TROUBLE, ChildEndedError) as error:
        tell(f"\nThe demo failed: {error or type(error).__name__}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # nobody reads on: the interpreter must not try to write at its end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED


class _Demo:
    """What the audience sees."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._plan = plan
        self._stage = stage
        self._progress = Progress()
        self._ready: asyncio.Queue[str | None] = asyncio.Queue()
        """Devices as they come to be connected; ``None`` after the last."""
        self._one_ready = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._reported = asyncio.Event()
        self._devices: list[str] = []
        self._update = Update(stage)
        self._commands: set[str] = set()

    async def play(self) -> int:
        """Start everything, show it, and with a time limit check it; the exit status."""
        plan, stage = self._plan, self._stage
        tell("Starting …")
        await stage.start_odoo(real=plan.real)
        devices, own = await stage.make_devices(count=plan.devices, rate=plan.rate)
        await stage.start_appliance()
        if plan.inject:
            await stage.odoo.inject(plan.inject)
        await stage.start_fleet(devices)
        tell(
            introduction(
                surroundings=stage.surroundings,
                odoo=stage.odoo.introduction,
                devices=plan.devices,
                rate=plan.rate,
                own=own,
            )
        )
        return await stage.beside_the_children(self._show())

    async def _show(self) -> int:
        async with AsyncExitStack() as stack:
            line = LiveLine(devices=self._plan.devices)
            stack.callback(line.close)
            new = asyncio.create_task(self._update_one(), name="new firmware for one device")
            each = asyncio.create_task(self._command_each(), name="a command to each device")
            some = asyncio.create_task(self._command_some(), name="a command now and then")
            for task in (
                asyncio.create_task(self._listen(), name="the fleet's reports"),
                asyncio.create_task(self._keep_showing(line), name="live line"),
                new,
                each,
                some,
            ):
                self._stage.watch(task, stack)
            if self._plan.seconds is None:
                await asyncio.Event().wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    await self._all_ready.wait()
            await asyncio.sleep(self._plan.seconds or 0)
            await cancelled(some)
            await self._finish(each, new)
        verdict = await self._judge()
        tell(summary(verdict, self._progress.fleet.get("refused", []), self._update.error))
        failures = verdict.failures()
        tell(json.dumps({**asdict(verdict), "ok": not failures}))
        return 1 if failures else 0

    async def _listen(self) -> None:
        """Take in the fleet's reports until it ends."""
        while line := await self._stage.fleet.line():
            report = json.loads(line)
            self._progress.fleet = report
            self._reported.set()
            for device in report["ready"]:
                self._devices.append(device)
                self._one_ready.set()
                self._ready.put_nowait(device)
            if len(self._devices) + len(report["refused"]) >= self._plan.devices and not self._all_ready.is_set():
                self._all_ready.set()
                self._ready.put_nowait(None)

    async def _keep_showing(self, line: LiveLine) -> None:
        began = time.monotonic()
        while True:
            # in step with the fleet's reports, or its figures would lag behind the others'
            with suppress(TimeoutError):
                async with asyncio.timeout(LINE_EVERY_S):
                    await self._reported.wait()
            self._reported.clear()
            await self._look()
            line.show(time.monotonic() - began, self._progress)

    async def _look(self) -> None:
        """Ask Odoo and the appliance how it stands; one that cannot answer is shown as away."""
        progress = self._progress
        await self._update.look()
        progress.update = self._update.in_words()
        try:
            progress.in_odoo, progress.commands_done = await self._stage.odoo.arrived()
        except TROUBLE:
            progress.in_odoo = None
        try:
            buffer = await call(self._stage.appliance, "GET", "/api/v1/buffer")
            progress.waiting, progress.parked = buffer["waiting"], buffer["parked"]
        except TROUBLE:
            progress.waiting = progress.parked = None

    async def _command_each(self) -> None:
        """A command to each device as soon as it is there."""
        limit = asyncio.Semaphore(COMMANDS_AT_A_TIME)

        async def command(device: str) -> None:
            async with limit:
                await self._command(device, "identify")

        async with asyncio.TaskGroup() as tasks:
            while (device := await self._ready.get()) is not None:
                tasks.create_task(command(device), name=f"command to {device}")

    async def _update_one(self) -> None:
        """The first device that is there gets new firmware, while it goes on working."""
        await self._one_ready.wait()
        await self._update.send(self._devices[0])

    async def _command_some(self) -> None:
        while True:
            await asyncio.sleep(COMMAND_EVERY_S)
            if self._devices:
                await self._command(secrets.choice(self._devices), "recalibrate")

    async def _command(self, device: str, action: str) -> None:
        command = await self._stage.odoo.send_command(device, action)
        self._progress.commands_sent += 1
        if self._plan.seconds is not None:
            self._commands.add(command)

    # --- the end ---------------------------------------------------------------------------------------------

    async def _finish(self, commands: asyncio.Task[None], update: asyncio.Task[None]) -> None:
        """Let commands be answered, the update end, devices be acknowledged, everything reach Odoo; within bounds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await asyncio.shield(commands)
                await asyncio.shield(update)
                await self._until_answered()
                while not self._update.is_over:
                    await asyncio.sleep(POLL_S)
                    await self._update.look()
        await self._stage.fleet.stop(within_s=DRAIN_FLEET_S + 5)
        await self._until_drained()

    async def _until_answered(self) -> None:
        while True:
            states = await self._stage.odoo.command_states()
            if all(states.get(command) in FINAL_STATES for command in self._commands):
                return
            await asyncio.sleep(POLL_S)

    async def _until_drained(self) -> None:
        """Until nothing waits on the appliance's disk, or nothing has moved for a while."""
        fewest, moved_at = None, time.monotonic()
        while time.monotonic() - moved_at < STALLED_AFTER_S:
            with suppress(*TROUBLE):
                waiting = (await call(self._stage.appliance, "GET", "/api/v1/buffer"))["waiting"]
                if waiting == 0:
                    return
                if fewest is None or waiting < fewest:
                    fewest, moved_at = waiting, time.monotonic()
            await asyncio.sleep(POLL_S)

    async def _judge(self) -> Verdict:
        stage = self._stage
        record = await asyncio.to_thread(read_record, stage.record)
        readings = [reading async for reading in stage.odoo.readings()]
        comparison = await asyncio.to_thread(compare, record, readings)
        buffer = await call(stage.appliance, "GET", "/api/v1/buffer")
        states = await stage.odoo.command_states()
        return Verdict(
            devices=self._plan.devices,
            paired=len(record.paired),
            published=len(record.published),
            acknowledged=len(record.acknowledged),
            in_odoo=comparison.in_odoo,
            waiting=buffer["waiting"],
            parked=buffer["parked"],
            lost=comparison.lost,
            duplicates=comparison.duplicates,
            commands_sent=len(self._commands),
            commands_done=sum(states.get(command) == "done" for command in self._commands),
            update=self._update.state or "not_sent",
            odd=record.odd,
            connections_lost=sum(why != "stopped" for _, _, why in record.lost_connections),
            complete=record.complete and await stage.odoo.is_complete(),
        )
