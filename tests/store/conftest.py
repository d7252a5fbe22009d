"""Fixtures: an opened database and buffer, a clock that tests turn by hand, and the list of receipts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.store.disk import build_library
from tests.store.support import ManualClock, Receipts, Store, open_store

OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def open_again(tmp_path: Path, clock: ManualClock) -> AsyncIterator[OpenStore]:
    """Open the test's data folder; every store is closed at the end, unless the test has closed it."""
    async with AsyncExitStack() as stack:

        async def open_it(**options: Any) -> Store:
            store = await open_store(tmp_path / "data", clock=clock, **options)
            stack.push_async_callback(store.close)
            return store

        yield open_it


@pytest.fixture
async def store(open_again: OpenStore) -> Store:
    return await open_again()


@pytest.fixture
def receipts(store: Store) -> Receipts:
    return store.receipts


@pytest.fixture(scope="session")
def disk_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``disk.c``, compiled; for the children whose disk is watched or fails."""
    library = build_library(tmp_path_factory.mktemp("disk"))
    if isinstance(library, str):
        pytest.skip(library)
    return library
