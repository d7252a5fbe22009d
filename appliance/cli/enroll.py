"""``enroll``: a code from the gateway's form in Odoo becomes this appliance's key for Odoo."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.addresses import own_names
from appliance.cli.api_keys import PATH as KEYS_PATH
from appliance.cli.box import Box, connected, read_settings
from appliance.cli.exits import Exit, fail
from appliance.cli.output import AsJson, EnvFile, print_json
from appliance.cli.ownership import give_to_owner
from appliance.cli.passphrases import LONGEST, PassphraseFile, ask_passphrase, read_passphrase_file
from appliance.errors import DataFolderError, OdooError, SealError, SettingsError, StoreError, StoreLockedError
from appliance.settings import Settings

if TYPE_CHECKING:
    from appliance.enrolment import Enrolled


def enroll(
    odoo: Annotated[str, typer.Option(metavar="URL", help="Address of Odoo, such as https://odoo.example.com.")],
    code: Annotated[
        str | None,
        typer.Option(
            envvar="ENROLL_CODE",
            help="From the gateway's form in Odoo; it works once. - means standard input; without it, it is asked for.",
        ),
    ] = None,
    database: Annotated[str | None, typer.Option(help="Database, where Odoo serves several at one address.")] = None,
    api_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where Odoo reaches this appliance's API, if not by its name.")
    ] = None,
    no_api_key: Annotated[
        bool,
        typer.Option(
            "--no-api-key",
            help="Give Odoo no key of the API: it never calls, the appliance fetches all. It need not be running then.",
        ),
    ] = False,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover",
            help="Take the place of the box that was this gateway before, with the identity that Odoo keeps. Stop the"
            " appliance first.",
        ),
    ] = False,
    passphrase_file: PassphraseFile = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Make this appliance known to an Odoo. It counts from the next start of the appliance on.

    Odoo gets a key of its own for the appliance's API, with the scope `operate`; one from an earlier enrolment ends.
    With --recover the recovery passphrase is asked for, or read from --passphrase-file.
    """
    if recover:
        settings = read_settings(env_file)
        given = _passphrase(passphrase_file)
        code = _code(code)
        own_url = None if no_api_key else api_url or _api_url(settings)
        done = _recover(settings, odoo, code, given, database, own_url)
        from appliance.enrolment import KEY_NAME  # as in the other branch

        _tell(done, key_name=None if no_api_key else KEY_NAME, recovered=True, as_json=as_json)
        return
    from appliance import enrolment  # takes time, and most commands do not need it

    code = _code(code)
    with ExitStack() as stack:
        box = None if no_api_key else stack.enter_context(connected(env_file))
        settings = read_settings(env_file) if box is None else box.settings
        key = None if box is None else _new_key(box)
        try:
            done = asyncio.run(
                enrolment.enroll(
                    settings,
                    odoo_url=odoo,
                    code=code,
                    database=database,
                    api_url=None if key is None else api_url or _api_url(settings),
                    api_key=None if key is None else key["key"],
                )
            )
        except BaseException as error:
            if box is not None and key is not None:
                box.call("DELETE", f"{KEYS_PATH}/{key['id']}", also=(404,))
            _explain(error)
            raise
        finally:
            if settings.iiot_data_dir.is_dir():
                give_to_owner(settings.iiot_data_dir)
        if box is not None and key is not None:
            _end_earlier(box, key["id"])
    _tell(done, key_name=None if key is None else key["name"], recovered=False, as_json=as_json)


def _tell(done: Enrolled, *, key_name: str | None, recovered: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "odoo": done.base_url,
                "database_uuid": done.database_uuid,
                "file": str(done.path),
                "overruled": done.overruled,
                "api_key": key_name,
                "recovered": recovered,
                "successor": done.successor,
            }
        )
        return
    if recovered:
        typer.echo(f"This box is now the gateway that Odoo at {done.base_url} knew before. Start the appliance:")
        typer.echo("its devices come back with the secrets that they have. The settings of the old box lie in")
        typer.echo(f"{done.path.with_name('restored-settings.env')}; take over what is to hold here too.")
    else:
        typer.echo(f"Odoo at {done.base_url} knows this appliance. Restart the appliance, and it begins.")
    if done.successor and not recovered:
        typer.echo(
            "caution: another box was this gateway before, and its devices must be paired anew. To take its place with"
            " all its devices, make another code in Odoo, and enrol with --recover. Until this box is enrolled once"
            " more, Odoo goes on keeping the identity of the other"
        )
    if done.overruled:
        typer.echo("caution: ODOO_BASE_URL and ODOO_API_KEY are set to something else, and go first: remove them")


