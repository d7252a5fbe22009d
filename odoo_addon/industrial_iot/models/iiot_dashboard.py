"""Figures of the whole installation, and what to do next where it has only begun."""

from datetime import timedelta

from odoo import _, api, fields, models

LISTED = 5
TROUBLE = ["|", ("is_silent", "=", True), ("status", "in", ("degraded", "failing"))]


class IiotDashboard(models.AbstractModel):
    """What the first page shows. It reads with the rights of whoever looks at it."""

    _name = "iiot.dashboard"
    _description = "IIoT Dashboard"

    @api.model
    def get_figures(self):
        """Tiles, and the first steps that are still to be taken.

        :return: ``tiles``: ``title, count, look, text, action`` (an action to be opened by the client); ``steps``:
            ``title, text, done, action``; ``problems``: devices and gateways that need somebody, with the reason
        """
        return {"tiles": self._tiles(), "steps": self._steps(), "problems": self._problems()}

    def _tiles(self):
        device, command, update = (self.env[f"iiot.{name}"] for name in ("device", "command", "update"))
        day = fields.Datetime.now() - timedelta(days=1)
        active = [("state", "=", "active")]
        failed = [("state", "in", ("failed", "expired")), ("queued_at", ">=", day)]
        broken = [("state", "in", ("failed", "rolled_back")), ("started_at", ">=", day - timedelta(days=6))]
        online = device.search_count([*active, ("connection_status", "=", "online")])
        offline = device.search_count([*active, ("connection_status", "=", "offline")])
        unknown = device.search_count([*active, ("connection_status", "=", "unknown")])
        unpaired = device.search_count([("state", "in", ("draft", "provisioned"))])
        return [
            self._tile(_("Online"), online, "success", _("devices"), "device", {"search_default_online": 1}),
            self._tile(_("Offline"), offline, "danger", _("devices"), "device", {"search_default_offline": 1}),
            self._tile(_("Unknown"), unknown, "secondary", _("devices"), "device", {"search_default_unknown": 1}),
            self._tile(_("To Be Paired"), unpaired, "info", _("devices"), "device", {"search_default_not_paired": 1}),
            self._tile(
                _("Gateways in Trouble"), self.env["iiot.gateway"].search_count(TROUBLE), "danger", _("now"), "gateway",
                {"search_default_silent": 1, "search_default_trouble": 1},
            ),
            self._tile(
                _("Commands Failed"), command.search_count(failed), "danger", _("last 24 hours"), "command",
                {"search_default_failed": 1},
            ),
            self._tile(
                _("Updates Running"), update.search_count([("is_running", "=", True)]), "info", _("now"), "update",
                {"search_default_running": 1},
            ),
            self._tile(
                _("Updates Failed"), update.search_count(broken), "danger", _("last 7 days"), "update",
                {"search_default_failed": 1},
            ),
        ]  # fmt: skip

    def _tile(self, title, count, look, text, model, context):
        action = {"xmlid": f"industrial_iot.iiot_{model}_action", "context": context}
        return {"title": title, "count": count, "look": look if count else "muted", "text": text, "action": action}

    def _steps(self):
        """The way from nothing to a reading on a machine; empty when it was gone to its end."""
        gateways, devices = self.env["iiot.gateway"], self.env["iiot.device"]
        steps = [
            (
                _("Enrol the gateway"),
                _("The box on the factory floor that devices connect to."),
                bool(gateways.search_count([("enrolled_at", "!=", False)], limit=1)),
                "gateway",
            ),
            (
                _("Describe your devices"),
                _("One configuration template for each kind."),
                bool(self.env["iiot.device.profile"].search_count([], limit=1)),
                "device_profile",
            ),
            (
                _("Pair a device"),
                _("Type its serial number, generate a token, enter it on the device."),
                bool(devices.search_count([("state", "=", "active")], limit=1)),
                "device",
            ),
            (
                _("Bring its readings to the machine"),
                _("A telemetry rule copies a value into a field of your equipment."),
                bool(self.env["iiot.telemetry.rule"].search_count([], limit=1)),
                "telemetry_rule",
            ),
        ]
        if all(done for _title, _text, done, _model in steps):
            return []
        return [
            {"title": title, "text": text, "done": done, "action": {"xmlid": f"industrial_iot.iiot_{model}_action"}}
            for title, text, done, model in steps
        ]

    def _problems(self):
        found = []
        gateways = self.env["iiot.gateway"].search(TROUBLE, limit=LISTED)
        for gateway in gateways:
            text = _("last contact %s", gateway.contact_text) if gateway.is_silent else gateway.problems or ""
            found.append({"model": "iiot.gateway", "id": gateway.id, "name": gateway.name, "text": text})
        devices = self.env["iiot.device"].search(
            [("state", "=", "active"), ("connection_status", "=", "offline")],
            limit=LISTED,
            order="state_id desc",
        )
        found += [
            {"model": "iiot.device", "id": device.id, "name": device.name, "text": device.connection_text}
            for device in devices
        ]
        rules = self.env["iiot.telemetry.rule"].search(
            ["|", ("paused_because", "!=", False), ("applied_ids.failures", ">", 0)], limit=LISTED
        )
        found += [
            {
                "model": "iiot.telemetry.rule",
                "id": rule.id,
                "name": rule.name,
                "text": rule.paused_because or rule.last_error or "",
            }
            for rule in rules
        ]
        return found
