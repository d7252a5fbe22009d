"""``api-keys``: who may use the API."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from appliance.cli.box import connected
from appliance.cli.exits import Exit, fail
from appliance.cli.output import AsJson, EnvFile, print_json, print_table

PATH = "/api/v1/api-keys"

api_keys = typer.Typer(no_args_is_help=True, help="List, make and revoke keys of the HTTP API.")


class Scope(StrEnum):
    """What a key opens; each holds those before it."""

    metrics = "metrics"
    read = "read"
    operate = "operate"
    full = "full"


@api_keys.command("list")
def list_keys(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """List the keys, never what opens the door."""
    with connected(env_file) as box:
        found = box.get(PATH)
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "name", "scope", "begins with", "made", "last used"),
        (
            (key["id"], key["name"], key["scope"], key["prefix"], key["created_at"], key["last_used_at"])
            for key in found["api_keys"]
        ),
        empty="There is no key.",
    )


@api_keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Who gets it: letters, digits, dots, dashes, underscores.")],
    scope: Annotated[Scope, typer.Option(help="What it opens; each holds those before it.")] = Scope.read,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is never shown again."""
    with connected(env_file) as box:
        made = box.call("POST", PATH, body={"name": name, "scope": scope.value})
    if as_json:
        print_json(made)
        return
    typer.echo(f"Key {made['name']}, scope {made['scope']}; keep it now, it is not shown again:", err=True)
    typer.echo(made["key"])


@api_keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(help="Its name or its id.")],
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key: it opens nothing any more from now on."""
    with connected(env_file) as box:
        keys = box.get(PATH)["api_keys"]
        found = [key["id"] for key in keys if key["name"] == name] or [key["id"] for key in keys if key["id"] == name]
        if not found:
            fail(Exit.REFUSED, f"no key has the name or id {name}")
        done = box.call("DELETE", f"{PATH}/{found[0]}")
    if as_json:
        print_json(done)
    else:
        typer.echo(f"The key {done['name']} is revoked.")
