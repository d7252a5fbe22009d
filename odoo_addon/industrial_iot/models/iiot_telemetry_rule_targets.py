"""From values to records: which records a rule means, what they hold now, and the writes, as few as go."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from odoo.tools.safe_eval import safe_eval

from ..lib.domain_batch import Batch, batch_of
from ..lib.worded import Worded, _, worded
from .failures import is_transient
from .iiot_telemetry_rule_plan import MAX_RECORDS, RulePlan, TargetError

_logger = logging.getLogger(__name__)

QUIET = {
    "tracking_disable": True,
    "mail_notrack": True,
    "mail_create_nolog": True,
    "mail_auto_subscribe_no_notify": True,
    "mail_activity_automation_skip": True,
}
"""Context of all writes: a machine that speaks every second must not fill the chatter."""


MAX_TOGETHER = 5000
"""Records that a search for many devices at once may find; with more each device is searched for by itself."""


@dataclass
class Change:
    """A value on its way into records."""

    rule: RulePlan
    device: Any
    mark: tuple[Any, int]
    raw: Any
    new: Any
    ids: tuple[int, ...] = ()

    @property
    def place(self) -> tuple[int, int, str]:
        return self.rule.author, self.device.company_id, self.rule.model


class Targets:
    """The records of one batch. Everything is done as the rule's author, in the company of the device."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._envs: dict[tuple[int, int], Any] = {}
        self._found: dict[Any, tuple[int, ...] | TargetError] = {}
        self._domains: dict[Any, list[Any]] = {}
        self._values: dict[tuple[int, int, str], dict[int, dict[str, Change]]] = {}

    def env_of(self, author: int, company: int) -> Any:
        """The author's environment; ``AccessError`` where the company is not one of the author's."""
        key = (author, company)
        if key not in self._envs:
            env = self._env(user=author, su=False, context={**QUIET, "allowed_company_ids": [company]})
            env.companies.ids
            self._envs[key] = env
        return self._envs[key]

    def find(self, changes: Iterable[Change], outcome: Any) -> Iterator[Change]:
        """The changes that have records, with their ids; a rule without a record for a device has nothing to do."""
        changes = list(changes)
        self._search_together(changes)
        for change in changes:
            try:
                change.ids = self.ids(change)
                if change.rule.link_model:
                    change.new = self.link(change)
            except Exception as error:
                if is_transient(error):
                    raise  # the whole request is repeated
                outcome.fail(change.rule, change.device.id, error)
                continue
            if change.ids:
                yield change

    def ids(self, change: Change) -> tuple[int, ...]:
        """The records that are meant."""
        rule, facts = change.rule, change.device.facts
        env = self.env_of(rule.author, change.device.company_id)
        if rule.domain is None:
            return (facts.business_id,) if facts.business_model == rule.model and facts.business_id else ()
        return self._once(_key(change), lambda: self._search(env[rule.model], self.domain(change)))

    def _search_together(self, changes: Iterable[Change]) -> None:
        """Searches of a rule for many devices that differ in one value become one. What is left is searched singly."""
        groups: dict[Any, dict[Any, list[Any]]] = defaultdict(dict)
        for change in changes:
            if change.rule.domain is not None:
                with contextlib.suppress(TargetError):  # it is told when this change is searched by itself
                    groups[change.place, change.rule.id][_key(change)] = self.domain(change)
        for ((author, company, model_name), _rule), domains in groups.items():
            batch = batch_of(list(domains.values())) if len(domains) > 1 else None
            if batch is None or not self._is_plain(model_name, batch.field):
                continue
            held = self._held(author, company, model_name, batch)
            for key, value in zip(domains, batch.values, strict=True) if held is not None else ():
                ids = held.get(value, ())
                self._found[key] = ids if len(ids) <= MAX_RECORDS else _too_many()

    def _is_plain(self, model_name: str, field_name: str) -> bool:
        """Whether a search by ``=`` finds exactly the records that hold the value."""
        field = self._env[model_name]._fields.get(field_name)
        plain = field is not None and field.store and field.type in ("char", "integer")
        return plain and not field.translate and not field.company_dependent

    def _held(self, author: int, company: int, model_name: str, batch: Batch) -> dict[Any, tuple[int, ...]] | None:
        """The records for each value, or ``None`` where each device has to be searched for by itself."""
        try:
            model = self.env_of(author, company)[model_name]
            with self._env.cr.savepoint(flush=False):
                domain = [*batch.common, (batch.field, "in", list(set(batch.values)))]
                found = model.search(domain, limit=MAX_TOGETHER + 1)
                pairs = [(record.id, record[batch.field]) for record in found]
        except Exception as error:
            if is_transient(error):
                raise  # the whole request is repeated
            _logger.debug("a search for many devices failed: %s", error)
            return None
        if len(pairs) > MAX_TOGETHER:
            return None
        held: dict[Any, tuple[int, ...]] = {}
        for id_, value in pairs:
            held[value] = (*held.get(value, ()), id_)
        return held

    def domain(self, change: Change) -> list[Any]:
        """The rule's domain for this device and value."""
        key = _key(change)
        if key in self._domains:
            return self._domains[key]
        names = {"device": change.device.facts, "value": change.raw}
        try:
            domain = safe_eval(change.rule.domain.text, names)
        except Exception as error:
            raise TargetError(_("The domain cannot be evaluated: %(why)s"), why=worded(error)) from None
        if not isinstance(domain, list) or not domain:
            raise TargetError(_("The domain is not a list of conditions."))
        self._domains[key] = domain
        return domain

    def link(self, change: Change) -> int:
        """The id of the record that a many2one gets: it exists, and its name is that of no other."""
        env, wanted = self.env_of(change.rule.author, change.device.company_id), change.new
        model = env[change.rule.link_model]
        name = model._rec_name or "id"
        domain = [("id", "=", wanted)] if isinstance(wanted, int) else [(name, "=", wanted)]
        key = (change.rule.author, change.device.company_id, model._name, wanted)
        found = self._once(key, lambda: self._search(model, domain))
        if len(found) != 1:
            raise TargetError(
                _("%(count)s records of %(model)s are called %(name)s."),
                count=len(found),
                model=model._description,
                name=wanted,
            )
        return found[0]

    def _once(self, key: Any, search: Any) -> tuple[int, ...]:
        if key not in self._found:
            try:
                self._found[key] = search()
            except TargetError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, TargetError):
            raise found
        return found

    def _search(self, model: Any, domain: list[Any]) -> tuple[int, ...]:
        try:
            with self._env.cr.savepoint(flush=False):
                ids = model.search(domain, limit=MAX_RECORDS + 1).ids
        except Exception as error:
            if is_transient(error):
                raise  # the whole request is repeated
            raise TargetError(_("The records cannot be searched: %(why)s"), why=worded(error)) from None
        if len(ids) > MAX_RECORDS:
            raise _too_many()
        return tuple(ids)

    def add(self, change: Change) -> None:
        """Keep a change for :meth:`write_kept`; of two for the same field the newer one wins, then the later rule."""
        records = self._values.setdefault(change.place, {})
        for id_ in change.ids:
            fields = records.setdefault(id_, {})
            before = fields.get(change.rule.field)
            if before is None or change.rule.id != before.rule.id or change.mark >= before.mark:
                fields[change.rule.field] = change

    def write_kept(self, outcome: Any) -> None:
        """Write what was kept: all records of an author and model at once, one by one where that fails."""
        for (author, company, model), wanted in self._values.items():
            records = self.env_of(author, company)[model].browse(sorted(wanted)).exists()
            for id_ in wanted.keys() - set(records._ids):  # a business record that was deleted
                for change in wanted.pop(id_).values():
                    outcome.fail(change.rule, change.device.id, Worded(_("The record does not exist any more.")))
            try:
                with self._env.cr.savepoint():
                    self._write_all(records, wanted)
            except Exception as error:
                if is_transient(error):
                    raise  # the whole request is repeated
                self._write_singly(records, wanted, outcome)
            else:
                for fields in wanted.values():
                    for change in fields.values():
                        outcome.done(change)

    def _write_all(self, records: Any, wanted: dict[int, dict[str, Change]]) -> None:
        for record in records:
            values = {name: change.new for name, change in wanted[record.id].items() if is_news(record, change)}
            if values:
                record.write(values)

    def _write_singly(self, records: Any, wanted: dict[int, dict[str, Change]], outcome: Any) -> None:
        for record in records:
            fields = wanted[record.id]
            # together if that goes, else each field by itself: a rule that fails must not stop another
            attempts = [fields, *({name: change} for name, change in fields.items())] if len(fields) > 1 else [fields]
            for attempt in attempts:
                try:
                    with self._env.cr.savepoint():
                        self._write_all(record, {record.id: attempt})
                except Exception as error:
                    if is_transient(error):
                        raise  # the whole request is repeated
                    if len(attempt) == 1:
                        (change,) = attempt.values()
                        outcome.fail(change.rule, change.device.id, error)
                    continue
                for change in attempt.values():
                    outcome.done(change)
                if attempt is fields:
                    break


def _key(change: Change) -> Any:
    value = repr(change.raw) if change.rule.domain is not None and change.rule.domain.uses_value else None
    return change.rule.id, change.device.id, value


def _too_many() -> TargetError:
    return TargetError(_("The domain finds more than %(most)s records."), most=MAX_RECORDS)


def is_news(record: Any, change: Change) -> bool:
    """Whether the change is to be written: the field holds something else, or the rule writes in any case."""
    if not change.rule.only_changed:
        return True
    field = record._fields[change.rule.field]
    return field.convert_to_record(field.convert_to_cache(change.new, record), record) != record[change.rule.field]
