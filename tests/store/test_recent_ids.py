"""A repeat of one of a device's last 1,000 message ids is counted and not stored."""

from __future__ import annotations

from tests.store.conftest import OpenStore


async def test_a_repeat_is_noticed_across_a_restart(open_again: OpenStore) -> None:
    store = await open_again()
    await store.add(1, msg_id="a")
    await store.add(2, msg_id="b")
    await store.close()

    store = await open_again()
    await store.add(3, msg_id="a")

    assert await store.numbers() == [1, 2]
    assert [line.repeated for line in await store.buffer.ledger()] == [1]
