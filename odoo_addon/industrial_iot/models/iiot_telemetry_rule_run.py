from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from odoo import _, models
from odoo.exceptions import AccessError
from psycopg2.extras import execute_values

from ..lib.conversion import ConversionError
from ..lib.jsonpath import PathError
from ..lib.message import Message
from ..lib.times import utc_now
from ..lib.worded import Worded, worded
from .attention import responsible
from .iiot_telemetry_rule_plan import AUTHOR_IS_GONE, AUTHOR_MAY_NOT, RulePlan, check_author, check_target
from .iiot_telemetry_rule_targets import Change, Targets

MAX_ERROR_CHARACTERS = 500


class Outcome:
    """What came of the rules in one batch: what was applied, and what failed, for each rule and device.

    What failed is kept in the language of the rule's author, who is to mend it.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self.applied: dict[tuple[int, int], tuple[Any, int]] = {}
        self.failed: dict[tuple[int, int], tuple[int, str]] = {}

    def done(self, change: Change) -> None:
        key = (change.rule.id, change.device.id)
        self.applied[key] = max(self.applied.get(key, change.mark), change.mark)

    def fail(self, rule: RulePlan, device_id: int, error: object) -> None:
        key = (rule.id, device_id)
        count, text = self.failed.get(key, (0, ""))
        if not count:
            language = self._env["res.users"].sudo().browse(rule.author).lang
            told = self._env["iiot.wording"].with_context(lang=language)._told(error)
            text = (told or type(error).__name__)[:MAX_ERROR_CHARACTERS]
        self.failed[key] = (count + 1, text)


class IiotTelemetryRule(models.Model):
    _inherit = "iiot.telemetry.rule"

    def _run(self, messages: Sequence[Message], devices: Mapping[int, Any], plans: Mapping[int, Any]) -> None:
        """Apply the rules to readings of one gateway: at most one write for each record, none for what is late."""
        by_device: dict[int, list[Message]] = defaultdict(list)
        for message in messages:
            if plans[devices[message.device].profile_id].rules:
                by_device[message.device].append(message)
        if not by_device:
            return
        for readings in by_device.values():
            readings.sort(key=_mark)
        outcome, known = Outcome(self.env), self._known_marks(by_device)
        targets = Targets(self.env)
        runnable = self._runnable({plans[devices[device].profile_id] for device in by_device})
        changes: list[Change] = []
        for device_id in sorted(by_device):
            device = devices[device_id]
            for rule in plans[device.profile_id].rules:
                if rule.id not in runnable:
                    continue
                if problem := runnable[rule.id]:
                    outcome.fail(rule, device_id, problem)
                    continue
                oldest = known.get((rule.id, device_id))
                readings = [each for each in by_device[device_id] if oldest is None or _mark(each) >= oldest]
                changes += _changes(rule, device, readings, outcome)
        for change in targets.find(changes, outcome):
            targets.add(change)
        targets.write_kept(outcome)
        self._note(outcome)

    def _runnable(self, plans) -> dict[int, Worded | str]:
        """Rules whose author may still do what they do, each with its problem or nothing. The others are paused."""
        runnable: dict[int, Worded | str] = {}
        rules = [rule for plan in plans for rule in plan.rules]
        authors = {
            user.id: user.active for user in self.env["res.users"].sudo().browse({rule.author for rule in rules})
        }
        for rule in rules:
            if rule.problem:
                runnable[rule.id] = rule.problem
            elif not authors[rule.author]:
                self.browse(rule.id)._pause(AUTHOR_IS_GONE)
            else:
                try:
                    check_target(self.env, rule.model, rule.field)
                    check_author(self.env(user=rule.author, su=False, context={}), rule.model, rule.field)
                    runnable[rule.id] = ""
                except AccessError:
                    self.browse(rule.id)._pause(AUTHOR_MAY_NOT)
                except Exception as error:  # a field that went away with its module
                    runnable[rule.id] = worded(error) or type(error).__name__
        return runnable

    def _pause(self, reason: Worded) -> None:
        """Stop a rule until somebody saves it anew, and ask somebody to do so, in that one's language."""
        person = responsible(self.env)
        self.sudo().with_context(tracking_disable=True, lang=person.lang)._ask_to_save(reason, person)

    def _ask_to_save(self, reason: Worded, person: Any) -> None:
        told = self.env["iiot.wording"]._told(reason)
        for rule in self:
            rule.write({"paused_because": told})
            rule.activity_schedule(
                "mail.mail_activity_data_warning",
                summary=_("A telemetry rule is paused"),
                note=_("%s Check the rule and save it: it then runs with your rights.", told),
                user_id=person.id,
            )

    def _known_marks(self, by_device) -> dict[tuple[int, int], tuple[Any, int]]:
        self.env.cr.execute(
            "SELECT rule_id, device_id, at, coalesce(seq, 0) FROM iiot_telemetry_rule_applied "
            "WHERE device_id = ANY(%s) AND at IS NOT NULL",
            (sorted(by_device),),
        )
        return {(rule, device): (at, seq) for rule, device, at, seq in self.env.cr.fetchall()}

    def _note(self, outcome: Outcome) -> None:
        now = utc_now()
        rows = []
        for key in sorted(outcome.applied.keys() | outcome.failed.keys()):
            at, seq = outcome.applied.get(key, (None, None))
            count, text = outcome.failed.get(key, (0, None))
            rows.append((*key, at, seq, count, text, now if count else None, bool(count)))
        if not rows:
            return
        execute_values(
            self.env.cr._obj,
            """INSERT INTO iiot_telemetry_rule_applied AS known
                   (rule_id, device_id, at, seq, failures, last_error, last_error_at, is_failing) VALUES %s
               ON CONFLICT (rule_id, device_id) DO UPDATE SET
                   at = coalesce(excluded.at, known.at), seq = coalesce(excluded.seq, known.seq),
                   failures = coalesce(known.failures, 0) + excluded.failures, is_failing = excluded.is_failing,
                   last_error = coalesce(excluded.last_error, known.last_error),
                   last_error_at = coalesce(excluded.last_error_at, known.last_error_at)""",
            rows,
            template="(%s, %s, %s::timestamp, %s::bigint, %s, %s, %s::timestamp, %s)",
            page_size=len(rows),
        )
        self.env["iiot.telemetry.rule.applied"].invalidate_model()


def _mark(message: Message) -> tuple[Any, int]:
    return message.effective_at, message.seq


def _changes(rule: RulePlan, device: Any, readings: Sequence[Message], outcome: Outcome) -> list[Change]:
    """What the rule makes of a device's readings, oldest first. Where the record does not depend on the value only the
    newest one counts that has a value.
    """
    found: list[Change] = []
    every = rule.domain is not None and rule.domain.uses_value
    for message in readings if every else reversed(readings):
        try:
            values = rule.path.values(message.payload)
            if not values:
                continue
            new = rule.conversion.convert(values[0])
        except (ConversionError, PathError) as error:
            outcome.fail(rule, device.id, error)
            continue
        found.append(Change(rule, device, _mark(message), values[0], new))
        if not every:
            break
    return found
