"""Fixtures for tests on a real Odoo: each test that asks for one runs on every version there is."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.odoo.cluster import Cluster, ClusterError, programs, running_cluster
from tests.odoo.databases import new_database
from tests.odoo.releases import MAJORS, NoOdooError, Odoo, find


def odoo_or_skip(major: int) -> Odoo:
    """
    That Odoo, as ``./install.sh test`` has prepared it; the test is skipped without it.

    Where ``CI`` is set it fails: a run that was to prove the add-on must not pass without having tried. Odoo 17 is
    tried where a source tree is given.
    """
    try:
        programs()
        return find(major)
    except (NoOdooError, ClusterError) as error:
        if os.environ.get("CI") and (major == 19 or os.environ.get(f"TEST_ODOO_{major}")):
            pytest.fail(f"no Odoo {major}: {error}")
        pytest.skip(f"no Odoo {major}: {error}")


@pytest.fixture(scope="session", params=MAJORS, ids=lambda major: f"odoo{major}")
def odoo(request: pytest.FixtureRequest) -> Odoo:
    return odoo_or_skip(request.param)


@pytest.fixture(scope="session")
def odoo_19() -> Odoo:
    return odoo_or_skip(19)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def database(odoo: Odoo, cluster: Cluster) -> Iterator[str]:
    """Name of a fresh database of that Odoo with the add-on installed."""
    with new_database(odoo, cluster) as name:
        yield name
