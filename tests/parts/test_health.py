"""What health says of the broker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.broker.attached import AttachedLimits
from appliance.broker.seams import PassedOn
from appliance.contract.times import Clock
from appliance.parts.health import HealthService
from appliance.uplink.state import UplinkState
from tests.broker.rig import Rig, running, subscribe
from tests.broker.test_local_topics import machine
from tests.broker.viewers import publish, viewer

CALM = PassedOn(
    viewers=1,
    machines=200,
    waiting=0,
    dropped=7,
    publishes_refused=3,
    subscriptions_refused=0,
    stalled=False,
    full=True,
)


def service(rig: Rig, broker: Any) -> HealthService:
    return HealthService(
        database=rig.database,
        buffer=rig.buffer,
        broker=broker,
        presence=rig.presence,
        gateway_clock=SimpleNamespace(doubt=None),  # type: ignore[arg-type]
        uplink=UplinkState,
        sync=lambda: None,
        quota_bytes=1 << 40,
        clock=Clock(),
    )


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"stalled": True}, ["nothing is passed on to viewers and between machines"]),
        ({"subscriptions_refused": 4}, ["local topics are refused to further devices: 200 have them"]),
        ({"subscriptions_refused": 4, "full": False}, []),
    ],
)
async def test_what_is_not_passed_on_degrades_health_and_says_why(
    tmp_path: Path, change: dict[str, Any], reasons: list[str]
) -> None:
    passed_on = replace(CALM, **change)
    async with running(tmp_path) as rig:
        broker = SimpleNamespace(passed_on=lambda: passed_on, listener=rig.broker.listener)
        health = service(rig, broker).health()
    assert [reason[: len(wanted)] for reason, wanted in zip(health.reasons, reasons, strict=True)] == reasons
    assert health.status == ("degraded" if reasons else "ok")
    assert health.details["passed_on"]["dropped"] == 7


async def test_the_broker_counts_what_viewers_and_machines_did_not_get(tmp_path: Path) -> None:
    limits = AttachedLimits(devices=1, queued_messages=5)
    async with running(tmp_path, viewers={"scada": "look-only"}, attached=limits) as rig:
        looking = await viewer(rig)
        await publish(looking, "command/x", b"may not")
        await machine(rig, "robot-1", "line/+/out")
        second = await machine(rig, "robot-2")
        second.send(subscribe(1, "line/+/out"))
        assert (await second.packet())[1] == b"\0\1\x80"
        rig.broker.fan_out.dropped += 2
        assert rig.broker.passed_on() == PassedOn(
            viewers=1,
            machines=1,
            waiting=0,
            dropped=2,
            publishes_refused=1,
            subscriptions_refused=1,
            stalled=False,
            full=True,
        )
        assert service(rig, rig.broker).health().status == "degraded"
