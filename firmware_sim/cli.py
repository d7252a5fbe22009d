"""The simulator's commands."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from firmware_sim.credentials import CredentialStore
from firmware_sim.device import Device
from firmware_sim.faults import KINDS, Misbehaviour, spread
from firmware_sim.flash import Flash, firmware_folder
from firmware_sim.fleet import Fleet, FleetPlan, print_json, read_labels
from firmware_sim.options import (
    ApiOption,
    BandwidthOption,
    BootOption,
    CaOption,
    ConfirmOption,
    FingerprintOption,
    HostOption,
    JitterOption,
    KeepaliveOption,
    PlainOption,
    PortOption,
    SignalOption,
    WindowOption,
    contact_from,
    habits_from,
    machine_from,
    misbehaviour_from,
)
from firmware_sim.pairing import Label, PairingRefusedError
from firmware_sim.record import Recorder
from firmware_sim.signals import signal as signal_of

app = typer.Typer(
    help="Simulated devices, a stand-in for Odoo, and the demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point."""
    app()


@app.command()
def device(
    serial: Annotated[str, typer.Option(help="serial number")],
    token: Annotated[str | None, typer.Option(help="one-time token, unless the device is paired")] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8883,
    ca: CaOption = None,
    fingerprint: FingerprintOption = None,
    api: ApiOption = None,
    plain: PlainOption = False,
    store: Annotated[
        Path | None, typer.Option(help="file for its credentials, beside it a folder for its firmware; default: none")
    ] = None,
    interval: Annotated[
        float | None, typer.Option(help="seconds between readings; default: as configured", min=0.001)
    ] = None,
    window: WindowOption = 1,
    keepalive: KeepaliveOption = 60,
    machine: SignalOption = "press",
    jitter: JitterOption = 0.05,
    firmware: Annotated[str, typer.Option(help="version of the factory's firmware")] = "1.0.0",
    boot: BootOption = 1.0,
    confirm: ConfirmOption = 120.0,
    bandwidth: BandwidthOption = None,
    misbehave: Annotated[
        list[str] | None,
        typer.Option(help="NAME[:STRENGTH]; may be repeated; see the command misbehaviour", metavar="NAME"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="makes it reproducible")] = None,
) -> None:
    """Run one device until Ctrl-C and tell what happens to it."""
    contact = contact_from(host, port, ca, fingerprint, api, plain)
    requests = misbehaviour_from(misbehave)
    machine_from(machine)

    async def run() -> int:
        random = Random(seed)
        credentials = CredentialStore(store)
        if credentials.load() is None and token is None:
            raise typer.BadParameter("a device that is not paired needs --token")
        one = Device(
            label=Label(serial=serial, token=token, firmware_version=firmware),
            contact=contact,
            store=credentials,
            recorder=Recorder(),
            signal=signal_of(machine, random),
            random=random,
            connecting=asyncio.Semaphore(1),
            window=window,
            interval_s=interval,
            jitter=jitter,
            keepalive_s=keepalive,
            flash=Flash(None if store is None else firmware_folder(store)),
            habits=habits_from(boot, confirm, bandwidth),
            misbehaviour=Misbehaviour(
                random=random, strengths=spread(requests, [serial], random)[serial] if requests else None
            ),
            log=_say,
        )
        task = asyncio.create_task(one.run(), name=f"device {serial}")
        _on_signals(task.cancel)
        try:
            await task
        except PairingRefusedError as error:
            _say(f"refused: {error}")
            return 1
        except asyncio.CancelledError:
            return 0
        return 0

    _run(run())


