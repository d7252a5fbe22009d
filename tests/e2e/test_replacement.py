"""A box that dies without a backup, and another one that takes its place with a code and a passphrase."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from appliance.cli import Exit
from appliance.contract.topics import DeviceTopics
from tests.bench.devices import PairedDevice
from tests.e2e.harness import OdooStandIn
from tests.e2e.test_backup import on
from tests.e2e.test_cli import Result
from tests.e2e.test_copies import Box, all_arrived_once, odoo, running, sim, until

__all__ = ["odoo"]

PROFILE = {"telemetry": "line1/{device}/t"}


async def pair_through_odoo(box: Box, odoo: OdooStandIn, device_id: str, **config: Any) -> dict[str, Any]:
    """As a device does it: what it is told."""
    made = await sim(odoo, "POST", "devices", {"device_id": device_id, **config})
    label = made["devices"][0]
    asked = {"serial": label["serial"], "token": label["token"], "request_id": "r"}
    async with httpx.AsyncClient(base_url=box.appliance.url, timeout=30) as client:
        answer: dict[str, Any] = {}
        while answer.get("status") != "ok":
            answer = (await client.post("/api/v1/config/download", json=asked)).json()
    return answer


async def enroll(box: Box, odoo: OdooStandIn, gateway: str | None, *options: str, **settings: str) -> Result:
    code = await sim(odoo, "POST", "codes", {} if gateway is None else {"gateway": gateway})
    # nobody else on the machine is to see it
    given = {"ENROLL_CODE": code["code"], "ODOO_BASE_URL": "", "ODOO_API_KEY": "", **settings}
    return await on(box, "enroll", "--odoo", odoo.url, "--no-api-key", "--json", *options, **given)


async def status_of(box: Box, device_id: str) -> dict[str, Any]:
    async with box.appliance.client() as client:
        found: dict[str, Any] = (await client.get(f"/api/v1/device/{device_id}/status")).json()
        return found


def enrolled_box(folder: Path, odoo: OdooStandIn) -> Box:
    """One that knows its Odoo by enrolment alone."""
    return Box(
        folder, odoo, {"IIOT_ADVERTISED_HOST": "127.0.0.1", "MQTT_BROKER_USERNAME": "", "MQTT_MAX_CONNECTIONS": "77"}
    )


async def kept(box: Box) -> bool:
    return (await on(box, "recovery", "status", "--json")).json["kept_at"] is not None


async def test_another_box_takes_the_place_of_one_that_died_and_no_device_is_paired_again(
    odoo: OdooStandIn, tmp_path: Path
) -> None:
    old = enrolled_box(tmp_path / "old", odoo)
    passphrase = tmp_path / "passphrase"
    passphrase.write_text((await on(old, "recovery", "new", "--json")).json["passphrase"].lower())
    assert (await enroll(old, odoo, None)).status == Exit.OK
    uid = await asyncio.to_thread((old.data / "gateway_uid").read_text)
    async with running(old):
        # its own topics; another with a secret that was changed, and is to be changed again
        devices = [await pair_through_odoo(old, odoo, "press-a", topics=PROFILE)]
        devices.append(await pair_through_odoo(old, odoo, "press-b"))
        old.paired = [
            PairedDevice(each["device_id"], each["mqtt"]["password"], DeviceTopics(**each["topics"]))
            for each in devices
        ]
        await old.publish(3, first=1, device=0)
        async with old.appliance.client() as client:
            rotated = await client.post("/api/v1/device/press-b/rotate")
            assert rotated.status_code == 202
        await old.publish(3, first=1001, device=1)
        await all_arrived_once(odoo, old.published)
    before = (await odoo.state())["requests"]["identity"]
    async with running(old):

        async def kept_anew() -> bool:
            return bool((await odoo.state())["requests"]["identity"] > before)

        await until("Odoo keeps which secrets the devices have", kept_anew)
    authority = await asyncio.to_thread((old.data / "tls" / "authority.pem").read_bytes)

    new = enrolled_box(tmp_path / "new", odoo)
    async with running(new):
        pass  # as an installation leaves it: it has keys of its own by now
    refused = await enroll(new, odoo, None, "--recover", "--passphrase-file", str(passphrase))
    assert (refused.status, "no_identity" in refused.err or "kept" in refused.err) == (Exit.ODOO, True)
    wrong = tmp_path / "wrong"
    wrong.write_text("AAAAA-AAAAA-AAAAA-AAAAA-AAAAA")
    refused = await enroll(new, odoo, uid.strip(), "--recover", "--passphrase-file", str(wrong))
    assert (refused.status, "a letter is wrong" in refused.err) == (Exit.REFUSED, True)
    done = await enroll(new, odoo, uid.strip(), "--recover", "--passphrase-file", str(passphrase))
    assert (done.json["recovered"], done.json["successor"]) == (True, True)
    assert await asyncio.to_thread((new.data / "gateway_uid").read_text) == uid
    assert await asyncio.to_thread((new.data / "tls" / "authority.pem").read_bytes) == authority
    settings = await asyncio.to_thread((new.data / "restored-settings.env").read_text)
    assert "MQTT_MAX_CONNECTIONS=77" in settings
    assert "ODOO" not in settings

    async with running(new):

        async def inherited() -> bool:
            async with new.appliance.client() as client:
                listed = (await client.get("/api/v1/devices/status")).json()["devices"]
            return {each["device_id"] for each in listed} == {"press-a", "press-b"}

        await until("Odoo has told of all devices", inherited)
        new.paired = old.paired
        await new.publish(3, first=2001, device=0)
        await new.publish(3, first=3001, device=1)
        await all_arrived_once(odoo, old.published, new.published)
        assert not (new.data / "recovered.json").exists()
        assert (await status_of(new, "press-b"))["connection"]["status"] in ("online", "offline")
        async with running(old):
            await old.publish(2, first=4001, device=0)

            async def fenced() -> bool:
                return "another copy" in await old.alarm()

            await until("the box that died is fenced when it comes back", fenced)
            assert await old.waiting() >= 2
        await new.publish(2, first=5001, device=1)

        async def there() -> bool:
            return await new.waiting() == 0

        await until("nothing waits", there)


async def test_a_box_that_enrols_without_recovering_does_not_overwrite_what_another_box_would_need(
    odoo: OdooStandIn, tmp_path: Path
) -> None:
    old, other = enrolled_box(tmp_path / "old", odoo), enrolled_box(tmp_path / "other", odoo)
    for box in (old, other):
        assert (await on(box, "recovery", "new")).status == Exit.OK
    assert (await enroll(old, odoo, None)).status == Exit.OK
    async with running(old):
        await until("Odoo keeps the identity", lambda: kept(old))
    uid = (await asyncio.to_thread((old.data / "gateway_uid").read_text)).strip()
    done = await enroll(other, odoo, uid)
    assert done.json["successor"] is True
    async with running(other):

        async def synced() -> bool:
            return bool(((await other.health())["sync"] or {}).get("admitted"))

        await until("it works", synced)
        assert not await kept(other)
    assert (await odoo.state())["requests"]["identity"] == 1


async def test_recovering_is_refused_while_the_appliance_runs_or_has_devices(odoo: OdooStandIn, tmp_path: Path) -> None:
    box = enrolled_box(tmp_path / "box", odoo)
    passphrase = tmp_path / "passphrase"
    passphrase.write_text((await on(box, "recovery", "new", "--json")).json["passphrase"])
    again = await on(box, "recovery", "new")
    assert (again.status, "--replace" in again.err) == (Exit.REFUSED, True)
    options = ("--recover", "--passphrase-file", str(passphrase))
    async with running(box):
        refused = await enroll(box, odoo, None, *options)
        assert (refused.status, "stop it first" in refused.err) == (Exit.DATA_FOLDER, True)
    await box.pair()
    refused = await enroll(box, odoo, None, *options)
    assert (refused.status, "devices of its own" in refused.err) == (Exit.DATA_FOLDER, True)
    assert (await odoo.state())["requests"]["enroll"] == 0, "no code is spent on what cannot be"


async def test_odoo_forgets_the_identity_where_it_is_not_to_keep_it(odoo: OdooStandIn, tmp_path: Path) -> None:
    box = enrolled_box(tmp_path / "box", odoo)
    await on(box, "recovery", "new")
    await enroll(box, odoo, None)
    async with running(box):
        await until("Odoo keeps the identity", lambda: kept(box))
    without = Box(tmp_path / "box", odoo, {"IIOT_IDENTITY_AT_ODOO": "False"})
    async with running(without):

        async def forgotten() -> bool:
            return not await kept(box)

        await until("Odoo keeps nothing any more", forgotten)
    uid = (await asyncio.to_thread((box.data / "gateway_uid").read_text)).strip()
    new = enrolled_box(tmp_path / "new", odoo)
    passphrase = tmp_path / "passphrase"
    passphrase.write_text((await on(new, "recovery", "new", "--json")).json["passphrase"])
    refused = await enroll(new, odoo, uid, "--recover", "--passphrase-file", str(passphrase))
    assert refused.status == Exit.ODOO
