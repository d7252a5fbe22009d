"""The small factory of the demonstration data: two halls, some days of readings; what happened is told elsewhere."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from random import Random
from typing import Any

from odoo import api, fields, models

from ..lib.batch import storable_json
from ..lib.message import Message
from ..lib.times import rfc3339

DAYS = 3
EVERY_MIN = 10
DAYS_BEFORE = 27
EVERY_MIN_BEFORE = 60
"""The days before those have fewer readings: they are there for the history by day."""
BATCH = 500
TEMPERATURE = "x_iiot_temperature"
KINDS = {
    "press": ("Press controller", "temperature\noil_pressure\nvibration"),
    "conveyor": ("Conveyor drive", "speed\n$.motor.current\n$.motor.temperature"),
    "compressor": ("Compressor", "pressure\ntemperature\npower_kw"),
}
CATEGORIES = {"press": "Presses", "conveyor": "Conveyors", "compressor": "Compressors"}
MACHINES = (
    # name, device id, kind, line, firmware
    ("Press 1", "press-1", "press", "Line 1", "2.1.0"),
    ("Press 2", "press-2", "press", "Line 1", "2.1.0"),
    ("Conveyor 1", "conveyor-1", "conveyor", "Line 1", "1.4.2"),
    ("Press 3", "press-3", "press", "Line 2", "2.0.3"),
    ("Conveyor 2", "conveyor-2", "conveyor", "Line 2", "1.4.2"),
    ("Compressor 1", "compressor-1", "compressor", "Line 1", "5.0"),
    ("Compressor 2", "compressor-2", "compressor", "Line 2", "5.0"),
    ("Press 4", "press-4", "press", "Line 2", False),
    ("Press 5", "press-5", "press", "Line 3", "2.1.0"),
    ("Conveyor 3", "conveyor-3", "conveyor", "Line 3", "1.4.2"),
    ("Compressor 3", "compressor-3", "compressor", "Line 3", "5.0"),
)
HALLS = {
    "hall-a": {
        "name": "Factory, Hall A",
        "uid": "5f0c1d52-7a3e-4c5d-9a10-3d6a1c0b7e11",
        "host": "gateway.factory.example",
        "lines": ("Line 1", "Line 2"),
        "disk_free_mb": 21_300,
    },
    "hall-b": {
        "name": "Factory, Hall B",
        "uid": "b8a4e0d7-1c59-4f0e-8d26-6c1f4f9a2b03",
        "host": "gateway-b.factory.example",
        "lines": ("Line 3",),
        "disk_free_mb": 1_180,
    },
}
OFFLINE, UNPAIRED = "conveyor-2", "press-4"
OFFLINE_MIN = 47
BACKLOG_FROM_MIN, BACKLOG_TO_MIN = 170, 20
"""When Hall B had no way to Odoo: what its machines sent then comes afterwards."""
VIEW = """<xpath expr="//field[@name='owner_user_id']" position="after"><field name="x_iiot_temperature"/></xpath>"""


class IiotDemo(models.AbstractModel):
    """Makes the demonstration data, and lets its machines work on. Used where demonstration data was asked for."""

    _name = "iiot.demo"
    _description = "IIoT Demonstration Factory"

    @api.model
    def _make_factory(self):
        if self.env["iiot.device"].search_count([("device_id", "=", "press-1")], limit=1):
            return
        now = fields.Datetime.now()
        gateways = {line: gateway for gateway, lines in self._make_gateways(now) for line in lines}
        profiles = {kind: self._make_profile(*told) for kind, told in KINDS.items()}
        devices = {machine[1]: self._make_device(machine, profiles, gateways, now) for machine in MACHINES}
        self._bind(devices, profiles)
        self._make_readings(devices, now)
        self._connect(devices, now)
        self._tell_story(profiles, devices, now)

    # --- who is there ------------------------------------------------------------------------------------------

    def _make_gateways(self, now):
        """Each gateway with the lines whose devices it has."""
        return [(self._make_gateway(name, hall, now), hall["lines"]) for name, hall in HALLS.items()]

    def _make_gateway(self, name, hall, now):
        gateway = self.env["iiot.gateway"].create(
            {"name": hall["name"], "mqtt_host": hall["host"], "user_id": self.env.ref("base.user_admin").id}
        )
        enrolled_at = now - timedelta(days=40)
        gateway.write({"uid": hall["uid"], "enrolled_at": enrolled_at, "database_uuid": gateway._own_database_uuid()})
        self.env["iiot.gateway.key"]._make(gateway, f"Enrolment of {name}")
        gateway.key_ids.last_used_at = now
        machines = [machine for machine in MACHINES if machine[3] in hall["lines"] and machine[1] != UNPAIRED]
        gateway.report_id.write(
            {
                "reported_name": name,
                "version": "1.0.0",
                "status": "ok",
                "last_contact": now,
                "contact_since": now - timedelta(days=2),
                "uptime_s": 40 * 86_400,
                "devices_paired": len(machines),
                "devices_online": sum(machine[1] != OFFLINE for machine in machines),
                "disk_total_mb": 29_600,
                "disk_free_mb": hall["disk_free_mb"],
                "ca_fingerprint": "SHA256:" + ":".join(f"{number:02X}" for number in _chance(name).randbytes(32)),
            }
        )
        return gateway

    def _make_profile(self, name, metrics):
        return self.env["iiot.device.profile"].create(
            {"name": name, "metrics": metrics, "inactivity_limit_min": 30, "history_days": 14}
        )

    def _make_device(self, machine, profiles, gateways, now):
        name, device_id, kind, line, firmware = machine
        device = self.env["iiot.device"].create(
            {
                "name": f"{line}: {name}",
                "device_id": device_id,
                "serial_number": f"SN-24-{sum(map(ord, device_id)):04}",
                "profile_id": profiles[kind].id,
            }
        )
        if device_id == UNPAIRED:
            return device
        device.write({"gateway_id": gateways[line].id, "paired_at": now - timedelta(days=39), "state": "active"})
        address = f"10.20.0.{17 + MACHINES.index(machine)}"
        device.state_id.write({"firmware_version": firmware, "hardware": "IO-200 rev C", "address": address})
        return device

    def _bind(self, devices, profiles):
        """Where Maintenance is installed the devices belong to equipment, and a rule brings the temperature there."""
        if "maintenance.equipment" not in self.env:
            return
        model = self.env["ir.model"]._get("maintenance.equipment")
        field = self.env["ir.model.fields"].create(
            {"model_id": model.id, "name": TEMPERATURE, "ttype": "float", "field_description": "Temperature (°C)"}
        )
        form = self.env.ref("maintenance.hr_equipment_view_form")
        self.env["ir.ui.view"].create(
            {"name": "equipment.form.iiot.demo", "model": model.model, "inherit_id": form.id, "arch": VIEW}
        )
        kinds = self.env["maintenance.equipment.category"]
        categories = {kind: kinds.create({"name": name}) for kind, name in CATEGORIES.items()}
        for device in devices.values():
            name = device.name.partition(": ")[2]
            equipment = self.env[model.model].create(
                {
                    "name": name,
                    "serial_no": f"M-{device.id:04}",
                    "category_id": categories[name.split()[0].lower()].id,
                    "technician_user_id": self.env.ref("base.user_admin").id,
                }
            )
            device.business_ref = f"{model.model},{equipment.id}"
        paths = {"press": "$.temperature", "conveyor": "$.motor.temperature", "compressor": "$.temperature"}
        for kind, path in paths.items():
            self.env["iiot.telemetry.rule"].create(
                {
                    "name": f"Temperature of the {kind}",
                    "profile_id": profiles[kind].id,
                    "json_path": path,
                    "target_model_id": model.id,
                    "target_field_id": field.id,
                    "rounding": 0.1,
                    "author_id": self.env.ref("base.user_admin").id,
                }
            )

    # --- what they said ----------------------------------------------------------------------------------------

    def _make_readings(self, devices, now):
        paired = [device for device in devices.values() if device.device_id != UNPAIRED]
        messages = [message for device in paired for message in self._past_of(device, now)]
        messages.sort(key=lambda message: message.at)
        for start in range(0, len(messages), BATCH):
            self.env["iiot.telemetry"]._take(messages[start : start + BATCH])
        for gateway in {device.gateway_id for device in paired}:
            self._count(gateway, sum(message.device in gateway.device_ids.ids for message in messages))

    def _past_of(self, device, now):
        """What it has sent, but for the hours of its gateway's backlog: those are on their way."""
        until = now - timedelta(minutes=OFFLINE_MIN if device.device_id == OFFLINE else 0)
        minutes = [EVERY_MIN * back for back in range(DAYS * 1440 // EVERY_MIN)]
        before = range(DAYS * 1440, (DAYS + DAYS_BEFORE) * 1440, EVERY_MIN_BEFORE)
        waits = device.gateway_id.uid == HALLS["hall-b"]["uid"]
        return [
            self._message(device, until - timedelta(minutes=back))
            for back in (*minutes, *before)
            if not (waits and BACKLOG_TO_MIN < back <= BACKLOG_FROM_MIN)
        ]

    def _count(self, gateway, stored, **more):
        """So many more readings of this gateway are in Odoo, and both sides say so."""
        report = gateway.report_id
        counted = ("ledger_received", "ledger_stored", "ledger_counted", "readings_stored")
        report.write({**{name: report[name] + stored for name in counted}, **more})

    def _message(self, device, at, kind="telemetry", payload=None):
        """What it sent at a time: a reading, where nothing else is said."""
        payload = payload or reading(device.profile_id.name, device.id, at)
        return Message(
            seq=int(at.timestamp()),
            device=device.id,
            device_name=device.device_id,
            kind=kind,
            at=at,
            received_at=at,
            effective_at=at,
            lane="live",
            payload=payload,
            payload_json=storable_json(payload),
        )

    def _connect(self, devices, now):
        for device in devices.values():
            if device.device_id == UNPAIRED:
                continue
            offline = device.device_id == OFFLINE
            since = now - (timedelta(minutes=OFFLINE_MIN) if offline else timedelta(days=1, hours=device.id % 20))
            status = "offline" if offline else "online"
            device.state_id.write(
                {
                    "connection_status": status,
                    "reported_status": status,
                    "connection_since": since,
                    "presence_at": since,
                    "offline_code": "keep_alive" if offline else False,
                    "offline_reason": offline
                    and "nothing came from it for one and a half times its keep-alive: it has no power, it hangs, or "
                    "its network is down",
                }
            )


def _chance(seed: Any) -> Random:
    """What looks like chance, and is the same each time."""
    return Random(seed)  # noqa: S311


def _uuid(text: str) -> Any:
    number = _chance(text).getrandbits(128)
    return "-".join(f"{number:032x}"[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


def reading(kind: str, number: int, at: datetime) -> dict[str, Any]:
    """What a machine sends at a time: warm and busy in the two shifts, cool at night, never quite the same."""
    chance = _chance(f"{number} {at:%Y%m%d%H%M}")
    hour = at.hour + at.minute / 60
    busy = 1 / (1 + math.exp(-(hour - 6) * 2)) * 1 / (1 + math.exp((hour - 22) * 2))
    wave = math.sin((hour + number) * 2.4)

    def value(idle: float, working: float, spread: float, digits: int = 1) -> float:
        return round(idle + (working - idle) * busy + spread * (wave / 2 + chance.gauss(0, 0.35)), digits)

    if kind == KINDS["press"][0]:
        return {
            "temperature": value(24, 58 + number % 5, 3),
            "oil_pressure": value(3, 162, 4),
            "vibration": abs(value(0.02, 0.42, 0.06, 3)),
            "strokes": int(busy * 14),
        }
    if kind == KINDS["conveyor"][0]:
        return {
            "speed": abs(value(0, 0.8, 0.02, 2)),
            "motor": {"current": abs(value(0.2, 6.4, 0.5, 2)), "temperature": value(22, 47, 2)},
        }
    return {
        "pressure": value(6.8, 7.6, 0.3, 2),
        "temperature": value(38, 82, 3),
        "power_kw": value(4, 36, 2),
    }
