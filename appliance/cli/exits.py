"""What the exit status of a command says."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn

import typer


class Exit(IntEnum):
    """The statuses; the README lists them."""

    OK = 0
    FAILED = 1
    SETTINGS = 2
    """Also of an option that cannot be used; that is what the command line library itself answers."""
    DATA_FOLDER = 3
    ADDRESS = 4
    NOT_RUNNING = 5
    MISMATCH = 6
    REFUSED = 7
    DEGRADED = 8
    FAILING = 9
    ODOO = 10


def fail(status: Exit, *sentences: str) -> NoReturn:
    """Say why on standard error, and leave."""
    for sentence in sentences:
        typer.echo(f"iiot-appliance: {printable(sentence)}", err=True)
    raise typer.Exit(status)


def printable(text: str) -> str:
    """Text for a terminal: what devices and peers sent must not move the cursor or colour anything."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
