"""What became of a command or an update, as a table; and answers as people read them."""

import json

from odoo import _, api, fields, models

from ..lib import json_text
from ..lib.times import parse_rfc3339

PRETTY_CHARACTERS = 20_000


class IiotCommand(models.Model):
    _inherit = "iiot.command"

    response_text = fields.Text("Answer", compute="_compute_response_text")
    history_table = fields.Json("What Happened", compute="_compute_history_table")

    @api.depends("response")
    def _compute_response_text(self):
        for command in self:
            command.response_text = pretty(command.response)

    @api.depends("history")
    def _compute_history_table(self):
        for command in self:
            command.history_table = history_table(command, command.history)


class IiotUpdate(models.Model):
    _inherit = "iiot.update"

    history_table = fields.Json("What Happened", compute="_compute_history_table")
    advice = fields.Char(compute="_compute_advice")

    @api.depends("history")
    def _compute_history_table(self):
        for update in self:
            update.history_table = history_table(update, update.history)

    @api.depends("state", "action", "reason", "error")
    def _compute_advice(self):
        for update in self:
            update.advice = update._advice()

    def _advice(self):
        """What the state means for the machine, and what can be done; empty where it needs no words."""
        self.ensure_one()
        words = {
            "draft": _("Nothing happens until it is started."),
            "waiting": _("The gateway gets it with its next contact, within seconds if it runs."),
            "fetching": _("The gateway fetches the file."),
            "queued": _("It starts as soon as the device is connected."),
            "installing": _("The device writes the new firmware. Do not switch it off now."),
            "rebooting": _("The device restarts. It is offline for a moment."),
            "cancelling": _("The device was asked to stop. If it is installing already, it may finish."),
            "rolled_back": _("The new firmware did not work, and the device has gone back to the one before."),
            "cancelled": _("The device runs what it ran before."),
        }
        if self.state == "failed":
            return _("The device runs what it ran before, unless it says otherwise. Read the error, then try again.")
        if self.state == "rolled_back" and self.action == "rollback":  # as it was told to
            return words["cancelled"]
        return words.get(self.state, "")


def pretty(text):
    """JSON with line breaks; any other text as it is."""
    if not text or len(text) > PRETTY_CHARACTERS:
        return text
    try:
        return json.dumps(json_text.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def history_table(record, history):
    """The entries of a history with the record's own words for states, and times in the reader's time zone."""
    states = dict(record._fields["state"]._description_selection(record.env))
    rows = []
    for entry in history or []:
        try:
            moment = fields.Datetime.context_timestamp(record, parse_rfc3339(entry.get("at")))
            at = moment.strftime("%Y-%m-%d %H:%M:%S")
        except ValueError:
            at = str(entry.get("at") or "")
        state = states.get(entry.get("state"), entry.get("state") or "")
        by = {"odoo": "Odoo", "appliance": _("Gateway"), "device": _("Device")}.get(
            entry.get("by"), entry.get("by") or ""
        )
        more = " ".join(str(entry[key]) for key in ("reason", "error", "delivery") if entry.get(key))
        rows.append({"cells": [at, state, by, more + (_(" (arrived late)") if entry.get("late") else "")]})
    return {"head": [_("Time"), _("State"), _("Told By"), _("More")], "rows": rows}
