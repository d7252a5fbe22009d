"""``dead-letters``: what Odoo refused for good, to look at, send again, remove, take away."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.box import Box, connected
from appliance.cli.exits import Exit, fail
from appliance.cli.output import AsJson, EnvFile, print_json, print_table

PATH = "/api/v1/dead-letters"
AT_ONCE = 1000

dead_letters = typer.Typer(no_args_is_help=True, help="What was refused for good: list, retry, remove, export.")

Device = Annotated[str | None, typer.Option(help="Only those of this device.")]
KindName = Annotated[str | None, typer.Option(help="Only those of this kind, such as telemetry.")]
Code = Annotated[str | None, typer.Option(help="Only those refused for this reason, such as no_rule.")]
All = Annotated[bool, typer.Option("--all", help="All there are.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Their ids, from the list.")]


@dead_letters.command("list")
def list_letters(
    device: Device = None,
    kind: KindName = None,
    code: Code = None,
    after: Annotated[int, typer.Option(min=0, help="Begin behind this id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 100,
    payload: Annotated[bool, typer.Option("--payload", help="With payloads of up to 64 KiB.")] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the oldest first."""
    query = {"device": device, "kind": kind, "code": code, "after": after, "limit": limit}
    with connected(env_file) as box:
        page = box.get(PATH, {**query, "payload": "true" if payload else None})
    if as_json:
        print_json(page)
        return
    heads = ["id", "device", "kind", "received", "bytes", "retryable", "code", "reason"]
    names = ["id", "device", "kind", "received_at", "payload_bytes", "retryable", "code", "message"]
    if payload:
        heads, names = [*heads, "payload"], [*names, "payload"]
    print_table(
        heads, ([letter.get(name) for name in names] for letter in page["dead_letters"]), empty="There is none."
    )
    if page["next"] is not None:
        typer.echo(f"There are more: --after {page['next']}", err=True)


@dead_letters.command("retry")
def retry_letters(
    ids: Ids = None,
    device: Device = None,
    kind: KindName = None,
    code: Code = None,
    everything: All = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters to Odoo again: those named, or those that fit."""
    wanted = _wanted(ids, device, kind, code, everything)
    with connected(env_file) as box:
        if wanted is None:
            for letter_id in ids or ():
                box.call("POST", f"{PATH}/{letter_id}/retry")
            done, skipped = len(ids or ()), 0
        else:
            done, skipped = _retry_all(box, wanted)
    if as_json:
        print_json({"retried": done, "skipped": skipped})
    else:
        typer.echo(f"Sent again: {done}." + (f" Not sent: {skipped}, which are no whole messages." if skipped else ""))


def _retry_all(box: Box, wanted: dict[str, Any]) -> tuple[int, int]:
    done = skipped = 0
    while True:
        answer = box.call("POST", f"{PATH}/retry", body={**wanted, "limit": AT_ONCE})
        done += answer["retried"]
        skipped += answer["skipped"]
        if answer["next"] is None:
            return done, skipped
        # what Odoo refuses once more meanwhile comes behind that, and is left alone
        wanted = {**wanted, "after": answer["next"], "up_to": answer["up_to"]}


@dead_letters.command("remove")
def remove_letters(
    ids: Ids = None,
    device: Device = None,
    kind: KindName = None,
    code: Code = None,
    everything: All = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Needed to remove others than by id: nothing brings them back.")
    ] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove dead letters for good: those named, or those that fit."""
    wanted = _wanted(ids, device, kind, code, everything)
    if wanted is not None and not yes:
        fail(Exit.SETTINGS, "nothing brings them back: say --yes too, and maybe export them before")
    removed = 0
    with connected(env_file) as box:
        for letter_id in ids or ():
            box.call("DELETE", f"{PATH}/{letter_id}")
            removed += 1
        while wanted is not None:
            answer = box.call("DELETE", PATH, params={**wanted, "limit": AT_ONCE})
            removed += answer["removed"]
            rest = {"after": answer["next"], "up_to": answer["up_to"]}
            wanted = None if answer["next"] is None else {**wanted, **rest}
    if as_json:
        print_json({"removed": removed})
    else:
        typer.echo(f"Removed: {removed}.")


def _wanted(
    ids: list[int] | None, device: str | None, kind: str | None, code: str | None, everything: bool
) -> dict[str, Any] | None:
    """The filter, or ``None`` where ids are given."""
    given = {name: value for name, value in (("device", device), ("kind", kind), ("code", code)) if value is not None}
    if ids and (given or everything):
        fail(Exit.SETTINGS, "name ids, or say which fit, not both")
    if ids:
        return None
    if not given and not everything:
        fail(Exit.SETTINGS, "name ids, or a --device, --kind or --code, or say --all")
    return given | ({"all": "true"} if everything else {})


@dead_letters.command("export")
def export_letters(
    device: Device = None,
    kind: KindName = None,
    code: Code = None,
    output: Annotated[
        Path | None, typer.Option(help="Write to this file, which must not exist yet; else to standard output.")
    ] = None,
    env_file: EnvFile = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --output: print what was done as one line of JSON.")
    ] = False,
) -> None:
    """Write dead letters with their payloads, a JSON object in each line."""
    with connected(env_file) as box:
        pieces = box.download(f"{PATH}/export", {"device": device, "kind": kind, "code": code})
        if output is None:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        try:
            # readings are nobody else's business
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            fail(Exit.FAILED, f"{output}: {error.strerror}")
        lines = 0
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                    lines += piece.count(b"\n")
        except BaseException as error:
            output.unlink(missing_ok=True)  # half an export must not be taken for a whole one
            if isinstance(error, OSError):
                fail(Exit.FAILED, f"{output}: {error.strerror}")
            raise
    if as_json:
        print_json({"exported": lines, "file": str(output)})
    else:
        typer.echo(f"{lines} are in {output}.")
