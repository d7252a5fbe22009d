"""What health says of disk, dead letters and ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.contract.times import Clock
from appliance.parts.health import HealthService
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.dead_letters import Stock
from appliance.store.parked import MOST_PARKED
from appliance.uplink.state import UplinkState
from tests.parts.test_health import CALM


@pytest.fixture
async def health(tmp_path: Path) -> AsyncIterator[HealthService]:
    database = await Database.open(tmp_path)
    buffer = Buffer(database)
    await buffer.load()
    others: Any = SimpleNamespace(doubt=None, connections=0, online=0)
    broker: Any = SimpleNamespace(passed_on=lambda: CALM, listener=others)
    yield HealthService(
        database=database,
        buffer=buffer,
        broker=broker,
        presence=others,
        gateway_clock=others,
        uplink=UplinkState,
        sync=lambda: None,
        quota_bytes=1 << 30,
        clock=Clock(),
    )
    await database.close()


def reasons(health: HealthService) -> tuple[str, str]:
    verdict = health.health()
    return verdict.status, " ".join(verdict.reasons)


async def test_a_disk_or_a_quota_that_is_nearly_used_up_is_said(health: HealthService) -> None:
    health.looks.disk = {"total_bytes": 100, "free_bytes": 50, "file_bytes": 1}
    assert reasons(health) == ("ok", "")
    health.looks.disk = {"total_bytes": 100, "free_bytes": 19, "file_bytes": 1}
    assert reasons(health) == ("degraded", "only 19 % of the disk is free")
    health.looks.disk = {"total_bytes": 100, "free_bytes": 50, "file_bytes": 1 << 30}
    status, text = reasons(health)
    assert (status, "IIOT_BUFFER_QUOTA_MB" in text) == ("degraded", True)


async def test_a_list_of_dead_letters_that_is_nearly_full_is_said_before_it_drops_any(health: HealthService) -> None:
    health.looks.dead_letters = Stock(MOST_PARKED * 8 // 10, 0)
    assert reasons(health) == ("ok", "")
    health.looks.dead_letters = Stock(MOST_PARKED * 9 // 10, 0)
    status, text = reasons(health)
    assert (status, "90 % full" in text) == ("degraded", True)


async def test_a_ledger_that_does_not_add_up_is_said(health: HealthService) -> None:
    for known in (None, True):
        health.looks.adds_up = known
        assert reasons(health) == ("ok", "")
    health.looks.adds_up = False
    status, text = reasons(health)
    assert (status, "does not add up" in text) == ("degraded", True)
    assert health.health().details["ledger"]["adds_up"] is False
