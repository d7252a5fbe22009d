"""Records in states that the demonstration factory has none in, so that every button is somewhere to be pressed."""

from __future__ import annotations

import uuid

from tests.odoo.box import HandBox
from tests.odoo.people import Person

NOBODY = "http://127.0.0.1:9"
"""An address at which nothing answers."""


def every_state(person: Person) -> None:
    """Devices off or gone, orders that run, gateways to be called or that miss readings, a failing rule, requests."""
    profile = person.create("iiot.device.profile", name="All states")
    for name, actions in (
        ("off", ["action_disable"]),
        ("gone", ["action_retire"]),
        ("awaited", ["action_generate_token"]),
    ):
        device = person.create("iiot.device", name=name.title(), serial_number=serial(name), profile_id=profile)
        for action in actions:
            person.call("iiot.device", action, [device])
    enrolled_gateway(person, "Hall with an address")
    box = HandBox(person, "Hall of all states")
    orders_that_run(person, box, profile)
    rule_that_fails(person, box, profile)
    box.close()
    gateway_that_misses_readings(person)
    for machine in person.find("maintenance.equipment", [], "id"):
        person.create("maintenance.request", name="It leaks", equipment_id=machine["id"])


def serial(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:6]}"


def paired_device(person: Person, box: HandBox, profile: int, name: str) -> int:
    """A device at that box."""
    device = person.create("iiot.device", name=name, serial_number=serial(name), profile_id=profile)
    (row,) = person.find("iiot.device", [("id", "=", device)], "serial_number")
    token = person.call("iiot.device", "action_generate_token", [device])["context"]["default_token"]
    box.pair(row["serial_number"], token)
    return device


def orders_that_run(person: Person, box: HandBox, profile: int) -> None:
    """Of each kind one that waits, and an update that is only a draft; what a test takes back has others behind it."""
    device = paired_device(person, box, profile, "Busy")
    for action in ("first", "second", "third"):
        person.call("iiot.device", "send_command", [device], action)
    firmware = person.create("iiot.firmware", version=serial("9"), url=f"{NOBODY}/9.0.bin", size=1, sha256="0" * 64)
    draft = person.create("iiot.update", device_id=device, firmware_id=firmware)
    started = person.create("iiot.update", device_id=device, firmware_id=firmware)
    person.call("iiot.update", "action_start", [started])
    assert draft != started


def enrolled_gateway(person: Person, name: str) -> int:
    """One that told Odoo where to call it."""
    gateway = person.create("iiot.gateway", name=name)
    code = person.call("iiot.gateway", "action_new_code", [gateway])["context"]["default_secret"]
    person.post(
        "/iiot/gateway/enroll",
        {"contract": 1, "code": code, "gateway_uid": str(uuid.uuid4()), "name": name, "version": "1.0"}
        | {"api_url": NOBODY, "api_key": "key"},
    )
    return gateway


def gateway_that_misses_readings(person: Person) -> int:
    """It has delivered more than Odoo has."""
    box = HandBox(person, serial("Hall with a gap"))
    none = dict.fromkeys(("received", "stored", "waiting", "parked", "removed", "refused", "repeated"), 0)
    box.sync(ledger={**none, "received": 12, "stored": 12})
    box.close()
    return box.gateway


def rule_that_fails(person: Person, box: HandBox, profile: int) -> None:
    """A text cannot be a temperature."""
    device = paired_device(person, box, profile, "Talker")
    machine = person.create("maintenance.equipment", name="Machine of the talker")
    person.call("iiot.device", "write", [device], {"business_ref": f"maintenance.equipment,{machine}"})
    (field,) = person.find("ir.model.fields", [("name", "=", "x_iiot_temperature")], "model_id")
    person.create(
        "iiot.telemetry.rule",
        name="Fails",
        profile_id=profile,
        json_path="$.temperature",
        target_model_id=field["model_id"][0],
        target_field_id=field["id"],
    )
    (row,) = person.find("iiot.device", [("id", "=", device)], "device_id")
    box.tell(row["device_id"], "telemetry", {"temperature": "hot"})