@app.command()
def fleet(
    devices: Annotated[Path, typer.Option(help="JSON list of serial numbers and tokens", exists=True, dir_okay=False)],
    host: HostOption = "127.0.0.1",
    port: PortOption = 8883,
    ca: CaOption = None,
    fingerprint: FingerprintOption = None,
    api: ApiOption = None,
    plain: PlainOption = False,
    rate: Annotated[
        float | None,
        typer.Option(help="readings per second in all; 0: as fast as acknowledged; default: as configured", min=0),
    ] = None,
    window: WindowOption = 1,
    duration: Annotated[
        float | None, typer.Option(help="seconds to publish once all are connected; default: until a signal", min=0.1)
    ] = None,
    drain: Annotated[float, typer.Option(help="longest wait for acknowledgements at the end", min=0)] = 60.0,
    keepalive: KeepaliveOption = 60,
    longest_backoff: Annotated[float, typer.Option(help="seconds between attempts to connect at most", min=0.5)] = 30.0,
    seed: Annotated[int | None, typer.Option(help="makes it reproducible")] = None,
    record: Annotated[Path | None, typer.Option(help="file for what was published and acknowledged")] = None,
    store: Annotated[Path | None, typer.Option(help="folder for credentials and firmware; default: none")] = None,
    machine: SignalOption = "press",
    jitter: JitterOption = 0.05,
    boot: BootOption = 1.0,
    confirm: ConfirmOption = 120.0,
    bandwidth: BandwidthOption = None,
    misbehave: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME[=SHARE][:STRENGTH], SHARE of the fleet; may be repeated; see the command misbehaviour",
            metavar="NAME",
        ),
    ] = None,
) -> None:
    """Run many devices; a JSON line tells their state once a second.

    SIGTERM or Ctrl-C stops publishing and waits for what is unacknowledged; a second one ends at once.
    """
    try:
        labels = read_labels(devices)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--devices") from None
    plan = FleetPlan(
        contact=contact_from(host, port, ca, fingerprint, api, plain),
        labels=labels,
        rate=rate,
        window=window,
        duration_s=duration,
        drain_s=drain,
        keepalive_s=keepalive,
        longest_backoff_s=longest_backoff,
        seed=seed,
        record=record,
        store=store,
        signal=machine_from(machine),
        jitter=jitter,
        habits=habits_from(boot, confirm, bandwidth),
        misbehave=misbehaviour_from(misbehave),
    )

    async def run() -> int:
        many = Fleet(plan, report=print_json)
        _on_signals(many.stop)
        return 0 if await many.run() else 1

    _run(run())


@app.command()
def misbehaviour() -> None:
    """List what devices can do wrong: name, usual strength and its unit."""
    for name, kind in KINDS.items():
        typer.echo(f"{name:<13} {kind.strength:>7g} {kind.unit:<13} {kind.text}")


@app.command()
def odoo(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port for appliances; 0: any free one", min=0, max=65535)] = 8069,
    control_port: Annotated[
        int, typer.Option(help="second door for /sim/, stays open; 0: any free one", min=0, max=65535)
    ] = 0,
    data: Annotated[Path | None, typer.Option(help="file that keeps its memory; default: none")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="fault in force from the start, KIND[:NAME=VALUE,…]; may be repeated", metavar="FAULT"),
    ] = None,
) -> None:
    """Stand in for Odoo. The first line printed is JSON with both addresses. ODOO_API_KEY is the key it expects.

    Faults: as for POST /sim/faults, such as "unavailable:share=0.1" or "slow:delay_s=2,seconds=30".
    """
    from firmware_sim import odoo as stand_in
    from firmware_sim.standin.faults import parse

    try:
        faults = [parse(text) for text in fault or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fault") from None
    api_key = os.environ.get("ODOO_API_KEY", "")
    if not api_key:
        raise typer.BadParameter("set ODOO_API_KEY to the key that the appliance will use")
    try:
        stand_in.run(host=host, port=port, control_port=control_port, api_key=api_key, path=data, faults=faults)
    except OSError as error:
        _say(f"cannot listen: {error.strerror}")
        raise typer.Exit(1) from None


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option(help="end by itself, check everything and say so", min=1)] = None,
    devices: Annotated[int, typer.Option(help="how many devices", min=1, max=2000)] = 5,
    rate: Annotated[float | None, typer.Option(help="readings per second in all; default: one per device")] = None,
    odoo: Annotated[bool, typer.Option("--odoo", help="with a real Odoo 19 in place of the stand-in")] = False,
    inject: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Odoo or its stand-in, appliance and devices together, with a line that shows them work."""
    from firmware_sim.demo.play import Plan, run

    if inject not in (None, "loss", "duplicate"):
        raise typer.BadParameter("loss or duplicate", param_hint="--inject")
    plan = Plan(seconds=seconds, devices=devices, rate=rate or float(devices), inject=inject, real=odoo)
    raise typer.Exit(run(plan))


def _on_signals(action: Callable[[], Any]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, action)


def _run(main: Coroutine[Any, Any, int]) -> None:
    """Run to the end; an error in a callback ends the process, as one in a task does."""

    async def guarded() -> int:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(main)
        broken: list[BaseException] = []

        def on_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            broken.append(context.get("exception") or RuntimeError(context["message"]))
            task.cancel()

        loop.set_exception_handler(on_error)
        try:
            return await task
        except asyncio.CancelledError:
            if broken:
                raise broken[0] from None
            raise

    raise typer.Exit(asyncio.run(guarded()))


def _say(line: str) -> None:
    sys.stdout.write(f"{datetime.now():%H:%M:%S} {line}\n")
    sys.stdout.flush()
