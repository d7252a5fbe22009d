"""``diag``: what support needs to know of a box, without any secret and without any reading."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.exits import Exit, fail
from appliance.cli.output import AsJson, EnvFile, print_json, size
from appliance.settings import read


def diag(
    output: Annotated[
        Path | None, typer.Option(help="Write it to this file; without it, into the working directory.")
    ] = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Write an archive for support: settings with secrets masked, versions, checks, health, counters, log, machine.

    It holds no key, no password and no reading; names of devices and addresses may be in its log. Works while the
    appliance runs and while it does not.
    """
    from appliance.cli.checks import Surroundings  # takes time, and most commands do not need it
    from appliance.cli.diagnosis import members, write_archive

    findings = read(env_file)
    box = Surroundings(findings, env_file=env_file)
    at = datetime.now(UTC)
    name = findings.settings.mqtt_client_id if findings.settings else "box"
    safe = re.sub("[^A-Za-z0-9._-]", "_", name)
    path = output or Path(f"iiot-diag-{safe}-{at:%Y%m%dT%H%M%SZ}.tar.gz")
    try:
        names = write_archive(path, members(box))
    except OSError as error:
        fail(Exit.FAILED, f"{error.filename or path}: {error.strerror}")
    if as_json:
        print_json({"file": str(path), "bytes": path.stat().st_size, "members": names})
    else:
        typer.echo(f"{path} ({size(path.stat().st_size)}) is for support: {', '.join(names)}. Look at it before you")
        typer.echo("send it: secrets are masked, names of devices and addresses are not.")
