"""The power goes at any moment: what was acknowledged is there afterwards, and everything adds up.

A child runs the real store while a library records what it writes and syncs (``disk.c``). From the record the files
are made as they could be after a cut, opened, and held against what the child had been promised by then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.store.disk import ACKS, LOSSES, Event, Medium, environment, read_log
from tests.store.promises import Promises
from tests.store.workload import DIE_OF_FAILURE

LONG = bool(os.environ.get("IIOT_TEST_LONG"))
STATES = 10_000 if LONG else 400
ROOT = Path(__file__).parents[2]


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """Hundreds of folders are made and opened; the medium under them need not be a real one."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="power-cut-", dir=parent))
    yield folder
    shutil.rmtree(folder)


def record(library: Path, folder: Path, *, seed: int, turns: int, **environ: str) -> list[Event]:
    """Run the workload in a child and return what it did to its disk."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "import sys; from tests.store.workload import main; main(*sys.argv[1:])"]
    arguments = [str(data), str(data / ACKS), str(seed), str(turns), "24"]
    subprocess.run(
        [*command, *arguments],
        env=environment(library, data, DISK_LOG=str(folder / "log"), **environ),
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    events = read_log(folder / "log")
    if not any(event.operation == "w" for event in events):
        pytest.skip("this Python's SQLite cannot be watched")
    return events


async def check_cuts(events: list[Event], folder: Path, *, states: int, random: Random, start: int = 0) -> int:
    """Cut the power at ``states`` moments, one kind of loss each, and check; how many were acknowledged at most."""
    cuts = sorted(random.randrange(start, len(events)) + 1 for _ in range(states))
    medium, done, promises, seen = Medium(), 0, Promises(), 0
    for cut in cuts:
        for event in events[done:cut]:
            medium.happen(event)
        done = cut
        complete = medium.acks.rfind(b"\n") + 1
        promises.add(medium.acks[seen:complete].decode())
        seen = complete
        state = folder / "state"
        loss = random.choice(LOSSES)
        medium.write_after_cut(state, loss, random)
        try:
            await promises.check(state)
        except AssertionError as error:
            raise AssertionError(f"after event {cut} of {len(events)}, not synced: {loss}: {error}") from error
        shutil.rmtree(state)
    return len(promises.acknowledged)


async def test_whatever_a_power_cut_leaves_of_unsynced_writes_what_was_acknowledged_is_there(
    disk_library: Path, memory_folder: Path
) -> None:
    for seed in range(8 if LONG else 1):
        folder = memory_folder / str(seed)
        folder.mkdir()
        events = record(disk_library, folder, seed=seed, turns=400 if LONG else 150)
        acknowledged = await check_cuts(
            events, folder, states=STATES // (8 if LONG else 1), random=Random(f"cuts {seed}")
        )
        assert acknowledged > 300


@pytest.mark.parametrize("fails", [f"{n}:{n % 5 + 1}" for n in (range(6, 96, 3) if LONG else (30, 45, 63, 76))])
async def test_a_failed_sync_costs_nothing_that_is_acknowledged_before_or_after_it(
    disk_library: Path, memory_folder: Path, fails: str
) -> None:
    events = record(disk_library, memory_folder, seed=3, turns=60, DISK_FAIL=fails)
    assert sum(event.operation == "S" for event in events) == int(fails.split(":")[1])
    assert await check_cuts(events, memory_folder, states=300 if LONG else 50, random=Random(fails)) > 100


@pytest.mark.parametrize("fails", [f"{n}:1000" for n in (range(1, 90, 2) if LONG else (5, 21, 50))])
async def test_a_process_that_follows_one_whose_syncs_failed_does_not_build_on_what_only_the_kernel_remembers(
    disk_library: Path, memory_folder: Path, fails: str
) -> None:
    before = len(record(disk_library, memory_folder, seed=4, turns=60, DISK_FAIL=fails, **{DIE_OF_FAILURE: "1"}))
    events = record(disk_library, memory_folder, seed=5, turns=60)
    random = Random(fails)
    assert await check_cuts(events, memory_folder, states=300 if LONG else 50, random=random, start=before) > 100
