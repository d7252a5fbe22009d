"""``backup`` and ``restore``: all that makes this appliance what it is, in one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.box import read_settings
from appliance.cli.exits import Exit, fail
from appliance.cli.output import AsJson, EnvFile, print_json, size
from appliance.cli.ownership import give_to_owner
from appliance.cli.passphrases import PassphraseFile, ask_passphrase, read_passphrase_file
from appliance.errors import BackupError, StoreError, StoreLockedError
from appliance.settings import Settings


def backup(
    output: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Write it into this folder, under a name with gateway and time.")
    ] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="With --output-dir: how many of this gateway stay.")] = None,
    passphrase_file: PassphraseFile = None,
    ask: Annotated[bool, typer.Option("--ask", help="Ask for a passphrase to encrypt it with.")] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Write a backup: buffer, devices, keys, certificates, settings. The appliance may run meanwhile.

    It is read back before it is put in its place. Without a passphrase (--ask, --passphrase-file or
    IIOT_BACKUP_PASSPHRASE) it is not encrypted, and whoever has it can be this appliance.
    """
    settings = read_settings(env_file)
    if (output is None) == (output_dir is None):
        fail(Exit.SETTINGS, "say where to: --output FILE, or --output-dir FOLDER")
    if keep is not None and output_dir is None:
        fail(Exit.SETTINGS, "--keep needs --output-dir")
    passphrase = _passphrase(settings, passphrase_file, ask)

    from appliance.backup.making import make_backup  # takes time, and most commands do not need it

    try:
        made = make_backup(settings, folder=output_dir, path=output, passphrase=passphrase, keep=keep)
    except (BackupError, StoreError) as error:
        fail(Exit.FAILED, f"there is no backup: {error}")
    damaged = made.manifest.database_check == "damaged"
    if as_json:
        print_json(
            {
                "file": str(made.path),
                "bytes": made.size_bytes,
                "encrypted": made.encrypted,
                "database": made.manifest.database_check,
                "removed": [str(path) for path in made.removed],
            }
        )
    else:
        typer.echo(f"{made.path} ({size(made.size_bytes)}) holds all of this appliance, and was read back.")
        if not made.encrypted:
            typer.echo("caution: it is not encrypted, and whoever has it can be this appliance", err=True)
        for path in made.removed:
            typer.echo(f"{path} was removed (--keep {keep}).")
    if damaged:
        fail(
            Exit.FAILED, "the database is damaged, and so is its copy: look at `iiot-appliance check`, keep older ones"
        )


def _passphrase(settings: Settings, file: Path | None, ask: bool) -> str | None:
    if ask:
        return ask_passphrase("Passphrase for the backup", twice=True)
    if file is not None:
        return read_passphrase_file(file)
    given = settings.iiot_backup_passphrase
    return None if given is None else given.get_secret_value()


def restore(
    file: Annotated[Path, typer.Argument(help="The backup.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also where the data folder is not empty; what is in it is moved aside.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup into the data folder of an appliance that is stopped, on this box or a new one.

    The backup is checked first. At its next start the appliance finds out from Odoo what has happened since, and goes
    on; a box that it was copied from is shut out by Odoo then.
    """
    settings = read_settings(env_file)

    from appliance.backup.archive import is_encrypted
    from appliance.backup.restoring import restore_backup

    folder = settings.iiot_data_dir
    try:
        passphrase = None
        if is_encrypted(file):
            given = settings.iiot_backup_passphrase
            if passphrase_file is not None:
                passphrase = read_passphrase_file(passphrase_file)
            else:
                passphrase = ask_passphrase("Passphrase of the backup") if given is None else given.get_secret_value()
        done = restore_backup(file, folder, passphrase=passphrase, force=force)
    except StoreLockedError as error:
        fail(Exit.DATA_FOLDER, f"{error}: stop it first")
    except (BackupError, StoreError) as error:
        fail(Exit.DATA_FOLDER, f"nothing was put back: {error}")
    finally:
        if folder.is_dir():
            give_to_owner(folder)
    manifest = done.manifest
    if as_json:
        print_json(
            {
                "folder": str(done.folder),
                "gateway": manifest.name,
                "made_at": manifest.made_at,
                "version": manifest.version,
                "aside": None if done.aside is None else str(done.aside),
                "settings": None if done.settings_path is None else str(done.settings_path),
            }
        )
        return
    typer.echo(f"{done.folder} is the appliance {manifest.name} as it was at {manifest.made_at}.")
    if done.aside is not None:
        typer.echo(f"What was there before lies in {done.aside}.")
    if done.settings_path is not None:
        typer.echo(f"The settings of that box lie in {done.settings_path}; take over what is to hold here too.")
