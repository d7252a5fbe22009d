"""Machines, and a machine on which the appliance was installed already."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.install.bundles import make_bundle
from tests.install.machine import Machine, missing_tool
from tests.install.roots import debian

MakeMachine = Callable[..., Machine]
BUNDLES = "/bundles"
"""Where machines find them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker runs them all: the installed machine is made once, and they do not take each other's processors."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("install"))


@pytest.fixture(scope="session")
def tools() -> None:
    reason = missing_tool()
    if reason is None:
        return
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(f"a run that was to prove the installation must try it: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def bundles(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle of this version, ``bundle.run``."""
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def installed(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a first installation has written to a bookworm."""
    folder = tmp_path_factory.mktemp("installed")
    with Machine(folder, [debian("bookworm")], binds={bundles: BUNDLES}) as machine:
        machine.run(f"bash {BUNDLES}/bundle.run")
        machine.power_off()
        return machine.layer(folder / "layer")


@pytest.fixture
def machine(bundles: Path, tmp_path: Path) -> Iterator[MakeMachine]:
    """Makes machines that find the bundles, and switches them off at the end."""
    with ExitStack() as stack:

        def make(*lower: Path, network: bool = False, binds: dict[Path, str] | None = None) -> Machine:
            return stack.enter_context(
                Machine(tmp_path, lower, network=network, binds={bundles: BUNDLES, **(binds or {})})
            )

        yield make
