"""What jsonb cannot hold though it is JSON, found before PostgreSQL does, which would end the whole transaction."""

from __future__ import annotations

import math
import re
from typing import Any

from .problems import RejectedError

CODE = "not_storable"

_may_be_huge = re.compile(r"\d[eE]\+?\d{3}|Infinity|NaN").search


def check_storable(payload: Any, payload_json: str) -> None:
    """``RejectedError`` ``not_storable`` for a payload that jsonb refuses; cheap for all others.

    jsonb takes no NUL character, no half of a surrogate pair, and no number without end, which is what ``1e400`` is
    by the time it has become a Python float.
    """
    try:
        payload_json.encode()
    except UnicodeEncodeError:
        raise RejectedError(CODE, "the payload holds half of a surrogate pair") from None
    # the escapes by which text made elsewhere may say the same: rare, so it is these that are looked at closely
    if "\\u0000" in payload_json or "\\ud" in payload_json or "\\uD" in payload_json:
        _check_texts(payload)
    if _may_be_huge(payload_json):
        _check_numbers(payload)


def _check_texts(payload: Any) -> None:
    for value in _leaves(payload):
        if isinstance(value, str):
            if "\0" in value:
                raise RejectedError(CODE, "the payload holds the character U+0000")
            try:
                value.encode()
            except UnicodeEncodeError:
                raise RejectedError(CODE, "the payload holds half of a surrogate pair") from None


def _check_numbers(payload: Any) -> None:
    for value in _leaves(payload):
        if isinstance(value, float) and not math.isfinite(value):
            raise RejectedError(CODE, "the payload holds a number that is too large")


def _leaves(payload: Any) -> list[Any]:
    """All keys and plain values, without recursion: how deep a payload is nested is not ours to say."""
    found: list[Any] = []
    waiting = [payload]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        else:
            found.append(value)
    return found
