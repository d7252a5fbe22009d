"""A repeat of one of a device's last 1,000 message ids is counted and not stored, also after a restart or a crash."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from random import Random

import pytest

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import TopicTemplates
from appliance.store import recent_ids
from appliance.store.device_rows import Claim
from appliance.store.devices import DeviceRegistry
from appliance.store.recent_ids import DIGEST_BYTES, REMEMBERED, digest
from tests.store.conftest import OpenStore
from tests.store.support import ManualClock, Store, assert_adds_up

ROOT = Path(__file__).parents[2]


async def repeated(store: Store) -> dict[str, int]:
    return {line.device: line.repeated for line in await store.buffer.ledger()}


async def test_a_repeat_is_counted_not_stored_and_acknowledged(store: Store) -> None:
    await store.add(1, msg_id="a")
    await store.add(2, msg_id="b")
    await store.add(3, msg_id="a")
    assert await store.numbers() == [1, 2]
    assert store.receipts.all == [1, 2, 3]
    assert await repeated(store) == {"press-07": 1}
    await assert_adds_up(store)


async def test_a_repeat_within_one_group_is_noticed(store: Store) -> None:
    for number in range(5):
        store.append(number, msg_id="same")
    await store.settled_down()
    assert await store.numbers() == [0]


async def test_the_same_id_of_two_devices_is_two_messages(store: Store) -> None:
    await store.add(1, msg_id="a")
    await store.add(2, msg_id="a", device="press-08")
    assert await store.numbers() == [1, 2]


async def test_a_reading_without_an_id_is_never_a_repeat(store: Store) -> None:
    await store.add(1, 1, 1)
    assert await store.numbers() == [1, 1, 1]


async def test_exactly_the_last_thousand_are_remembered(store: Store) -> None:
    for number in range(REMEMBERED + 1):
        store.append(number, msg_id=str(number))
    await store.add(-1, msg_id="1")  # the thousandth from the end
    assert (await store.numbers())[-1] == REMEMBERED
    await store.add(-2, msg_id="0")  # forgotten
    assert (await store.numbers())[-1] == -2


async def test_a_repeat_does_not_make_an_id_younger(store: Store) -> None:
    await store.add(0, msg_id="old")
    for number in range(1, REMEMBERED):
        store.append(number, msg_id=str(number))
    await store.add(-1, msg_id="old")
    await store.add(REMEMBERED, msg_id="newest")
    await store.add(-2, msg_id="old")
    assert (await store.numbers())[-2:] == [REMEMBERED, -2]


async def test_a_repeat_is_noticed_across_a_restart(open_again: OpenStore) -> None:
    store = await open_again()
    await store.add(1, msg_id="a")
    await store.add(2, msg_id="b")
    await store.close()

    store = await open_again()
    await store.add(3, msg_id="a")

    assert await store.numbers() == [1, 2]
    assert await repeated(store) == {"press-07": 1}


async def test_a_repeat_is_noticed_after_its_message_was_settled_and_removed(
    open_again: OpenStore, clock: ManualClock
) -> None:
    store = await open_again(keep_settled_s=0, keep_settled_bytes=0)
    await store.add(1, msg_id="a")
    for number in range(2, 300):
        store.append(number, msg_id=str(number), device="press-08")
    await store.settled_down()
    await store.buffer.settle(range(1, 300))
    for _ in range(3):
        clock.forward(2)
        await store.settled_down()
    rows_left = (await store.query("SELECT count(*) FROM messages"))[0][0]
    await store.close()

    store = await open_again()
    await store.add(3, msg_id="a")
    await store.add(4, msg_id="299", device="press-08")
    assert store.buffer.backlog().waiting == 0
    assert rows_left < 300  # else the test shows nothing


async def test_after_kill_9_a_repeat_is_still_noticed(open_again: OpenStore, tmp_path: Path) -> None:
    code = (
        "import asyncio, os, pathlib, signal, sys\n"
        "from tests.store.support import open_store\n"
        "async def work():\n"
        "    store = await open_store(pathlib.Path(sys.argv[1]))\n"
        "    for number in range(700): store.append(number, msg_id=str(number), device=f'press-{number % 3}')\n"
        "    await store.settled_down()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(work())\n"
    )
    arguments = ["-c", code, str(tmp_path / "data")]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT)
    assert await process.wait() == -signal.SIGKILL
    store = await open_again()
    for number in range(700):
        store.append(number, msg_id=str(number), device=f"press-{number % 3}")
    await store.settled_down()
    assert store.buffer.backlog().waiting == 700
    assert sum((await repeated(store)).values()) == 700


@pytest.mark.parametrize("seed", range(40 if os.environ.get("IIOT_TEST_LONG") else 6))
async def test_what_is_remembered_is_the_same_with_and_without_restarts(
    open_again: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Against a plain list of ids; limits are small so that writing, dropping and reading back all happen."""
    random = Random(seed)
    monkeypatch.setattr(recent_ids, "REMEMBERED", 20)
    monkeypatch.setattr(recent_ids, "WRITE_AFTER_IDS", random.choice((3, 15)))
    monkeypatch.setattr(recent_ids, "WRITE_AFTER_ROWS", random.choice((20, 200)))
    monkeypatch.setattr(recent_ids, "CACHED_DEVICES", random.choice((2, 100)))
    devices = ["a", "b", "c", "d"]
    remembered: dict[str, list[str]] = {device: [] for device in devices}
    expected: list[int] = []
    store = await open_again(keep_settled_s=0, keep_settled_bytes=0)
    for number in range(600):
        device, msg_id = random.choice(devices[: random.choice((1, 4))]), str(random.randrange(60))
        store.append(number, device=device, msg_id=msg_id)
        if msg_id not in remembered[device]:
            remembered[device] = [*remembered[device], msg_id][-20:]
            expected.append(number)
        if random.random() < 0.3:
            await store.settled_down()
            clock.forward(random.choice((0, 2)))
        if random.random() < 0.05:
            batch = await store.buffer.take(limit=30)
            await store.buffer.settle([message.seq for message in batch.messages])
            expected = expected[len(batch.messages) :]
        if random.random() < 0.04:
            await store.close()
            store = await open_again(keep_settled_s=0, keep_settled_bytes=0)
    assert await store.numbers() == expected


