"""``python -m tests.odoo.check 19 [tags]``: the add-ons' own tests in this checkout, on a database that is kept."""

from __future__ import annotations

import argparse
import sys
import time

from tests.odoo.addon_tests import ALL, run_addon_tests
from tests.odoo.cache import held
from tests.odoo.cluster import running_cluster
from tests.odoo.databases import kept_database, kept_database_name
from tests.odoo.releases import MAJORS, NoOdooError, find


def distinct(problems: list[str]) -> list[str]:
    """Without those that end like an earlier one: Odoo tells an error at each level that it passes."""
    return list({problem.splitlines()[-1]: problem for problem in reversed(problems)}.values())[::-1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.odoo.check", description=__doc__)
    parser.add_argument("version", type=int, choices=MAJORS)
    parser.add_argument("tags", nargs="?", default=ALL, help="as for Odoo's --test-tags")
    parser.add_argument("--fresh", action="store_true", help="begin with a new database")
    parser.add_argument("-v", "--verbose", action="store_true", help="warnings in full")
    arguments = parser.parse_args()
    began_at = time.monotonic()
    try:
        odoo = find(arguments.version, get=True)
    except NoOdooError as error:
        print(f"No Odoo {arguments.version}: {error}")
        return 2
    with running_cluster() as cluster:
        name = kept_database_name(odoo, "check")
        with held(name, note="Another check of this checkout is running; waiting for it"):
            kept_database(odoo, cluster, name, fresh=arguments.fresh)
            outcome = run_addon_tests(odoo, cluster, name, arguments.tags)
    for problem in distinct(outcome.problems):
        shown = problem if arguments.verbose or not problem.startswith("WARNING") else problem.splitlines()[0]
        print(shown)
    verdict = "passed" if outcome.good else "FAILED" if outcome.tests else "FAILED: no test ran"
    print(
        f"Odoo {odoo.revision}: {outcome.tests} tests, {outcome.failed} failed, exit status {outcome.status}: "
        f"{verdict} ({time.monotonic() - began_at:.0f} s, log {outcome.log})"
    )
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
