"""``recovery``: the passphrase with which another box can take this one's place."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.box import read_settings
from appliance.cli.exits import Exit, fail
from appliance.cli.output import AsJson, EnvFile, print_facts, print_json
from appliance.cli.ownership import give_to_owner
from appliance.errors import DataFolderError

recovery = typer.Typer(
    no_args_is_help=True, help="Make the passphrase with which another box can take this one's place."
)


@recovery.command("new")
def new_passphrase(
    replace: Annotated[
        bool, typer.Option("--replace", help="Make another although there is one; the one before ends.")
    ] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the recovery passphrase and print it. It is never shown again: write it down, away from this box.

    Odoo keeps what makes this box this gateway (keys, certificates, settings), encrypted with it; `enroll --recover`
    on another box asks for it. A running appliance puts it there within a minute or two.
    """
    from appliance.recovery import make_key  # takes time, and most commands do not need it
    from appliance.secret_files import make_folder

    folder = read_settings(env_file).iiot_data_dir
    try:
        make_folder(folder)
        passphrase = make_key(folder, replace=replace)
    except DataFolderError as error:
        fail(Exit.DATA_FOLDER, str(error))
    finally:
        if folder.is_dir():
            give_to_owner(folder)
    if passphrase is None:
        fail(Exit.REFUSED, "there is a recovery passphrase already; --replace makes another, and ends that one")
    if as_json:
        print_json({"passphrase": passphrase})
        return
    typer.echo("Recovery passphrase; write it down, away from this box, it is not shown again:", err=True)
    typer.echo(passphrase)


@recovery.command("status")
def show_status(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Tell whether there is a passphrase, and when Odoo took the identity last."""
    from appliance.recovery import read_kept, read_key

    settings = read_settings(env_file)
    folder = settings.iiot_data_dir
    try:
        there = read_key(folder) is not None
    except DataFolderError as error:
        fail(Exit.DATA_FOLDER, str(error))
    kept = read_kept(folder)
    at = None if kept is None else kept.at
    if as_json:
        print_json({"passphrase": there, "wanted": settings.iiot_identity_at_odoo, "kept_at": at})
        return
    print_facts([("passphrase", "made" if there else "never made"), ("kept at Odoo since", at)])
