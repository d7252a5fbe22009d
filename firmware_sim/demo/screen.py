"""What the demo tells people."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from firmware_sim.demo.surroundings import Surroundings
from firmware_sim.demo.verdict import Verdict

LONG = ("connected", "published", "acknowledged", "in Odoo", "waiting", "commands", "parked", "firmware")
SHORT = ("dev", "pub", "ack", "Odoo", "wait", "cmd", "parked", "fw")
"""For a narrow terminal."""


@dataclass(slots=True)
class Progress:
    """What the live line tells; ``None``: nobody could be asked just now."""

    fleet: dict[str, Any] = field(default_factory=dict)
    in_odoo: int | None = None
    waiting: int | None = None
    parked: int | None = None
    commands_sent: int = 0
    commands_done: int = 0
    update: str = ""


def tell(text: str = "", *, file: TextIO | None = None) -> None:
    """A line, at once."""
    print(text, file=file or sys.stdout, flush=True)


def introduction(*, surroundings: Surroundings, odoo: str, devices: int, rate: float, own: dict[str, str]) -> str:
    """What runs where, and what to paste to take part."""
    here = surroundings
    ca = f" --cafile {here.ca_file}" if here.mqtt_tls else ""
    viewer, password = here.environment["MQTT_BROKER_USERNAME"], here.environment["MQTT_BROKER_PASSWORD"]
    return f"""
Devices publish over MQTT, the appliance keeps every reading until Odoo has it, and brings commands back.

  devices     {devices}, {rate:g} readings per second in all
  appliance   MQTT {here.mqtt_host}:{here.mqtt_port}{" with TLS" if here.mqtt_tls else ""}, API {here.api}/
  Odoo        {odoo}

Some devices say things twice or to the wrong topic, and one gets new firmware: that must do no harm.

Look on:
  mosquitto_sub -V mqttv311 -h {here.mqtt_host} -p {here.mqtt_port}{ca} -u {viewer} -P {password} -v -t 'telemetry/#'

Connect a device of your own with the commands in README.md, "Connect a device"; these are its values:
  GATEWAY={here.mqtt_host} MQTT={here.mqtt_port} API={here.api}
  SERIAL={own["serial"]} TOKEN={own["token"]} KEY={here.key_for_a_shell()}
  VIEWER={viewer} VIEWER_PASSWORD={password}
"""


class LiveLine:
    """Once a second the state of things: rewritten in place on a terminal, else a line each."""

    def __init__(self, *, devices: int, stream: TextIO | None = None) -> None:
        self._devices = devices
        self._stream = stream or sys.stdout
        self._rewrites = self._stream.isatty()
        self._open = False

    def show(self, seconds: float, progress: Progress) -> None:
        """Write the line anew."""
        long = _line(seconds, self._devices, progress, LONG)
        if self._rewrites:
            width = shutil.get_terminal_size().columns - 1
            line = long if len(long) <= width else _line(seconds, self._devices, progress, SHORT)
            self._stream.write(f"\r\x1b[2K{line[:width]}")
            self._open = True
        else:
            self._stream.write(long + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the last state standing."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False


def _line(seconds: float, devices: int, progress: Progress, words: Sequence[str]) -> str:
    connected, published, acknowledged, in_odoo, waiting, commands, parked, firmware = words
    fleet = progress.fleet
    parts = [
        f"{seconds:4.0f} s",
        f"{connected} {fleet.get('connected', 0)}/{devices}",
        f"{published} {fleet.get('published', 0)}",
        f"{acknowledged} {fleet.get('acknowledged', 0)}",
        "Odoo away" if progress.in_odoo is None else f"{in_odoo} {progress.in_odoo}",
        "appliance away" if progress.waiting is None else f"{waiting} {progress.waiting}",
        f"{commands} {progress.commands_done}/{progress.commands_sent}",
    ]
    if progress.parked:
        parts.append(f"{parked} {progress.parked}")
    if progress.update:
        parts.append(f"{firmware} {progress.update}")
    return "  ".join(parts)


def summary(verdict: Verdict, refused: Sequence[str], update_error: str) -> str:
    """The result in words."""
    lines = [
        "",
        f"{verdict.published} readings published by {verdict.paired} devices, {verdict.acknowledged} acknowledged, "
        f"{verdict.in_odoo} in Odoo.",
        f"{verdict.commands_done} of {verdict.commands_sent} commands answered.",
    ]
    if verdict.odd:
        lines.append(f"{verdict.odd} messages were wrong on purpose: said twice, or to another device's topic.")
    lines.append(f"New firmware on one device: {verdict.update}{f', {update_error}' if update_error else ''}.")
    failures = verdict.failures()
    lines += [f"Not good: {sentence}." for sentence in failures]
    lines += [f"Refused: {sentence}" for sentence in refused[:10]]
    lines += [] if failures else ["Every acknowledged reading is in Odoo exactly once."]
    return "\n".join(lines)
