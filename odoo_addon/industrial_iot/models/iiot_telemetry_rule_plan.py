"""A profile's rules, checked and compiled: made once, kept until somebody changes a rule or a profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..lib.conversion import FIELD_TYPES, Conversion
from ..lib.domain import DomainError, RuleDomain, read_domain
from ..lib.jsonpath import Path, PathError, compile_path
from ..lib.worded import Worded, WordedError, _, worded
from .rights import check_field, check_model

FORBIDDEN_MODELS = (
    *("ir.", "iiot.", "base.", "bus.", "mail.", "discuss.", "auth", "change.password", "fetchmail.", "iap.", "sms."),
    *("res.users", "res.groups", "res.config", "res.company", "res.device", "portal.", "payment.", "digest.", "web."),
)
"""Beginnings of names of models that are no business of a machine: people's rights, Odoo's own parts, this add-on."""
FORBIDDEN_FIELDS = frozenset(("id", "create_uid", "create_date", "write_uid", "write_date", "parent_path"))
AUTHOR_IS_GONE = Worded(_("Its author has been archived."))
AUTHOR_MAY_NOT = Worded(_("Its author may no longer write to the target."))
"""Why a rule is paused."""
MAX_RECORDS = 100
"""A domain that finds more records than this for one reading was not meant so."""


class TargetError(WordedError):
    """Where a rule wants to write it may not, or finds no record it may mean; the text says why, for people."""


def no_such_field(model_name: str, path: str) -> DomainError:
    """What is wrong with a condition on a field that the target lacks."""
    return DomainError(_("%(model)s has no field %(field)s"), model=model_name, field=path)


def not_searched(error: Exception) -> DomainError:
    """What is wrong with a domain that the target's search refuses."""
    return DomainError(_("the domain cannot be searched: %(why)s"), why=worded(error))


@dataclass(frozen=True)
class RulePlan:
    """A rule ready to run. ``problem``: why it cannot, in which case the rest is empty."""

    id: int
    name: str
    author: int = 0
    model: str = ""
    field: str = ""
    link_model: str = ""
    path: Path | None = None
    domain: RuleDomain | None = None
    conversion: Conversion | None = None
    only_changed: bool = True
    problem: Worded | None = None


@dataclass(frozen=True)
class ProfilePlan:
    """What becomes of the readings of a profile's devices."""

    keep_history: bool
    metrics: tuple[tuple[str, Path], ...]
    rules: tuple[RulePlan, ...]


def is_forbidden(model: Any) -> bool:
    """Whether rules may never write to this model."""
    return (
        not model._auto
        or model._abstract
        or model._transient
        or any(model._name == name or model._name.startswith(name) for name in FORBIDDEN_MODELS)
    )


def check_target(env: Any, model_name: str, field_name: str) -> Any:
    """The field that a rule writes to; ``TargetError`` where no rule may write, whoever made it."""
    if not model_name or model_name not in env:
        raise TargetError(_("The target's model does not exist."))
    model = env[model_name]
    if is_forbidden(model):
        raise TargetError(_("Telemetry may not write to %(model)s."), model=model._description)
    field = model._fields.get(field_name or "")
    if field is None:
        raise TargetError(_("The target's field does not exist."))
    if field.inherited and is_forbidden(env[field.related_field.model_name]):
        raise TargetError(_("Telemetry may not write to this field: it belongs to another model."))
    if field_name in FORBIDDEN_FIELDS or field.readonly or not (field.store or field.inverse):
        raise TargetError(
            _("The field %(field)s is read-only or computed: nothing can be written to it."), field=field_name
        )
    if field.related and not field.inherited:
        raise TargetError(_("The field %(field)s belongs to another record."), field=field_name)
    if field.type not in FIELD_TYPES:
        raise TargetError(_("A field of this type cannot be written from a reading: %(type)s."), type=field.type)
    if field.type == "many2one" and field.comodel_name not in env:
        raise TargetError(_("The field %(field)s leads to a model that does not exist."), field=field_name)
    return field


def check_author(env: Any, model_name: str, field_name: str) -> None:
    """``AccessError`` unless the user of ``env`` may write to that field of some records."""
    model = env[model_name]
    for operation in ("read", "write"):
        check_model(model, operation)
        check_field(model, field_name, operation)


def plan_rule(rule: Any) -> RulePlan:
    """A rule checked and compiled; what is wrong with it becomes its ``problem``."""
    try:
        return check_rule(rule)
    except (TargetError, PathError, DomainError) as error:
        return RulePlan(rule.id, rule.name, author=rule.author_id.id, problem=error.worded)


def check_rule(rule: Any) -> RulePlan:
    """A rule checked and compiled. ``TargetError``, ``PathError``, ``DomainError``."""
    author = rule.author_id
    if not author or author._is_superuser():
        raise TargetError(_("A rule needs a person as its author: save it as that user."))
    field = check_target(rule.env, rule.target_model, rule.target_field)
    return RulePlan(
        id=rule.id,
        name=rule.name,
        author=author.id,
        model=rule.target_model,
        field=rule.target_field,
        link_model=field.comodel_name if field.type == "many2one" else "",
        path=compile_path(rule.json_path or ""),
        domain=read_domain(rule.domain or "") if rule.record_by == "domain" else None,
        conversion=Conversion(
            field_type=field.type,
            factor=rule.factor,
            offset=rule.offset,
            rounding=rule.rounding,
            size=(getattr(field, "size", 0) or 0) if field.type == "char" else 0,
            options=tuple(str(key) for key in field.get_values(rule.env)) if field.type == "selection" else (),
        ),
        only_changed=rule.only_changed,
    )