def test_a_digest_is_not_found_across_the_border_of_two_others() -> None:
    ring = recent_ids._Ring(bytes(range(2 * DIGEST_BYTES)))
    assert ring.holds(bytes(range(DIGEST_BYTES)))
    assert not ring.holds(bytes(range(3, 3 + DIGEST_BYTES)))
    # once across a border and once in place
    assert recent_ids._Ring(b"xxxx" + b"abcdabcd" + b"abcd" + b"abcdabcd").holds(b"abcdabcd")


def test_a_digest_never_changes_for_it_stands_in_files_out_there() -> None:
    assert [digest("m-1"), digest("m-2"), digest("ü")] == [
        -3280072976497272011,
        8996027584356553918,
        6192904641445441335,
    ]


# --- a device id that changes hands ----------------------------------------------------------------------------


async def registry_of(store: Store) -> DeviceRegistry:
    registry = DeviceRegistry(database=store.database, templates=TopicTemplates())
    await registry.load()
    registry.handed_over = store.buffer.handed_over
    return registry


async def pair(registry: DeviceRegistry, serial: str, device_id: str = "press-07") -> None:
    config = DeviceConfig(device_id=device_id)
    await registry.pair(Claim(serial=serial, token_digest=os.urandom(16), request_id="r", config=config))


async def test_a_machine_that_takes_the_place_of_another_begins_with_ids_of_its_own(
    open_again: OpenStore,
) -> None:
    store = await open_again()
    registry = await registry_of(store)
    await pair(registry, "SN-1")
    await pair(registry, "SN-9", "press-08")
    for number in range(350):
        store.append(number, msg_id=str(number))
    await store.settled_down()  # so many are written to the table of ids; these stand in their rows alone:
    await store.add(600, msg_id="1", device="press-08")
    for number in range(500, 600):
        store.append(number, msg_id=str(number))
    await pair(registry, "SN-2")
    await store.add(1000, msg_id="0")
    await store.add(1001, msg_id="599")
    await store.add(1002, msg_id="1", device="press-08")
    assert (await store.numbers())[-3:] == [599, 1000, 1001]
    assert await repeated(store) == {"press-07": 0, "press-08": 1}
    await store.close()
    store = await open_again()
    await store.add(1003, msg_id="1")
    await store.add(1004, msg_id="598")
    assert (await store.numbers())[-2:] == [1003, 1004]
    for msg_id in ("0", "599", "1", "598"):
        await store.add(1005, msg_id=msg_id)
    assert await repeated(store) == {"press-07": 4, "press-08": 1}
    await assert_adds_up(store)


async def test_a_machine_that_is_paired_anew_goes_on_with_its_ids(open_again: OpenStore) -> None:
    store = await open_again()
    registry = await registry_of(store)
    await pair(registry, "SN-1")
    await store.add(1, msg_id="a")
    await pair(registry, "SN-1")
    await store.add(2, msg_id="a")
    await registry.remove(["press-07"])
    await pair(registry, "SN-1")
    await store.add(3, msg_id="a")
    assert await store.numbers() == [1]
    await registry.remove(["press-07"])
    await pair(registry, "SN-2")
    await store.add(4, msg_id="a")
    assert await store.numbers() == [1, 4]
