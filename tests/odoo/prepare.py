"""
``python -m tests.odoo.prepare [19] [17]``: gets those Odoos and makes their template databases, once.

Without arguments: 19, and 18 and 17 where ``TEST_ODOO_18`` and ``TEST_ODOO_17`` name their source.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.odoo.cache import cache_folder, say
from tests.odoo.cluster import ClusterError, running_cluster
from tests.odoo.databases import DatabaseError, base_template
from tests.odoo.releases import NoOdooError, find


def prepare(major: int) -> str:
    """Gets everything that tests with this Odoo need, and returns its revision. Raises :class:`NoOdooError`."""
    odoo = find(major, get=True)
    try:
        with running_cluster() as cluster:
            base_template(odoo, cluster)
    except (ClusterError, DatabaseError) as error:
        raise NoOdooError(str(error)) from error
    return odoo.revision


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.odoo.prepare", description=__doc__)
    parser.add_argument("versions", nargs="*", type=int, help="19, 18, 17")
    asked = parser.parse_args().versions
    missing = 0
    for major in asked or [19, *(major for major in (18, 17) if os.environ.get(f"TEST_ODOO_{major}"))]:
        began_at = time.monotonic()
        try:
            revision = prepare(major)
        except NoOdooError as error:
            say(f"No Odoo {major} for the tests: {error}")
            missing += 1
        else:
            say(f"Odoo {major} is ready: {revision} ({time.monotonic() - began_at:.0f} s, {cache_folder()})")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
