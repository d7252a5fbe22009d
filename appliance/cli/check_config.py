"""``check-config``: every problem of the settings, and of the machine they are for, at once."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.exits import Exit, printable
from appliance.cli.output import AsJson, EnvFile, print_json
from appliance.contract.times import Clock
from appliance.settings import read


def check_config(
    env_file: EnvFile = None,
    online: Annotated[bool, typer.Option("--online", help="Ask Odoo too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the settings, the data folder, ports, certificates, clock and disk; print every problem at once.

    Nothing is started or changed. The exit status is that of the first problem, as `run` would leave with it.
    """
    findings = read(env_file)
    problems = [(Exit.SETTINGS, text) for text in (*findings.problems, *findings.unknown)]
    cautions = list(findings.cautions)
    if findings.settings is not None:
        from appliance.cli import checks  # takes time, and wrong settings need none of it

        found = [*checks.offline(findings.settings, Clock())]
        if online and (answer := checks.online(findings.settings)) is not None:
            found.append(answer)
        problems += [(finding.status, finding.text) for finding in found if finding.status is not None]
        cautions += [finding.text for finding in found if finding.status is None]
    if as_json:
        texts = [text for _, text in problems if text not in findings.unknown]
        print_json({"ok": not problems, "problems": texts, "unknown": findings.unknown, "cautions": cautions})
    else:
        for kind, sentences in (("error", [text for _, text in problems]), ("caution", cautions)):
            for sentence in sentences:
                typer.echo(f"{kind}: {printable(sentence)}")
        if not problems:
            typer.echo("The settings can be used." if not online else "The settings can be used, and Odoo answers.")
    raise typer.Exit(problems[0][0] if problems else Exit.OK)
