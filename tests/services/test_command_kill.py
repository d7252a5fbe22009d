"""kill -9 at any moment keeps the promises about deliveries."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

LIVES = 8
ROOT = Path(__file__).parents[2]


def _live(folder: Path, log: Path, life: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.services.command_child", str(folder), str(log), str(life)], cwd=ROOT
    )


def _wait_until_ready(child: subprocess.Popen[bytes], log: Path, lives: int) -> None:
    deadline = time.monotonic() + 30
    while not log.exists() or log.read_bytes().count(b"ready\n") < lives:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_at_any_moment_nothing_is_sent_too_often_out_of_order_or_forgotten(tmp_path: Path) -> None:
    folder, log = tmp_path / "data", tmp_path / "log"
    chance = random.Random(20261122)
    for life in range(1, LIVES + 1):
        child = _live(folder, log, life)
        try:
            _wait_until_ready(child, log, life)
            time.sleep(chance.random() * 0.25)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    last = _live(folder, log, -1)
    assert last.wait(timeout=60) == 0

    lines = [line.split() for line in log.read_text().splitlines()]
    accepted = {line[1] for line in lines if line[0] == "A"}
    writes = [(line[1], line[2]) for line in lines if line[0] == "W"]
    assert len(accepted) > 100
    assert len(writes) > 100

    times = Counter(writes)
    assert {count for (_, deliver), count in times.items() if deliver == "at_most_once"} == {1}
    assert {count for (_, deliver), count in times.items() if deliver == "at_least_once"} <= {1, 2, 3}

    by_device = defaultdict(list)
    for command_id, _ in writes:
        by_device[command_id[:2]].append(command_id)
    for written in by_device.values():
        assert all(before <= after for before, after in pairwise(written))

    connection = sqlite3.connect(folder / "appliance.db")
    rows = connection.execute("SELECT command_id, state, reason, deliveries, at_most_once FROM outbox").fetchall()
    connection.close()
    assert accepted <= {row[0] for row in rows}
    for command_id, state, reason, deliveries, at_most_once in rows:
        deliver = "at_most_once" if at_most_once else "at_least_once"
        assert times[command_id, deliver] <= deliveries <= (1 if at_most_once else 3)
        # whatever was not given up after all its deliveries has arrived
        assert state in ("done", "delivered") or (reason == "no_ack" and deliveries == (1 if at_most_once else 3))
