from odoo import _, api, fields, models

from ..lib.times import parse_rfc3339
from ..lib.worded import Worded


class IiotWording(models.AbstractModel):
    """Spans of time, sizes and errors in words, for what people read."""

    _name = "iiot.wording"
    _description = "IIoT Wording"

    @api.model
    def _told(self, told: object) -> str:
        """A text or error of ``lib/`` in the language of the environment; anything else as it says itself."""
        told = getattr(told, "worded", told)
        if not isinstance(told, Worded):
            return str(told)
        values = {name: self._told(value) for name, value in told.values.items()}
        return _(told.text, **values)  # exported from where it stands

    @api.model
    def _duration(self, seconds: float) -> str:
        """A span in its two largest units at most: ``12 min``, ``3 h 5 min``, ``2 d 4 h``."""
        seconds = max(0, int(seconds))
        if seconds < 60:
            return _("%s s", seconds)
        minutes = seconds // 60
        if minutes < 60:
            return _("%s min", minutes)
        hours, minutes = divmod(minutes, 60)
        if hours < 24:
            return _("%(hours)s h %(minutes)s min", hours=hours, minutes=minutes) if minutes else _("%s h", hours)
        days, hours = divmod(hours, 24)
        return _("%(days)s d %(hours)s h", days=days, hours=hours) if hours and days < 10 else _("%s d", days)

    @api.model
    def _since(self, moment) -> str:
        """How long ago a naive UTC datetime was; empty for none."""
        return self._duration((fields.Datetime.now() - moment).total_seconds()) if moment else ""

    @api.model
    def _megabytes(self, megabytes: float) -> str:
        if megabytes >= 1024:
            return _("%s GB", f"{megabytes / 1024:.1f}")
        return _("%s MB", int(megabytes))

    @api.model
    def _table_time(self, moment):
        """A naive UTC datetime as a cell of a table; the browser says it in its own time zone and language."""
        return {"time": fields.Datetime.to_string(moment)} if moment else ""

    @api.model
    def _history(self, record):
        """What became of a command or update, as a table: its states in words."""
        states = dict(record._fields["state"]._description_selection(self.env))
        people = {"odoo": "Odoo", "appliance": _("Gateway"), "device": _("Device")}
        reasons = record._reason_words()
        rows = []
        for entry in record.history or []:
            try:
                at = self._table_time(parse_rfc3339(entry.get("at")))
            except ValueError:
                at = str(entry.get("at") or "")
            reason = str(entry.get("reason") or "")
            texts = dict.fromkeys((reasons.get(reason, reason), entry.get("error"), entry.get("delivery")))
            told = [str(text) for text in texts if text]
            if entry.get("late"):
                told.append(_("(arrived late)"))
            state, by = entry.get("state") or "", entry.get("by") or ""
            rows.append({"cells": [at, states.get(state, state), people.get(by, by), " ".join(told)]})
        return {"head": [_("Time"), _("State"), _("Reported By"), _("More")], "rows": rows}
