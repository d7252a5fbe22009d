from datetime import datetime, timedelta, timezone
from typing import Any

from odoo import _, api, fields, models

from ..lib import json_text
from ..lib.batch import LIMITS
from ..lib.problems import RefusalError
from ..lib.sync import SyncRequest
from ..lib.times import rfc3339

MOST_WORK = 500
MOST_COMMAND_BYTES = 640 << 10
"""Of commands in one answer, and as much of updates; an answer has 2 MiB at most."""


class IiotGateway(models.Model):
    _inherit = "iiot.gateway"

    def _sync(self, asked: SyncRequest, key: str | None = None) -> dict[str, Any]:
        """Answer ``POST /iiot/gateway/sync``: what is known of the appliance's messages, and what it has to do."""
        inbox = self.env["iiot.inbox"]._for(self)
        self = self.with_env(inbox.env)
        self._check_uid(asked.gateway)
        stand = inbox._lock(self, batch=False)
        self._check_database(asked.database_uuid)
        epochs = self.env["iiot.gateway.epoch"]
        known = [found for report in asked.epochs if (found := epochs._tell(self.id, report.epoch, report.told))]
        present = asked.epochs[0].epoch
        if (epochs._get(self.id, present) or {}).get("retired"):
            raise RefusalError(409, "fenced", "another copy of this appliance has taken its place", known=known)
        if stand["epoch"] and stand["epoch"] != present:
            epochs._retire(self.id, stand["epoch"])
        epochs._note_starts(epochs._get_or_create(self.id, present)["id"], asked.start, asked.starts)
        same = (stand["start"], stand["epoch"]) == (asked.start, present)
        admission = stand["admission"] if same and stand["admission"] else self._new_admission()
        self._note_report(asked, epoch=present, admission=admission)
        if key:
            self.env["iiot.gateway.key"]._note_use(key)
        devices = self.env["iiot.device.change"]._since(self, asked.cursor)
        work = self._offer_work()
        return {
            "database_uuid": self._own_database_uuid(),
            "admission": admission,
            "time": rfc3339(_now()),
            "known": known,
            **work,
            **devices,
            "more": work["more"] or devices["more"],
            "limits": LIMITS,
        }

    def _note_report(self, asked: SyncRequest, *, epoch: str, admission: str) -> None:
        now = _now()
        self.report_id.write(
            {
                **asked.figures,
                "clock_ahead_s": (asked.time - now).total_seconds(),
                "last_contact": now.replace(microsecond=0),
                "epoch": epoch,
                "start": asked.start,
                "admission": admission,
                "cursor": asked.cursor or False,
            }
        )
        if not self.database_uuid:
            self.database_uuid = self._own_database_uuid()
        if self.is_silent:
            self._end_silence()

    def _offer_work(self) -> dict[str, Any]:
        """Commands and updates for the appliance to fetch; what does not fit is offered with the next sync."""
        commands = self.env["iiot.command"]._offer(self, MOST_WORK)
        updates = self.env["iiot.update"]._offer(self, MOST_WORK)
        kept_commands, kept_updates = _fitting(commands["commands"]), _fitting(updates["updates"])
        cut = len(kept_commands) < len(commands["commands"]) or len(kept_updates) < len(updates["updates"])
        return {
            "commands": kept_commands,
            "cancel_commands": commands["cancel_commands"],
            "updates": kept_updates,
            "more": bool(commands["more"] or updates["more"] or cut),
        }

    def _has_work(self, cursor: str | None) -> bool:
        """Whether a sync would bring something new; ``cursor`` is the one that the appliance told last."""
        return (
            self.env["iiot.device.change"]._has_news(self.id, cursor)
            or self.env["iiot.command"]._has_new(self)
            or self.env["iiot.update"]._has_new(self)
        )

    # --- silence -----------------------------------------------------------------------------------------------

    @api.model
    def _find_silent(self):
        """For the scheduled action: who has not been heard of for too long becomes somebody's activity, once."""
        for gateway in self.search(
            [("silence_limit_min", ">", 0), ("is_enabled", "=", True), ("is_silent", "=", False)]
        ):
            limit = timedelta(minutes=gateway.silence_limit_min)
            if gateway.is_copy or not gateway.last_contact or gateway.last_contact > fields.Datetime.now() - limit:
                continue
            gateway.report_id.is_silent = True
            gateway.activity_schedule(
                "mail.mail_activity_data_warning",
                summary=_("No contact with gateway"),
                note=_(
                    "No contact with %(gateway)s for %(minutes)s minutes.",
                    gateway=gateway.name,
                    minutes=gateway.silence_limit_min,
                ),
                user_id=(gateway.user_id or self.env.user).id,
            )

    def _end_silence(self) -> None:
        self.report_id.is_silent = False
        warning = self.env.ref("mail.mail_activity_data_warning")
        activities = self.activity_ids.filtered(lambda each: each.activity_type_id == warning and each.automated)
        activities.action_feedback(feedback=_("Contact has been restored."))


def _fitting(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of them, as many as fit into an answer."""
    size = 0
    for place, item in enumerate(items):
        size += len(json_text.dumps(item).encode())
        if size > MOST_COMMAND_BYTES and place:
            return items[:place]
    return items


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None)
