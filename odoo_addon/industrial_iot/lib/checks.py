"""Reading members of bodies that come from outside: each of them is there in its form, or the request is refused."""

from __future__ import annotations

import re
from typing import Any

from .problems import RefusalError

CONTRACT_VERSION = 1
MAX_COUNT = 2**62

_UUID = re.compile(r"[0-9a-fA-F-]{36}", re.ASCII)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def bad_request(detail: str) -> RefusalError:
    """The refusal of a body that makes no sense."""
    return RefusalError(422, "bad_request", detail)


def is_storable(text: str) -> bool:
    """Whether the database can hold it: JSON may say NUL and halves of surrogate pairs, PostgreSQL takes neither."""
    return _UNSTORABLE.search(text) is None


def an_object(value: object, what: str = "the body") -> dict[str, Any]:
    """``value`` itself."""
    if not isinstance(value, dict):
        raise bad_request(f"{what} must be an object")
    return value


def of_this_contract(body: object) -> dict[str, Any]:
    """The body itself: an object that speaks this version of the contract (or, in a request for it, names none)."""
    body = an_object(body)
    if body.get("contract", CONTRACT_VERSION) != CONTRACT_VERSION or isinstance(body.get("contract"), bool):
        raise bad_request(f"this side speaks contract {CONTRACT_VERSION}")
    return body


def text(body: dict[str, Any], name: str, *, most: int = 64) -> str:
    """A text of 1 to ``most`` characters that the database can hold."""
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most or not is_storable(value):
        raise bad_request(f"{name} must be a text of 1 to {most} characters")
    return value


def optional_text(body: dict[str, Any], name: str, *, most: int = 64) -> str | None:
    """The same, or ``None`` where it is left out, ``null`` or empty."""
    return None if body.get(name) in (None, "") else text(body, name, most=most)


def uuid(body: dict[str, Any], name: str) -> str:
    """A UUID as it is written."""
    value = body.get(name)
    if not isinstance(value, str) or _UUID.fullmatch(value) is None:
        raise bad_request(f"{name} must be a UUID")
    return value


def count(body: dict[str, Any], name: str, default: int | None = None, *, least: int = 0) -> int:
    """A whole number from ``least`` to below 2⁶²; ``default`` where it is left out."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < MAX_COUNT:
        raise bad_request(f"{name} must be a number, {least} or above")
    return value


def number(body: dict[str, Any], name: str) -> float | None:
    """A number that fits into the database, or ``None`` where it is left out or ``null``."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MAX_COUNT:
        raise bad_request(f"{name} must be a number")
    return float(value)


def a_list(body: dict[str, Any], name: str, *, least: int = 0, most: int) -> list[Any]:
    """A list with so many items."""
    value = body.get(name)
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise bad_request(f"{name} must be a list of {least} to {most}")
    return value
