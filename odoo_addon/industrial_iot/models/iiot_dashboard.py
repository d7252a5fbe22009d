"""Figures of the whole installation, and what to do next where it has only begun."""

from datetime import timedelta

from odoo import _, api, fields, models
from odoo.tools import SQL

LISTED = 5
"""Of each kind by name; of more there is a number."""
ACTIVE = [("state", "=", "active")]
OFFLINE = [*ACTIVE, ("connection_status", "=", "offline")]
CONTESTED = [*ACTIVE, ("is_contested", "=", True)]
ATTENTION = [("needs_attention", "=", True)]
FAILED_UPDATE = ["|", ("state", "=", "failed"), "&", ("state", "=", "rolled_back"), ("action", "!=", "rollback")]
"""As the filter of the list says it. A device that went back because it was told to has not failed."""


class IiotDashboard(models.AbstractModel):
    """What the first page shows. It reads with the rights of whoever looks at it."""

    _name = "iiot.dashboard"
    _description = "IIoT Dashboard"

    @api.model
    def get_figures(self):
        """Tiles, and the first steps that are still to be taken.

        :return: ``tiles``: ``title, count, look, text, action`` (an action to be opened by the client); ``steps``:
            ``title, text, done, action``; ``problems``: ``model, id, name, text`` of what needs attention;
            ``more``: ``text, action`` of kinds of which there are more
        """
        problems, more = self._problems()
        return {"tiles": self._tiles(), "steps": self._steps(), "problems": problems, "more": more}

    def _tiles(self):
        device, command, update = (self.env[f"iiot.{name}"] for name in ("device", "command", "update"))
        failed = [("state", "in", ("failed", "expired")), ("queued_at", ">=", self._days_ago(1))]
        active = {"search_default_in_use": 0, "search_default_active": 1}
        online = device.search_count([*ACTIVE, ("connection_status", "=", "online")])
        offline = device.search_count(OFFLINE)
        unknown = device.search_count([*ACTIVE, ("connection_status", "=", "unknown")])
        unpaired = device.search_count([("state", "in", ("draft", "provisioned"))])
        return [
            self._tile(
                _("Online"), online, "success", _("devices"), "device", {**active, "search_default_online": 1}
            ),
            self._tile(
                _("Offline"), offline, "danger", _("devices"), "device", {**active, "search_default_offline": 1}
            ),
            self._tile(
                _("Unknown"), unknown, "secondary", _("devices"), "device", {**active, "search_default_unknown": 1}
            ),
            self._tile(_("To Be Paired"), unpaired, "info", _("devices"), "device", {"search_default_not_paired": 1}),
            self._tile(
                _("Gateways in Trouble"), self.env["iiot.gateway"].search_count(ATTENTION), "danger", _("now"),
                "gateway", {"search_default_trouble": 1},
            ),
            self._tile(
                _("Commands Failed"), command.search_count(failed), "danger", _("since yesterday"), "command",
                {"search_default_failed": 1, "search_default_last_day": 1},
            ),
            self._tile(
                _("Updates Running"), update.search_count([("is_running", "=", True)]), "info", _("now"), "update",
                {"search_default_running": 1},
            ),
            self._tile(
                _("Updates Failed"), update.search_count(self._failed_updates()), "danger", _("last 7 days"), "update",
                {"search_default_failed": 1, "search_default_last_week": 1},
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
                _("The computer on the factory floor that devices connect to."),
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

    def _days_ago(self, days):
        """As the filters of the lists say it, so that a list has as many as its tile says."""
        return f"{fields.Date.context_today(self) - timedelta(days=days)}"

    def _failed_updates(self):
        return [*FAILED_UPDATE, ("started_at", ">=", self._days_ago(7))]

    def _problems(self):
        """What needs attention, the gravest first, and of which kinds there is more than is listed."""
        kinds = (
            ("gateway", ATTENTION, {"search_default_trouble": 1}, self._gateway_problem),
            ("device", CONTESTED, {"search_default_contested": 1}, lambda device: device.connection_advice),
            ("device", OFFLINE, {"search_default_offline": 1}, lambda device: device.connection_text),
            ("telemetry_rule", self._rules_in_trouble(), {"search_default_failing": 1, "search_default_paused": 1},
             lambda rule: rule.paused_because or rule.last_error),
            ("update", self._updates_to_look_at(), {"search_default_failed": 1, "search_default_last_week": 1},
             lambda update: update._end_words()),
        )  # fmt: skip
        listed, more = [], []
        for kind, domain, context, told in kinds:
            model = self.env[f"iiot.{kind.replace('_', '.')}"]
            order = "state_id desc" if kind == "device" else None
            found = model.search(domain, limit=LISTED, order=order)
            listed += [
                {"model": model._name, "id": each.id, "name": each.display_name, "text": told(each) or ""}
                for each in found
            ]
            if len(found) == LISTED and (rest := model.search_count(domain) - LISTED) > 0:
                action = {"xmlid": f"industrial_iot.iiot_{kind}_action", "context": context}
                names = self.env["ir.model"]._get(model._name).name
                more.append({"text": _("%(count)s more: %(kind)s", count=rest, kind=names), "action": action})
        return listed, more

    def _gateway_problem(self, gateway):
        if gateway.is_silent:
            return _("last contact %s", gateway.contact_text)
        ledger = "" if gateway.ledger_adds_up else gateway.ledger_text
        parked = _("Messages set aside: %s", f"{int(gateway.parked):,}") if gateway.parked else ""
        return " · ".join(filter(None, (*(gateway.problems or "").splitlines(), ledger, parked)))

    def _rules_in_trouble(self):
        return ["|", ("paused_because", "!=", False), ("is_failing", "=", True)]

    def _updates_to_look_at(self):
        """Those that failed last week, unless another one of the device was ordered since."""
        updates = self.env["iiot.update"]
        updates.flush_model(["device_id", "state"])
        self.env.cr.execute(
            SQL(
                """SELECT id FROM iiot_update failed WHERE id IN %s AND NOT EXISTS (
                       SELECT FROM iiot_update later
                       WHERE later.device_id = failed.device_id AND later.id > failed.id AND later.state != 'draft')""",
                updates._search(self._failed_updates()).subselect(),
            )
        )
        return [("id", "in", [number for (number,) in self.env.cr.fetchall()])]
