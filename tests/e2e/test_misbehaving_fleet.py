"""A fleet in which every kind of misbehaviour happens at once: it costs others nothing, and no promise is broken."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from firmware_sim.demo.verdict import compare
from firmware_sim.faults import KINDS, parse
from firmware_sim.fleet import Fleet, FleetPlan
from firmware_sim.pairing import Contact, Label
from firmware_sim.record import read_record
from tests.e2e.harness import API_KEY, Appliance, OdooStandIn

STRENGTHS = {"silence": 1.0, "flapping": 0.3, "clone": 0.2, "late-answer": 1.0, "slow-reading": 0.3, "oversize": 0.3}
"""Where the usual one would not show in a few seconds."""


async def test_every_misbehaviour_at_once_loses_nothing_and_disturbs_nobody_else(tmp_path: Path) -> None:
    odoo = OdooStandIn(tmp_path / "odoo")
    appliance = Appliance(tmp_path / "appliance", environment=odoo.settings)
    async with odoo, appliance, odoo.client(timeout=60) as control, appliance.client(timeout=60) as api:
        await control.put("/sim/appliance", json={"url": appliance.url, "api_key": API_KEY})
        # one device for each kind, two that do everything right
        made = (await control.post("/sim/devices", json={"prefix": "d", "count": len(KINDS) + 2})).json()["devices"]
        record = tmp_path / "record.jsonl"
        plan = FleetPlan(
            contact=Contact(host="127.0.0.1", port=appliance.mqtt_port, ca_pem=None, same_address=True),
            labels=tuple(Label(serial=device["serial"], token=device["token"]) for device in made),
            rate=10.0 * len(made),
            window=3,
            jitter=0.1,
            keepalive_s=2,
            longest_backoff_s=0.5,
            seed=7,
            record=record,
            drain_s=30,
        )
        fleet = Fleet(plan, report=lambda state: None)
        running = asyncio.create_task(fleet.run(), name="fleet under test")
        try:
            async with asyncio.timeout(60):
                for device in fleet.devices:
                    await device.ready.wait()
            wrong = dict(zip(KINDS, fleet.devices, strict=False))
            for kind, device in wrong.items():
                device.misbehaviour.set(kind, STRENGTHS.get(kind))
            orders = [{"device_id": device.device_id, "action": "identify"} for device in fleet.devices]
            answers = await asyncio.gather(*(control.post("/sim/commands", json=order) for order in orders))
            await asyncio.sleep(8)
            for device in fleet.devices:
                device.misbehaviour.clear()
        finally:
            fleet.stop()
            drained = await running
        assert drained, "what was said was not acknowledged"
        async with asyncio.timeout(60):
            while (await api.get("/api/v1/buffer")).json()["waiting"]:
                await asyncio.sleep(0.1)
        seen = read_record(record)
        arrived = [(effect["device"], effect["msg_id"]) async for effect in odoo.arrived("telemetry")]
        comparison = compare(seen, arrived)
        assert (comparison.lost, comparison.duplicates) == (0, 0)
        assert len(seen.acknowledged) == len(seen.published) - len(seen.dropped & seen.published)
        assert seen.odd > 50
        # those who behave were never disturbed: they were disconnected by their own end alone
        good = {device.device_id for device in fleet.devices[len(KINDS) :]}
        assert {why for _, device, why in seen.lost_connections if device in good} == {"stopped"}
        await assert_parked_is_bad_json_alone(api, wrong["bad-json"].device_id)
        states = [await command(control, answer.json()["command_id"]) for answer in answers]
        assert all(state["state"] == "done" for state in states[len(KINDS) :])
        by_kind = dict(zip(KINDS, states, strict=False))
        assert by_kind["twice-answer"]["state"] == by_kind["late-answer"]["state"] == "done"
        assert by_kind["no-answer"]["state"] == "delivered"
        assert by_kind["no-puback"]["state"] in ("sent", "failed")
        ledger = (await api.get("/api/v1/ledger")).json()
        assert ledger["adds_up"] is True, ledger


async def assert_parked_is_bad_json_alone(api: Any, culprit: str) -> None:
    parked = (await api.get("/api/v1/dead-letters?limit=200")).json()["dead_letters"]
    assert parked
    assert {(message["device"], message["code"]) for message in parked} == {(culprit, "not_json")}


async def command(control: Any, command_id: str) -> dict[str, Any]:
    state: dict[str, Any] = (await control.get(f"/sim/commands/{command_id}")).json()
    return state


def test_every_kind_can_be_asked_for_on_the_command_line() -> None:
    for kind in KINDS:
        assert parse(f"{kind}=0.5").kind == kind
