"""The add-on's own tests, which run inside Odoo."""

from __future__ import annotations

import pytest

from tests.odoo.addon_tests import run_addon_tests
from tests.odoo.cache import say
from tests.odoo.cluster import Cluster
from tests.odoo.releases import Odoo


def test_the_tests_of_the_addon_pass_inside_odoo(
    odoo: Odoo, cluster: Cluster, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run_addon_tests(odoo, cluster, database)
    with capsys.disabled():
        say(f"\nOdoo {odoo.revision}: {outcome.tests} tests of the add-on, {outcome.failed} failed")
    bad = [problem for problem in outcome.problems if not problem.startswith("WARNING")]
    assert outcome.good, f"{outcome.log}\n" + "\n".join(bad or [f"{outcome.tests} tests ran"])
