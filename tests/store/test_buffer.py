"""Messages wait in order until Odoo has settled them, and every one is counted."""

from __future__ import annotations

from tests.store.conftest import OpenStore
from tests.store.support import assert_adds_up


async def test_what_waits_is_counted_on_after_a_restart(open_again: OpenStore) -> None:
    store = await open_again()
    await store.add(*range(10))
    await store.buffer.settle(range(1, 6))
    await store.close()

    store = await open_again()

    assert store.buffer.backlog().waiting == 5
    await store.add(10)
    assert store.buffer.backlog().waiting == 6
    await assert_adds_up(store)
