"""The demonstration factory works on: a minute has passed, and its gateways and devices do what real ones would."""

from __future__ import annotations

from datetime import timedelta

from odoo import api, fields, models

from .iiot_demo import BACKLOG_FROM_MIN, BACKLOG_TO_MIN, HALLS
from .iiot_demo_story import BACKLOG_EVERY_S, DRAIN_MIN

NEXT = {
    "start_update": {
        "waiting": ("downloading", 10),
        "queued": ("downloading", 10),
        "downloading": ("downloading", 70),
        "verified": ("installing", 100),
        "installing": ("rebooting", 100),
        "rebooting": ("installed", 100),
    },
    "rollback": {"waiting": ("rebooting", 50), "queued": ("rebooting", 50), "rebooting": ("rolled_back", 100)},
}
"""State and progress that follow a state; a download goes on in two steps."""


class IiotDemo(models.AbstractModel):
    _inherit = "iiot.demo"

    @api.model
    def _work_on(self):
        """The gateways are heard of, and the machines that are connected send a reading, obey and update themselves."""
        now = fields.Datetime.now()
        for gateway in self.env["iiot.gateway"].search([("uid", "in", [hall["uid"] for hall in HALLS.values()])]):
            gateway.report_id.write({"last_contact": now, "is_silent": False})
            self.env["iiot.device"]._note_gateway_heard(gateway)
            online = gateway.device_ids.filtered(lambda device: device.connection_status == "online").sorted("id")
            self.env["iiot.telemetry"]._take([self._message(device, now) for device in online])
            self._count(gateway, len(online))
            self._drain(gateway)
            self._answer_commands(online, now)
            self._go_on_with_updates(online, now)

    def _drain(self, gateway):
        """The oldest part of what waits comes."""
        report = gateway.report_id
        if not report.waiting:
            return
        start = report.oldest_waiting_at
        seconds = 60 * (BACKLOG_FROM_MIN - BACKLOG_TO_MIN) // DRAIN_MIN
        messages = [
            self._message(device, start + timedelta(seconds=second))
            for second in range(0, seconds, BACKLOG_EVERY_S)
            for device in gateway.device_ids.sorted("id")
        ][: int(report.waiting)]
        self.env["iiot.telemetry"]._take(messages)
        left = report.waiting - len(messages)
        self._count(
            gateway,
            len(messages),
            ledger_received=report.ledger_received,  # they had been received before
            waiting=left,
            ledger_waiting=left,
            oldest_waiting_at=start + timedelta(seconds=seconds) if left else False,
            drain_s=60 * left * DRAIN_MIN / (left + len(messages)) if left else 0,
        )

    def _answer_commands(self, devices, now):
        domain = [("device_id", "in", devices.ids), ("state", "in", ("queued", "sent", "delivered"))]
        messages = []
        for command in self.env["iiot.command"].search(domain, order="id"):
            told = {"command_id": command.command_id}
            messages += [
                self._message(command.device_id, now, "command_state", {**told, "state": "delivered"}),
                self._message(command.device_id, now, "command_response", {**told, "status": "ok"}),
            ]
        if messages:
            self.env["iiot.command"]._take_states(messages)

    def _go_on_with_updates(self, devices, now):
        running = self.env["iiot.update"].search([("device_id", "in", devices.ids), ("is_running", "=", True)])
        messages = [
            self._message(update.device_id, now, "ota_status", {"update_id": update.update_id, **_next(update)})
            for update in running
        ]
        if messages:
            self.env["iiot.update"]._take_statuses(messages)


def _next(update):
    """What the device says of its update a minute later."""
    if update.cancel_requested:
        return {"state": "cancelled"}
    state, progress = NEXT[update.action].get(update.state, ("downloading", 70))
    if state == "downloading" and update.progress >= progress:
        return {"state": "verified", "progress": 100}
    if state == "installed":
        return {"state": state, "version": update.version}
    if state == "rolled_back":
        return {"state": state, "version": update.rollback_of_id.previous_version}
    return {"state": state, "progress": progress}
