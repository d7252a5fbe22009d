"""JSON as it comes from outside: strict, bounded, and never an exception but ``ValueError``."""

from __future__ import annotations

import json
from typing import Any

from .worded import Worded, WordedError, _

MAX_DEPTH = 64
_IN_OUR_WORDS = {
    "Expecting value": _("a value is missing"),
    "Expecting property name enclosed in double quotes": _("a name in double quotation marks is missing"),
    "Expecting ':' delimiter": _("a colon is missing"),
    "Expecting ',' delimiter": _("a comma or the end is missing"),
    "Extra data": _("there is something after the end"),
    "Unterminated string starting at": _("a text is not closed"),
    "Invalid control character at": _("a text contains a line break or another control character"),
}
"""What Python says of JSON that is none."""


class NotJsonError(WordedError):
    """A text that is no JSON; ``lineno`` where it is known."""

    lineno: int | None = None


def _refuse(constant: str) -> Any:
    raise NotJsonError(_("%(constant)s is not JSON"), constant=constant)


def loads(text: str | bytes) -> Any:
    """The value; ``ValueError`` for what is no JSON, holds NaN or Infinity, or is nested without end."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        what = Worded(_IN_OUR_WORDS.get(error.msg, error.msg))
        told = NotJsonError(
            _("line %(line)s, column %(column)s: %(what)s"), line=error.lineno, column=error.colno, what=what
        )
        told.lineno = error.lineno
        raise told from None
    except RecursionError:
        raise NotJsonError(_("nested too deeply")) from None


def dumps(value: Any) -> str:
    """Compact, keys in their order, Unicode as it is; ``ValueError`` for what JSON cannot say."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise NotJsonError(_("nested too deeply")) from None
