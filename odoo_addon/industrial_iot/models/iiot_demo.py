"""The small factory of the demonstration data: two lines, some days of readings, and what happened meanwhile."""

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
)
OFFLINE, UNPAIRED = "conveyor-2", "press-4"
OFFLINE_MIN = 47
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
        gateway = self._make_gateway(now)
        profiles = {kind: self._make_profile(*told) for kind, told in KINDS.items()}
        devices = {machine[1]: self._make_device(machine, profiles, gateway, now) for machine in MACHINES}
        self._bind(devices, profiles)
        self._make_readings(devices, now)
        self._connect(devices, now)
        firmware = self._make_firmware(profiles)
        self._make_updates(devices, firmware, now)
        self._make_commands(devices, now)

    # --- who is there ------------------------------------------------------------------------------------------

    def _make_gateway(self, now):
        gateway = self.env["iiot.gateway"].create(
            {
                "name": "Factory, Hall A",
                "mqtt_host": "gateway.factory.example",
                "user_id": self.env.ref("base.user_admin").id,
            }
        )
        gateway.write(
            {
                "uid": "5f0c1d52-7a3e-4c5d-9a10-3d6a1c0b7e11",
                "enrolled_at": now - timedelta(days=40),
                "database_uuid": gateway._own_database_uuid(),
            }
        )
        gateway.report_id.write(
            {
                "reported_name": "hall-a",
                "version": "1.0.0",
                "status": "ok",
                "last_contact": now,
                "contact_since": now - timedelta(days=2),
                "uptime_s": 40 * 86_400,
                "devices_paired": len(MACHINES) - 1,
                "devices_online": len(MACHINES) - 2,
                "disk_total_mb": 29_600,
                "disk_free_mb": 21_300,
                "ca_fingerprint": "SHA256:" + ":".join(f"{number:02X}" for number in _chance(5).randbytes(32)),
            }
        )
        return gateway

    def _make_profile(self, name, metrics):
        return self.env["iiot.device.profile"].create(
            {"name": name, "metrics": metrics, "inactivity_limit_min": 30, "history_days": 14}
        )

    def _make_device(self, machine, profiles, gateway, now):
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
        device.write({"gateway_id": gateway.id, "paired_at": now - timedelta(days=39), "state": "active"})
        device.state_id.write({"firmware_version": firmware, "hardware": "IO-200 rev C", "address": "10.20.0.17"})
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
        for device in devices.values():
            equipment = self.env[model.model].create(
                {"name": device.name.partition(": ")[2], "serial_no": f"M-{device.id:04}"}
            )
            device.business_ref = f"{model.model},{equipment.id}"
        for kind, path in (("press", "$.temperature"), ("conveyor", "$.motor.temperature")):
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
        messages = []
        for device in devices.values():
            if device.device_id == UNPAIRED:
                continue
            until = now - timedelta(minutes=OFFLINE_MIN if device.device_id == OFFLINE else 0)
            minutes = [EVERY_MIN * back for back in range(DAYS * 1440 // EVERY_MIN)]
            before = range(DAYS * 1440, (DAYS + DAYS_BEFORE) * 1440, EVERY_MIN_BEFORE)
            messages += [self._message(device, until - timedelta(minutes=back)) for back in (*minutes, *before)]
        messages.sort(key=lambda message: message.at)
        for start in range(0, len(messages), BATCH):
            self.env["iiot.telemetry"]._take(messages[start : start + BATCH])
        report = self.env["iiot.gateway"].search([("name", "=", "Factory, Hall A")], limit=1).report_id
        report.write(
            dict.fromkeys(
                ("ledger_received", "ledger_stored", "ledger_counted", "readings_stored"), float(len(messages))
            )
        )

    def _message(self, device, at):
        payload = reading(device.profile_id.name, device.id, at)
        return Message(
            seq=int(at.timestamp()),
            device=device.id,
            device_name=device.device_id,
            kind="telemetry",
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

    def _make_firmware(self, profiles):
        versions = (("press", "2.0.3"), ("press", "2.1.0"), ("conveyor", "1.4.2"), ("conveyor", "1.5.0"))
        notes = {"2.1.0": "Measures vibration four times a second.", "1.5.0": "Starts softly after a stop."}
        return {
            version: self.env["iiot.firmware"].create(
                {
                    "version": version,
                    "profile_id": profiles[kind].id,
                    "url": f"https://files.factory.example/{kind}-{version}.bin",
                    "size": 742_912,
                    "sha256": f"{_chance(version).getrandbits(256):064x}",
                    "notes": notes.get(version),
                }
            )
            for kind, version in versions
        }

    def _make_updates(self, devices, firmware, now):
        for name, days, steps, error in (
            ("press-1", 6, ("offered", "downloading", "installing", "rebooting", "installed"), None),
            ("press-2", 5, ("offered", "downloading", "installing", "rebooting", "installed"), None),
            ("press-3", 1, ("offered", "downloading", "failed"), "The checksum of the downloaded file is wrong"),
        ):
            began = now - timedelta(days=days, hours=2)
            history = [{"state": "waiting", "at": rfc3339(began), "by": "odoo"}]
            for number, state in enumerate(steps, 1):
                entry = {"state": state, "at": rfc3339(began + timedelta(seconds=40 * number)), "by": "device"}
                history.append({**entry, "error": error} if state == "failed" else entry)
            self.env["iiot.update"].create(
                {
                    "device_id": devices[name].id,
                    "firmware_id": firmware["2.1.0"].id,
                    "previous_version": "2.0.3",
                    "new_version": False if error else "2.1.0",
                    "state": steps[-1],
                    "progress": 64.0 if error else 100.0,
                    "error": error,
                    "reason": "device" if error else False,
                    "started_at": began,
                    "ended_at": began + timedelta(seconds=40 * len(steps)),
                    "history": history,
                    "user_id": self.env.ref("base.user_admin").id,
                }
            )

    def _make_commands(self, devices, now):
        told = (
            ("press-1", "reset", {}, 30, "done", {"status": "ok"}),
            ("press-2", "configure", {"threshold": 65.0, "interval_s": 10}, 22, "done", {"status": "ok", "applied": 2}),
            ("conveyor-1", "set_speed", {"speed": 0.8}, 9, "done", {"status": "ok", "speed": 0.8}),
            ("compressor-1", "set_speed", {"speed": 3}, 8, "failed", {"status": "error", "message": "unknown command"}),
            ("press-3", "configure", {"threshold": 70}, 3, "done", {"status": "ok", "applied": 1}),
            ("conveyor-2", "reset", {}, 0.5, "expired", None),
        )
        for name, action, params, hours, state, answer in told:
            device = devices[name]
            at = now - timedelta(hours=hours)
            ended = at + timedelta(seconds=60 if state == "expired" else 1)
            command_id = str(_uuid(f"{name} {action}"))
            history = [{"state": "queued", "at": rfc3339(at), "by": "odoo"}]
            if answer:
                history.append(
                    {"state": "delivered", "at": rfc3339(at + timedelta(milliseconds=400)), "by": "appliance"}
                )
            history.append({"state": state, "at": rfc3339(ended), "by": "device" if answer else "appliance"})
            self.env["iiot.command"].create(
                {
                    "command_id": command_id,
                    "device_id": device.id,
                    "company_id": device.company_id.id,
                    "user_id": self.env.ref("base.user_admin").id,
                    "action": action,
                    "params": json.dumps(params),
                    "payload": device.profile_id._render_command(
                        action, params, device_id=device.device_id, command_id=command_id
                    ),
                    "queued_at": at,
                    "sent_at": at if answer else False,
                    "delivered_at": at if answer else False,
                    "ended_at": ended,
                    "deadline": at.timestamp() + 60,
                    "state": state,
                    "reason": {"failed": "device", "expired": "no_ack"}.get(state),
                    "response": json.dumps(answer) if answer else False,
                    "response_at": ended if answer else False,
                    "history": history,
                }
            )

    # --- it works on -------------------------------------------------------------------------------------------

    @api.model
    def _work_on(self):
        """A minute has passed: the gateway is heard of, and the machines that are connected send a reading."""
        gateway = self.env["iiot.gateway"].search([("uid", "=", "5f0c1d52-7a3e-4c5d-9a10-3d6a1c0b7e11")], limit=1)
        if not gateway:
            return
        now = fields.Datetime.now()
        gateway.report_id.write({"last_contact": now, "is_silent": False})
        self.env["iiot.device"]._note_gateway_heard(gateway)
        devices = gateway.device_ids.filtered(lambda device: device.connection_status == "online")
        messages = [self._message(device, now) for device in devices.sorted("id")]
        self.env["iiot.telemetry"]._take(messages)
        counted = ("ledger_received", "ledger_stored", "ledger_counted", "readings_stored")
        gateway.report_id.write({name: gateway.report_id[name] + len(messages) for name in counted})


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
