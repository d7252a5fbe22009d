"""What belongs together is committed together: changes that join a message, and the readings of one payload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appliance.contract.device import parse_telemetry
from tests.store.conftest import OpenStore


async def test_what_joins_a_row_or_a_job_shares_its_fate(open_again: OpenStore) -> None:
    store = await open_again()
    database = store.database

    def note(key: str) -> Callable[[Any], None]:
        return lambda connection: connection.execute("INSERT INTO meta (key, value) VALUES (?, 1)", (key,))

    def fail(connection: object) -> None:
        raise ValueError("a job that fails")

    database.join(1, note("with a row"))
    store.append(1)
    database.join(2, note("with a job"))
    database.submit(lambda connection: None, receipt=2)
    database.join(3, note("with a job that fails"))
    failing = database.submit(fail, receipt=3)
    database.join(4, note("taken back"))
    database.part(4)
    store.append(4)
    with pytest.raises(ValueError, match="a job that fails"):
        await failing
    keys = {key for (key,) in await store.query("SELECT key FROM meta WHERE key LIKE 'with%' OR key LIKE 'taken%'")}
    assert keys == {"with a row", "with a job"}
    assert database._writer.joined == {}


async def test_an_array_of_readings_is_never_torn_between_two_transactions(
    open_again: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.store.writer.GROUP_ROWS", 4)
    store = await open_again()
    writer = store.database._writer
    writer._group_rows = 4
    groups: list[list[object]] = []
    sink = writer.sink
    assert sink is not None
    write = sink.write

    def watch(connection: Any, rows: Any) -> None:
        groups.append([row[-1] for row in rows])
        write(connection, rows)

    monkeypatch.setattr(sink, "write", watch)
    readings = parse_telemetry(b"[" + b",".join([b"{}"] * 7) + b"]", 0)
    for number in range(50):
        store.buffer.append_readings("press-07", readings, received_at_ms=0, flags=0, receipt=number)
    await store.settled_down()
    assert sum(len(group) for group in groups) == 350
    assert len(groups) > 10
    assert all(group[-1] is not None for group in groups)