def _code(given: str | None) -> str:
    """The code; everybody on this machine sees what is typed behind --code."""
    if given == "-":
        given = sys.stdin.readline(LONGEST)
    elif given is None:
        if not sys.stdin.isatty():
            fail(Exit.SETTINGS, "the code is needed: --code, --code - for standard input, or ENROLL_CODE")
        given = typer.prompt("Code from the gateway's form in Odoo", err=True)
    code = (given or "").strip()
    if not code:
        fail(Exit.SETTINGS, "the code is empty")
    return code


def _passphrase(file: Path | None) -> Callable[[str], str]:
    """Asks until it is one that can be right; from a file there is one try."""
    from appliance.recovery import canonical

    def ask(why: str) -> str:
        if file is not None and why:
            fail(Exit.REFUSED, f"the recovery passphrase is not right: {why}; the code is spent, make another one")
        while True:
            if why:
                typer.echo(why, err=True)
            typed = ask_passphrase("Recovery passphrase") if file is None else read_passphrase_file(file)
            try:
                return canonical(typed)
            except SealError as error:
                why = str(error)
                if file is not None:
                    fail(Exit.REFUSED, f"{file}: {why}")

    return ask


def _recover(
    settings: Settings,
    odoo_url: str,
    code: str,
    passphrase: Callable[[str], str],
    database: str | None,
    api_url: str | None,
) -> Enrolled:
    from appliance.replacement import replace_box

    try:
        return asyncio.run(
            replace_box(
                settings,
                odoo_url=odoo_url,
                code=code,
                passphrase=passphrase,
                database=database,
                api_url=api_url,
            )
        )
    except SealError as error:
        fail(Exit.REFUSED, f"the identity cannot be read: {error}; the code is spent, make another one")
    except StoreLockedError as error:
        fail(Exit.DATA_FOLDER, f"{error}: stop it first")
    except StoreError as error:
        fail(Exit.DATA_FOLDER, str(error))
    except BaseException as error:
        _explain(error)
        raise
    finally:
        if settings.iiot_data_dir.is_dir():
            give_to_owner(settings.iiot_data_dir)


def _new_key(box: Box) -> dict[str, str]:
    """A key for Odoo, beside the one that it may have already: that one ends when this enrolment has worked."""
    from appliance.enrolment import key_name

    name = key_name({key["name"] for key in box.get(KEYS_PATH)["api_keys"]})
    made: dict[str, str] = box.call("POST", KEYS_PATH, body={"name": name, "scope": "operate"})
    return made


def _end_earlier(box: Box, key_id: str) -> None:
    from appliance.enrolment import is_key_name

    for key in box.get(KEYS_PATH)["api_keys"]:
        if is_key_name(key["name"]) and key["id"] != key_id:
            box.call("DELETE", f"{KEYS_PATH}/{key['id']}", also=(404,))


def _api_url(settings: Settings) -> str:
    """Where other machines reach the API, as far as this one knows."""
    host = settings.iiot_advertised_host or own_names()[0]
    return f"{'https' if settings.http_use_tls else 'http'}://{host}:{settings.port}"


def _explain(error: BaseException) -> None:
    """Leave with a sentence, if this is something that can happen."""
    if isinstance(error, SettingsError):  # who typed the option knows nothing of a setting
        fail(Exit.SETTINGS, *(problem.replace("ODOO_BASE_URL", "--odoo") for problem in error.problems))
    if isinstance(error, DataFolderError):
        fail(Exit.DATA_FOLDER, str(error))
    if isinstance(error, OdooError):
        fail(Exit.ODOO, f"this appliance is not enrolled: {error}")
