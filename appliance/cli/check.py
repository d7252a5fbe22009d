"""``check``: everything that can be wrong with an appliance, with the reason and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from appliance.cli.exits import Exit, printable
from appliance.cli.output import AsJson, EnvFile, print_json
from appliance.settings import read


def check(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Look at everything that can be wrong: settings, disk, buffer, clock, certificates, ports, service, Odoo, backlog.

    Works while the appliance runs and while it does not, as its user or as root; it changes nothing. The exit status is
    0 if all is well, 8 if somebody should look, 9 if something does not work.
    """
    from appliance.cli.checks import Verdict, worst

    results = []
    for result in _results(env_file):
        results.append(result)
        if not as_json:
            for finding in result.findings:
                typer.echo(f"{finding.verdict.upper():8} {result.title}: {printable(finding.reason)}")
                if finding.remedy:
                    typer.echo(f"{'':8} → {printable(finding.remedy)}")
    verdict = worst(result.verdict for result in results)
    if as_json:
        print_json(as_document(results))
    statuses = {Verdict.warning: Exit.DEGRADED, Verdict.failed: Exit.FAILING}
    raise typer.Exit(statuses.get(verdict, Exit.OK))


def _results(env_file: Path | None) -> Any:
    from appliance.cli.checks import Surroundings, make_checks

    return make_checks(Surroundings(read(env_file), env_file=env_file))


def as_document(results: Any) -> dict[str, Any]:
    """For programs."""
    from appliance.cli.checks import worst

    return {
        "verdict": worst(result.verdict for result in results).value,
        "checks": [
            {
                "name": result.name,
                "verdict": result.verdict.value,
                "findings": [
                    {"verdict": each.verdict.value, "reason": each.reason, "remedy": each.remedy}
                    for each in result.findings
                ],
            }
            for result in results
        ],
    }
