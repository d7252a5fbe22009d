"""``check-config``: every problem of the settings, and of the machine they are for, at once."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.exits import Exit, printable
from appliance.cli.output import AsJson, EnvFile, print_json
from appliance.settings import read


def check_config(
    env_file: EnvFile = None,
    online: Annotated[bool, typer.Option("--online", help="Ask Odoo too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check what a start depends on: settings, data folder, ports, certificates, clock, disk; every problem at once.

    Nothing is started or changed. The exit status is that of the first problem, as `run` would leave with it. `check`
    looks at all there is.
    """
    from appliance.cli.checks import Surroundings, Verdict, make_checks

    findings = read(env_file)
    box = Surroundings(findings, env_file=env_file)
    found = [finding for result in make_checks(box, before_start=True, online=online) for finding in result.findings]
    if online and box.usable and box.odoo is None:
        from appliance.cli.checks.base import failed
        from appliance.cli.checks.odoo import NO_ODOO

        found.append(failed(NO_ODOO, "", status=Exit.ODOO))
    problems = [(finding.status, finding.reason) for finding in found if finding.verdict is Verdict.failed]
    cautions = [finding.reason for finding in found if finding.verdict is Verdict.warning]
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
