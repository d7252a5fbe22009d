"""Passphrases come from a prompt, a file or the settings, never from the command's arguments: everybody sees those."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.exits import Exit, fail

LONGEST = 1024
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="Read the passphrase from the first line of this file; - means standard input."),
]


def read_passphrase_file(path: Path) -> str:
    """The first line; ends the command where there is none."""
    try:
        text = sys.stdin.readline(LONGEST) if str(path) == "-" else _first_line(path)
    except (OSError, UnicodeDecodeError) as error:
        fail(Exit.SETTINGS, f"{path}: {getattr(error, 'strerror', None) or 'is not UTF-8 text'}")
    passphrase = text.rstrip("\r\n")
    if not passphrase:
        fail(Exit.SETTINGS, f"{path}: its first line holds no passphrase")
    return passphrase


def ask_passphrase(what: str, *, twice: bool = False) -> str:
    """Ask on the terminal, without showing it; ends the command where nobody can be asked."""
    if not sys.stdin.isatty():
        fail(Exit.SETTINGS, f"{what} is needed: there is no terminal to ask on, so name a file with --passphrase-file")
    passphrase: str = typer.prompt(what, hide_input=True, confirmation_prompt=twice, err=True)
    return passphrase


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline(LONGEST)
