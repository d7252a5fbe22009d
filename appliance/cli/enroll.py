"""``enroll``: a code from the gateway's form in Odoo becomes this appliance's key for Odoo."""

from __future__ import annotations

import asyncio
import re
from contextlib import ExitStack
from typing import Annotated

import typer

from appliance.addresses import own_names
from appliance.cli.api_keys import PATH as KEYS_PATH
from appliance.cli.box import Box, connected, read_settings
from appliance.cli.exits import Exit, fail
from appliance.cli.output import AsJson, EnvFile, print_json
from appliance.cli.ownership import give_to_owner
from appliance.errors import DataFolderError, OdooError, SettingsError
from appliance.settings import Settings

KEY_NAME = "odoo"
_OURS = re.compile(rf"{KEY_NAME}(-\d+)?")


def enroll(
    odoo: Annotated[str, typer.Option(metavar="URL", help="Address of Odoo, such as https://odoo.example.com.")],
    code: Annotated[str, typer.Option(help="From the gateway's form in Odoo; it works once.")],
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
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Make this appliance known to an Odoo. It counts from the next start of the appliance on.

    Odoo gets a key of its own for the appliance's API, with the scope `operate`; one from an earlier enrolment ends.
    """
    from appliance import enrolment  # takes time, and most commands do not need it

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
    if as_json:
        print_json(
            {
                "odoo": done.base_url,
                "database_uuid": done.database_uuid,
                "file": str(done.path),
                "overruled": done.overruled,
                "api_key": None if key is None else key["name"],
            }
        )
        return
    typer.echo(f"Odoo at {done.base_url} knows this appliance. Restart the appliance, and it begins.")
    if done.overruled:
        typer.echo("caution: ODOO_BASE_URL and ODOO_API_KEY are set to something else, and go first: remove them")


def _new_key(box: Box) -> dict[str, str]:
    """A key for Odoo, beside the one that it may have already: that one ends when this enrolment has worked."""
    taken = {key["name"] for key in box.get(KEYS_PATH)["api_keys"]}
    names = [KEY_NAME, *(f"{KEY_NAME}-{number}" for number in range(2, len(taken) + 3))]
    name = next(name for name in names if name not in taken)
    made: dict[str, str] = box.call("POST", KEYS_PATH, body={"name": name, "scope": "operate"})
    return made


def _end_earlier(box: Box, key_id: str) -> None:
    for key in box.get(KEYS_PATH)["api_keys"]:
        if _OURS.fullmatch(key["name"]) and key["id"] != key_id:
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
