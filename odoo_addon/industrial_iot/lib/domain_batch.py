"""Many domains that differ in one value, as those of a rule for many devices do: searched at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Batch(NamedTuple):
    """What the domains have in common, and the condition ``(field, "=", value)`` in which they differ."""

    common: list[Any]
    field: str
    values: list[Any]
    """One for each domain, in their order."""


def batch_of(domains: Sequence[list[Any]]) -> Batch | None:
    """The domains as one, or ``None`` where they are not plain conditions that differ in a single equal value."""
    first = domains[0]
    if any(len(domain) != len(first) or not all(map(_is_condition, domain)) for domain in domains):
        return None
    places = [n for n, condition in enumerate(first) if any(domain[n] != condition for domain in domains)]
    if len(places) != 1:
        return None
    (place,) = places
    field, operator, _ = first[place]
    conditions = [domain[place] for domain in domains]
    if operator != "=" or "." in field or any(tuple(each[:2]) != (field, "=") for each in conditions):
        return None
    values = [each[2] for each in conditions]
    if any(not value or not isinstance(value, (int, str)) or isinstance(value, bool) for value in values):
        return None
    return Batch([*first[:place], *first[place + 1 :]], field, values)


def _is_condition(part: Any) -> bool:
    return isinstance(part, (list, tuple)) and len(part) == 3 and isinstance(part[0], str)
