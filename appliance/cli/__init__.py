"""The command line: run the appliance, check its settings, and operate the one that runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from appliance import __version__
from appliance.cli.api_keys import api_keys
from appliance.cli.backup import backup, restore
from appliance.cli.check import check
from appliance.cli.check_config import check_config
from appliance.cli.dead_letters import dead_letters
from appliance.cli.devices import devices
from appliance.cli.diag import diag
from appliance.cli.enroll import enroll
from appliance.cli.exits import Exit
from appliance.cli.page_password import page_password
from appliance.cli.recovery import recovery
from appliance.cli.running import TALKATIVE, run
from appliance.cli.status import buffer, status

__all__ = ["TALKATIVE", "Exit", "cli", "main"]

cli = typer.Typer(
    name="iiot-appliance",
    help="The IIoT Edge Appliance: devices connect over MQTT, Odoo over HTTP, nothing acknowledged is lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and some of those are secrets
    rich_markup_mode=None,
)
for command in (run, check, check_config, enroll, status, buffer, backup, restore, diag):
    cli.command()(command)
for name, group in (
    ("devices", devices),
    ("dead-letters", dead_letters),
    ("api-keys", api_keys),
    ("recovery", recovery),
    ("page-password", page_password),
):
    cli.add_typer(group, name=name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command ``iiot-appliance``; ``arguments`` are those after the command's name."""
    cli(args=None if arguments is None else list(arguments), prog_name="iiot-appliance")


@cli.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        typer.echo(f"iiot-appliance {__version__}")
        raise typer.Exit(Exit.OK)
