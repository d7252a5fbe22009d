"""What became of a command or an update, as a table; and answers as people read them."""

import json

from odoo import _, api, fields, models

from ..lib import json_text

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
            command.history_table = command.env["iiot.wording"]._history(command)


class IiotUpdate(models.Model):
    _inherit = "iiot.update"

    history_table = fields.Json("What Happened", compute="_compute_history_table")
    advice = fields.Char(compute="_compute_advice")

    @api.depends("history")
    def _compute_history_table(self):
        for update in self:
            update.history_table = update.env["iiot.wording"]._history(update)

    def _reason_words(self):
        return {
            "withdrawn": _("It was taken back before it was fetched."),
            "timeout": _("It did not end in time."),
            "device": "",  # which is said beside it, with an error in words
        }

    @api.depends("state", "action", "reason", "error", "cancel_requested")
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
        if self.cancel_requested:
            return words["cancelling"]
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
