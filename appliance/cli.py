"""The command line: run the appliance, check its settings."""

from __future__ import annotations

import errno
import gc
import json
import logging
import sys
import time
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from appliance import __version__
from appliance.errors import ApplianceError, DataFolderError, SettingsError, StoreError
from appliance.settings import Findings, Settings, read

_log = logging.getLogger("appliance")
TALKATIVE = ("amqtt", "transitions", "httpx", "httpcore", "uvicorn.access")
"""Libraries that write a line per message at level info."""


class Exit(IntEnum):
    """What the command's exit status says."""

    OK = 0
    FAILED = 1
    SETTINGS = 2
    DATA_FOLDER = 3
    ADDRESS = 4


cli = typer.Typer(
    name="iiot-appliance",
    help="The IIoT Edge Appliance: devices connect over MQTT, Odoo over HTTP, nothing acknowledged is lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and some of those are secrets
    rich_markup_mode=None,
)

EnvFile = Annotated[
    Path | None, typer.Option(help="Read settings from this file instead of .env in the working directory.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command ``iiot-appliance``; ``arguments`` are those after the command's name."""
    cli(args=None if arguments is None else list(arguments), prog_name="iiot-appliance")


@cli.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        typer.echo(f"iiot-appliance {__version__}")
        raise typer.Exit(Exit.OK)


@cli.command()
def run(env_file: EnvFile = None) -> None:
    """Run the appliance until SIGTERM or Ctrl-C."""
    findings = read(env_file)
    if findings.settings is None:
        _fail(Exit.SETTINGS, *findings.problems, *findings.unknown)
    _start_logging(findings.settings)
    for sentence in (*findings.unknown, *findings.cautions):
        _log.warning("%s", sentence)
    raise typer.Exit(_serve(findings.settings))


@cli.command()
def check_config(
    env_file: EnvFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")] = False,
) -> None:
    """Check all settings and print every problem at once."""
    findings = read(env_file)
    good = not (findings.problems or findings.unknown)
    if as_json:
        result = {"ok": good, "problems": findings.problems, "unknown": findings.unknown, "cautions": findings.cautions}
        typer.echo(json.dumps(result, ensure_ascii=False))
    else:
        _print(findings)
    raise typer.Exit(Exit.OK if good else Exit.SETTINGS)


def _print(findings: Findings) -> None:
    for kind, sentences in (("error", [*findings.problems, *findings.unknown]), ("caution", findings.cautions)):
        for sentence in sentences:
            typer.echo(f"{kind}: {sentence}")
    if not findings.problems and not findings.unknown:
        typer.echo("The settings can be used.")


def _serve(settings: Settings) -> int:
    gc.disable()  # what is imported stays: looking for garbage meanwhile takes a quarter of the start-up time

    from appliance.app import serve  # takes most of the start-up time, and no other command needs it

    try:
        return serve(settings)
    except SettingsError as error:
        _fail(Exit.SETTINGS, *error.problems)
    except (DataFolderError, StoreError) as error:
        _fail(Exit.DATA_FOLDER, str(error))
    except ApplianceError as error:
        _fail(Exit.FAILED, str(error))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
            raise
        _fail(Exit.ADDRESS, f"cannot listen: {error.strerror}")


def _fail(status: Exit, *sentences: str) -> NoReturn:
    for sentence in sentences:
        typer.echo(f"iiot-appliance: {sentence}", err=True)
    raise typer.Exit(status)


def _start_logging(settings: Settings) -> None:
    """Log lines go to standard error, with times in UTC."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    formatter.converter = time.gmtime
    formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    level = settings.iiot_log_level.upper()
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if level != "DEBUG":
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
