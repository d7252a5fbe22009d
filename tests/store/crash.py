"""Runs the workload again and again in forks and kills each at a random moment; see ``test_database.py``.

One process that has everything imported makes a fork per round: a round costs milliseconds, no start of Python.
Arguments: data folder, file for the notes, rounds, seed. After each round it writes a line and waits for one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from random import Random

from tests.store.workload import _write, checkpoint_often, gateway_day

OPENING_S = 0.05
MOST_NOTES_BYTES = 3000


def main(folder: str, notes: str, rounds: str, seed: str) -> None:
    random = Random(int(seed))
    checkpoint_often(24)
    for number in range(int(rounds)):
        child = os.fork()
        if child == 0:
            descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            work = gateway_day(Path(folder), number, lambda text, to=descriptor: _write(to, text), turns=100_000)
            asyncio.run(work)
            os._exit(0)
        if random.random() < 0.3:
            time.sleep(random.uniform(0.0, OPENING_S))
        else:
            _wait_for_notes(Path(notes), random)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(number, flush=True)
        sys.stdin.readline()


def _wait_for_notes(notes: Path, random: Random) -> None:
    """Until the child has got some way, however slow the machine is, and a moment longer."""
    enough = notes.stat().st_size + random.randrange(MOST_NOTES_BYTES)
    deadline = time.monotonic() + 10
    while notes.stat().st_size < enough and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(random.uniform(0.0, 0.005))


if __name__ == "__main__":
    main(*sys.argv[1:])
