"""``page-password``: the password of the status pages, for who cannot log in to them, or has just installed the box."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from appliance.cli.box import connected
from appliance.cli.exits import Exit, fail
from appliance.cli.output import AsJson, EnvFile, print_json
from appliance.settings import read

PATH = "/api/v1/page-password"
FIRST_FILE = "page_password"

page_password = typer.Typer(no_args_is_help=True, help="Show, set and reset the password of the status pages.")


@page_password.command("show")
def show_password(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Show the first password, as long as nobody has logged in with it or changed it."""
    findings = read(env_file)
    if findings.settings is None:
        fail(Exit.SETTINGS, *findings.problems, *findings.unknown)
    path = findings.settings.iiot_data_dir / FIRST_FILE
    try:
        password = path.read_text("ascii").strip()
    except FileNotFoundError:
        fail(
            Exit.REFUSED,
            "there is no first password any more: somebody has logged in with it, or changed it"
            if findings.settings.iiot_data_dir.is_dir()
            else f"{findings.settings.iiot_data_dir}: there is no such folder; the first start makes it",
            "a new one is made by: iiot-appliance page-password reset",
        )
    except (OSError, ValueError) as error:
        fail(Exit.DATA_FOLDER, f"{path}: {getattr(error, 'strerror', error)}")
    if as_json:
        print_json({"password": password})
    else:
        typer.echo(password)


@page_password.command("set")
def set_password(
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read it from standard input, a line, in place of asking.")
    ] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Set the password to one of your own. Whoever has logged in with the old one must do so again."""
    with connected(env_file) as box:
        if stdin:
            password = sys.stdin.readline().rstrip("\n")
        else:
            password = typer.prompt("New password", hide_input=True, confirmation_prompt=True)
        box.call("POST", PATH, body={"password": password})
    if as_json:
        print_json({"changed": True})
    else:
        typer.echo("The password of the status pages is changed.")


@page_password.command("reset")
def reset_password(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Make a new password and print it. Whoever has logged in with the old one must do so again."""
    with connected(env_file) as box:
        made = box.call("POST", PATH, body={"password": None})
    if as_json:
        print_json(made)
        return
    typer.echo("The new password of the status pages; it is not shown again:", err=True)
    typer.echo(made["password"])
