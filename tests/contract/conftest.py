"""The real Odoos, started once for all tests of the contract that one worker runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.contract.real_odoo import RealSide, real_side
from tests.odoo.conftest import odoo_or_skip


@pytest.fixture(scope="session")
def real_odoo() -> Iterator[Callable[[int], RealSide]]:
    """By its version."""
    started: dict[int, RealSide] = {}
    with ExitStack() as stack:

        def get(major: int) -> RealSide:
            odoo = odoo_or_skip(major)
            if major not in started:
                started[major] = stack.enter_context(real_side(odoo))
            return started[major]

        yield get
