"""Options that commands share, and what they mean. ``typer.BadParameter`` says what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Annotated

import typer

from firmware_sim import trust
from firmware_sim.faults import Request, parse
from firmware_sim.habits import Habits, Patience
from firmware_sim.pairing import Contact
from firmware_sim.signals import MIXED, SIGNALS, signal

HostOption = Annotated[str, typer.Option(help="address of the appliance's broker")]
PortOption = Annotated[int, typer.Option(help="its port", min=1, max=65535)]
CaOption = Annotated[
    Path | None, typer.Option("--ca", help="the appliance's authority (ca.pem)", exists=True, dir_okay=False)
]
FingerprintOption = Annotated[str | None, typer.Option(help="its SHA-256 fingerprint, as on the pairing label")]
ApiOption = Annotated[str | None, typer.Option(help="the appliance's API, where /ca.pem is fetched to be checked")]
PlainOption = Annotated[bool, typer.Option("--plain", help="no TLS, and stay at this address")]
KeepaliveOption = Annotated[int, typer.Option(help="MQTT keep-alive in seconds", min=1, max=65535)]
SignalOption = Annotated[str, typer.Option(help=f"which machine: {', '.join(SIGNALS)}, {MIXED}")]
JitterOption = Annotated[float, typer.Option(help="part of the interval by which a reading may be late", min=0, max=1)]
BootOption = Annotated[float, typer.Option(help="seconds that a restart takes", min=0)]
ConfirmOption = Annotated[
    float, typer.Option(help="seconds that new firmware has to reach the appliance, else it is rolled back", min=1)
]
BandwidthOption = Annotated[
    float | None, typer.Option(help="kilobytes per second of a download; default: what there is", min=0.1)
]
WindowOption = Annotated[int, typer.Option(help="unacknowledged messages at a time", min=1, max=20)]


def contact_from(
    host: str, port: int, ca: Path | None, fingerprint: str | None, api: str | None, plain: bool
) -> Contact:
    """What a device trusts: with ``--plain`` nothing but a file for firmware, else a file, its fingerprint, or both."""
    try:
        if plain:
            files_ca_pem = None if ca is None else ca.read_text("utf-8")
            return Contact(host=host, port=port, ca_pem=None, same_address=True, files_ca_pem=files_ca_pem)
        if ca is not None:
            ca_pem = ca.read_text("utf-8")
            if fingerprint is not None:
                trust.check(ca_pem, fingerprint)
        elif fingerprint is not None:
            ca_pem = trust.fetch_ca(api or f"https://{host}:8000", fingerprint)
        else:
            raise typer.BadParameter("TLS needs --ca or --fingerprint; --plain goes without")
        trust.context(ca_pem)
    except (trust.TrustError, OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(str(error)) from None
    return Contact(host=host, port=port, ca_pem=ca_pem)


def habits_from(boot_s: float, confirm_s: float, kilobytes_per_s: float | None) -> Habits:
    """How long a device takes."""
    bytes_per_s = None if kilobytes_per_s is None else kilobytes_per_s * 1000
    return Habits(boot_s=boot_s, confirm_within_s=confirm_s, patience=Patience(bytes_per_s=bytes_per_s))


def misbehaviour_from(texts: list[str] | None) -> tuple[Request, ...]:
    """What ``--misbehave`` asks for."""
    try:
        return tuple(parse(text) for text in texts or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--misbehave") from None


def machine_from(name: str) -> str:
    """The name of a machine that exists."""
    try:
        signal(name, Random(0))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--machine") from None
    return name
