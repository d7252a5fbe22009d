"""The domain of a rule: a Python expression over ``device`` and ``value``, of which only what is bounded is offered.

Odoo's ``safe_eval`` evaluates it. It stops an expression from reaching out, but not from running for ever or from
filling the memory; so its syntax is held against a list first.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, fields

from .worded import WordedError, _

MAX_CHARACTERS = 1000
_FUNCTIONS = frozenset(("str", "int", "float"))
_NODES = (
    *(ast.Expression, ast.List, ast.Tuple, ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Call, ast.Load),
    *(ast.UnaryOp, ast.USub, ast.Not, ast.BinOp, ast.Add, ast.Sub, ast.BoolOp, ast.And, ast.Or, ast.IfExp, ast.Compare),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot),
)


class DomainError(WordedError):
    """An expression that is not offered; the text says what is wrong, for people."""


@dataclass(frozen=True)
class DeviceFacts:
    """What a domain may know of the device: plain values, no record that could do something."""

    id: int = 0
    device_id: str = ""
    serial_number: str = ""
    name: str = ""
    profile: str = ""
    company_id: int = 0
    business_model: str = ""
    business_id: int = 0


_FACTS = frozenset(field.name for field in fields(DeviceFacts))


@dataclass(frozen=True)
class RuleDomain:
    """A checked expression, and whether it depends on the value of the reading."""

    text: str
    uses_value: bool


def read_domain(text: str) -> RuleDomain:
    """``text`` checked; ``DomainError``."""
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        raise DomainError(_("a domain has at most %(most)s characters"), most=MAX_CHARACTERS)
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise DomainError(_("it is not a Python expression")) from None
    names = set()
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise DomainError(_("%(part)s is not supported: use a plain list of conditions"), part=type(node).__name__)
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            if not isinstance(node.value, ast.Name) or node.value.id != "device" or node.attr not in _FACTS:
                raise DomainError(_("only device has parts: %(parts)s"), parts=", ".join(sorted(_FACTS)))
        elif isinstance(node, ast.Subscript):
            if not isinstance(node.slice, ast.Constant):
                raise DomainError(_("only plain keys and numbers are allowed in [ ]"))
        elif isinstance(node, ast.Call):
            plain = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
            if not plain or node.keywords or len(node.args) != 1:
                raise DomainError(_("only str(…), int(…) and float(…) may be called"))
    if unknown := names - {"device", "value"} - _FUNCTIONS:
        raise DomainError(_("it may use device and value, not %(names)s"), names=", ".join(sorted(unknown)))
    if not isinstance(tree.body, (ast.List, ast.BinOp, ast.IfExp)):
        raise DomainError(_("it is not a list of conditions"))
    if isinstance(tree.body, ast.List) and not tree.body.elts:
        raise DomainError(_("without a condition it would match every record"))
    return RuleDomain(text, "value" in names)


def condition_fields(text: str) -> list[str]:
    """The fields that the conditions of a checked expression name as plain texts."""
    return [
        node.elts[0].value
        for node in ast.walk(ast.parse(text.strip(), mode="eval"))
        if isinstance(node, (ast.Tuple, ast.List))
        and len(node.elts) == 3
        and isinstance(node.elts[0], ast.Constant)
        and isinstance(node.elts[0].value, str)
        and node.elts[0].value not in ("&", "|", "!")
    ]
