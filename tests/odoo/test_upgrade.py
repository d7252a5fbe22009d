"""Data of an earlier version survive the update (``-u``): every model is filled before, and compared row by row."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from firmware_sim.image import make
from firmware_sim.office import Office
from tests.odoo.cluster import Cluster
from tests.odoo.databases import ADDON, ADDONS, connection, run_odoo
from tests.odoo.plant import EQUIPMENT, TEMPERATURE, Plant, new_plant
from tests.odoo.releases import Odoo

pytestmark = pytest.mark.xdist_group("odoo-upgrade")
TABLES = """
    SELECT tablename FROM pg_tables WHERE tablename LIKE 'iiot_%' AND NOT EXISTS (
        SELECT FROM ir_model WHERE transient AND tablename LIKE '%' || replace(model, '.', '_') || '%')
"""


@pytest.fixture(scope="module")
def plant(odoo: Odoo, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with new_plant(odoo, cluster, tmp_path_factory.mktemp("upgrade")) as plant:
        yield plant


class Speaker:
    """Speaks for an appliance, with a gateway's key."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60
        )
        self._uid, self._epoch, self._start = (str(uuid.uuid4()) for _ in range(3))
        self._seq = 0
        self._admission: str | None = None

    async def __aenter__(self) -> Speaker:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = await self._http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def sync(self) -> None:
        epoch = {"epoch": self._epoch, "first_seq": 1, "last_seq": self._seq, "floor": 1, "settled": 0, "stored": 0}
        start = {"start": self._start, "first_seq": 1}
        frame = {
            "contract": 1,
            "gateway": self._uid,
            "name": "hall 1",
            "version": "1.0",
            "time": now(),
            "uptime_s": 1.0,
        }
        more = {"start": self._start, "starts": [start], "epochs": [{**epoch, "below": 0}]}
        self._admission = (await self.post("/iiot/gateway/sync", frame | more))["admission"]

    async def send(self, device: str, kind: str, payload: dict[str, Any]) -> None:
        self._seq += 1
        message = {"seq": self._seq, "device": device, "kind": kind, "at": now(), "received_at": now(), "lane": "live"}
        frame = {"contract": 1, "gateway": self._uid, "epoch": self._epoch, "floor": 1, "settled": 0}
        frame |= {"stored": 0, "below": 0, "start": self._admission, "messages": [{**message, "payload": payload}]}
        results = (await self.post("/iiot/webhook", frame))["results"]
        assert results == [{"seq": self._seq, "status": "stored"}], results


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def fill(plant: Plant, office: Office) -> None:
    """Something in every model."""
    gateway = await office.create("iiot.gateway", name="hall 1")
    dialog = await office.call("iiot.gateway", "action_new_key", [gateway])
    machine = await office.create(EQUIPMENT, name="Press", serial_no="SN-1")
    device = await office.new_device(
        profile=plant.profile, device_id="press-1", serial="SN-1", business_ref=f"{EQUIPMENT},{machine}"
    )
    firmware = await office.new_firmware("2.0.0", make("2.0.0", 10_000), profile_id=plant.profile)
    async with Speaker(plant.server.url, dialog["context"]["default_secret"]) as appliance:
        await appliance.post("/iiot/config", {"serial": "SN-1", "token": device["token"], "request_id": "r1"})
        await appliance.sync()
        await office.call("iiot.device", "action_rotate_secret", [device["id"]])
        await appliance.sync()
        command = await office.send_command(device["id"], "reset", {"speed": 1})
        command_id = (await office.read("iiot.command", command, "command_id"))["command_id"]
        update = await office.start_update(device["id"], firmware)
        update_id = (await office.read("iiot.update", update, "update_id"))["update_id"]
        for kind, payload in (
            ("telemetry", {"temperature": 71.3, "msg_id": "1"}),
            ("presence", {"status": "online", "since": now(), "last_seen": now(), "reconnects": 0}),
            ("command_state", {"command_id": command_id, "state": "delivered", "at": now()}),
            ("command_response", {"command_id": command_id, "status": "ok"}),
            ("command_response", {"status": "ok"}),  # of no command: kept as a report
            ("ota_status", {"update_id": update_id, "state": "downloading", "progress": 40, "at": now()}),
            ("gateway_event", {"event": "clock_jumped", "by_s": 5}),
        ):
            await appliance.send("press-1", kind, payload)
    await office.new_token(device["id"])


def rows(plant: Plant) -> dict[str, list[Any]]:
    """Every row of every table of the add-on, and what rules have written."""
    found = {}
    for table in (*(table for (table,) in plant.sql(TABLES)), "maintenance_equipment"):
        texts = [row[0] for row in plant.sql(f"SELECT to_jsonb(t) FROM {table} t")]
        found[table] = sorted((json.loads(text) for text in texts), key=str)
    return found


async def test_an_update_of_the_addon_keeps_every_row_of_every_model(plant: Plant, tmp_path: Path) -> None:
    async with plant.office() as office:
        await fill(plant, office)
    await asyncio.to_thread(plant.server.stop)
    before = rows(plant)
    assert [table for table, content in before.items() if not content] == [], "nothing would show that these are kept"
    assert len(before) > 15
    assert before["maintenance_equipment"][0][TEMPERATURE] == 71.3
    options = (*connection(plant.odoo, plant.cluster, plant.database), "-u", ADDON, "--stop-after-init", "--no-http")
    status = run_odoo(plant.odoo, plant.odoo.command(*options, addons=ADDONS), tmp_path / "update.log")
    assert status == 0, (tmp_path / "update.log").read_text()[-4000:]
    after = rows(plant)
    assert after.keys() == before.keys()
    for table, content in before.items():
        assert after[table] == content, table
    await plant.start()
    async with plant.office() as office:
        (device,) = await office.find("iiot.device", [], "state", "last_values", "connection_status")
        assert (device["state"], device["last_values"]["temperature"]) == ("active", 71.3)
