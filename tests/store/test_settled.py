"""The settled numbers as intervals behave as a plain set of numbers does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest

from appliance.store.settled import SettledRanges, runs

HIGHEST = 60


def spread(ranges: SettledRanges, first: int = 1, last: int = HIGHEST) -> set[int]:
    return set(range(first, last + 1)) - {n for low, high in ranges.gaps(first, last) for n in range(low, high + 1)}


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE settled (first INTEGER PRIMARY KEY, last INTEGER NOT NULL) STRICT")
    yield connection
    connection.close()


@pytest.mark.parametrize("seed", range(30))
def test_intervals_behave_as_a_plain_set(seed: int, connection: sqlite3.Connection) -> None:
    random = Random(seed)
    ranges, plain = SettledRanges(), set[int]()
    for _ in range(60):
        first = random.randint(1, HIGHEST)
        last = min(first + random.choice((0, 0, 1, 5, 20)), HIGHEST)
        added = {n for low, high in ranges.add(first, last) for n in range(low, high + 1)}
        assert added == set(range(first, last + 1)) - plain
        plain |= set(range(first, last + 1))

        assert spread(ranges) == plain
        low, high = sorted((random.randint(1, HIGHEST), random.randint(1, HIGHEST)))
        assert spread(ranges, low, high) == {n for n in plain if low <= n <= high}
        assert ranges.up_to == next(n for n in range(HIGHEST + 1) if n + 1 not in plain)
        if random.random() < 0.3:
            ranges.save(connection)
            ranges = SettledRanges.load(connection)
            assert spread(ranges) == plain


def test_neighbours_become_one_interval_so_that_the_table_stays_small(connection: sqlite3.Connection) -> None:
    ranges = SettledRanges()
    for number in (1, 3, 5, 4, 2):
        ranges.add(number, number)
    ranges.save(connection)
    assert connection.execute("SELECT first, last FROM settled").fetchall() == [(1, 5)]


def test_a_copy_can_be_changed_without_the_original() -> None:
    ranges = SettledRanges([(1, 5)])
    ranges.copy().add(6, 9)
    assert ranges.up_to == 5


@pytest.mark.parametrize("seed", range(10))
def test_runs_are_the_numbers_again(seed: int) -> None:
    numbers = [Random(seed).randint(-5, 40) for _ in range(Random(seed).randint(0, 40))]
    found = list(runs(numbers))
    assert [n for low, high in found for n in range(low, high + 1)] == sorted(set(numbers))
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(found))
