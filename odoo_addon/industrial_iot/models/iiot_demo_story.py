"""What happened in the demonstration factory: firmware, updates, commands, a backlog and what gateways told."""

from __future__ import annotations

import json
from datetime import timedelta

from odoo import models

from ..lib.batch import storable_json
from ..lib.message import Message
from ..lib.times import rfc3339
from .attention import ask
from .iiot_demo import BACKLOG_FROM_MIN, BACKLOG_TO_MIN, _chance, _uuid

BACKLOG_EVERY_S = 10
DRAIN_MIN = 20


class IiotDemo(models.AbstractModel):
    _inherit = "iiot.demo"

    def _tell_story(self, profiles, devices, now):
        firmware = self._make_firmware(profiles)
        self._make_updates(devices, firmware, now)
        self._make_running_update(devices["conveyor-1"], firmware["1.5.0"], now)
        self._make_commands(devices, now)
        self._make_backlog(devices["compressor-3"].gateway_id, now)
        self._make_events(devices, now)

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

    def _make_running_update(self, device, firmware, now):
        began = now - timedelta(minutes=2)
        told = (
            ("waiting", "odoo", 0),
            ("queued", "appliance", 3),
            ("accepted", "device", 5),
            ("downloading", "device", 9),
        )
        self.env["iiot.update"].create(
            {
                "device_id": device.id,
                "firmware_id": firmware.id,
                "previous_version": device.firmware_version,
                "state": "downloading",
                "progress": 40.0,
                "started_at": began,
                "deadline": now + timedelta(days=7),
                "history": [
                    {"state": state, "at": rfc3339(began + timedelta(seconds=second)), "by": by}
                    for state, by, second in told
                ],
                "user_id": self.env.ref("base.user_admin").id,
            }
        )

    def _make_backlog(self, gateway, now):
        """It had no way to Odoo for some hours, and Odoo has refused one of its messages; its disk gets full."""
        report = gateway.report_id
        seconds = 60 * (BACKLOG_FROM_MIN - BACKLOG_TO_MIN)
        waiting = float(len(gateway.device_ids) * seconds // BACKLOG_EVERY_S)
        report.write(
            {
                "status": "degraded",
                "problems": "only 3 % of the disk is free",
                "waiting": waiting,
                "oldest_waiting_at": now - timedelta(minutes=BACKLOG_FROM_MIN),
                "drain_s": 60 * DRAIN_MIN,
                "parked": 1,
                "ledger_waiting": waiting,
                "ledger_parked": 1,
                "ledger_received": report.ledger_received + waiting + 1,
            }
        )
        ask(gateway, "set_aside", lambda each: each._set_aside_words())

    def _make_events(self, devices, now):
        """What the gateways told of themselves."""
        refused = {
            "event": "device_change_refused",
            "device_id": "compressor-3",
            "config_version": 2,
            "reason": "line3/alarm would reach a topic of another device",
        }
        renewed = {"event": "new_epoch", "reason": "the gateway was put back to a backup", "first_seq": 18_204}
        for name, days, said in (("press-1", 12, renewed), ("compressor-3", 1, refused)):
            gateway, at = devices[name].gateway_id, now - timedelta(days=days)
            gateway._take_events([_event(said, at)])
            if name == "press-1":  # looked into long ago
                gateway.activity_ids.unlink()


def _event(said, at):
    return Message(
        seq=int(at.timestamp()),
        device=0,
        device_name="",
        kind="gateway_event",
        at=at,
        received_at=at,
        effective_at=at,
        lane="live",
        payload=said,
        payload_json=storable_json(said),
    )
