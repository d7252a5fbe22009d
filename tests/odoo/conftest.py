"""Fixtures for tests on a real Odoo: each test that asks for one runs on every version there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.odoo.cluster import Cluster, ClusterError, programs, running_cluster
from tests.odoo.databases import new_database
from tests.odoo.people import Person
from tests.odoo.releases import MAJORS, NoOdooError, Odoo, find
from tests.odoo.screens import BROWSER, DRIVER, WebClient, start_browser
from tests.odoo.scripts import run_script
from tests.odoo.server import OdooServer

FACTORY = """
env['iiot.demo']._make_factory()
people = env['res.users'].search([])
if 'odoobot_state' in people._fields:  # its greeting would lie above everything on a phone
    people.odoobot_state = 'disabled'
env.cr.commit()
answer(True)
"""


def odoo_or_skip(major: int) -> Odoo:
    """
    That Odoo, as ``./install.sh test`` has prepared it; the test is skipped without it.

    Where ``CI`` is set it fails: a run that was to prove the add-on must not pass without having tried. Odoo 18
    and 17 are tried where a source tree is given.
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


def _screens(major: int) -> Any:
    return pytest.param(major, marks=pytest.mark.xdist_group(f"screens-{major}"), id=f"odoo{major}")


@pytest.fixture(scope="session", params=[_screens(major) for major in MAJORS])
def web(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebClient]:
    """The web client of an Odoo with the demonstration factory, in a browser; once for all tests of that version."""
    yield from web_client(request.param, cluster, tmp_path_factory.mktemp("browser"))


def web_client(major: int, cluster: Cluster, folder: Path) -> Iterator[WebClient]:
    odoo = odoo_or_skip(major)
    if not (BROWSER and DRIVER):
        pytest.skip("needs chromium and chromium-driver")
    with new_database(odoo, cluster) as database:
        run_script(odoo, cluster, database, FACTORY)
        with OdooServer(odoo, cluster, database) as server:
            person = Person(server.url, database)
            driver = start_browser(folder)
            try:
                yield WebClient(driver, person, str(major))
            finally:
                driver.quit()
                person.close()
