"""The parameters of a command as they are given, and as JSON."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from typing import Any

from .times import rfc3339
from .worded import WordedError, _, worded


class ParametersError(WordedError):
    """Parameters that JSON cannot say."""


def plain_parameters(params: Any) -> tuple[dict[str, Any], str]:
    """Parameters as plain JSON values, and as JSON text in the order given; ``ParametersError`` for what is none.

    Times become RFC 3339. Texts lose what Odoo or a template library may have marked them as: marked as finished
    they would not be escaped, and could add keys to a command.
    """
    try:
        text = json.dumps(params, ensure_ascii=False, allow_nan=False, default=_plain)
        plain = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        told = _("The parameters of a command must be plain values (texts, numbers, lists, dictionaries): %(why)s")
        raise ParametersError(told, why=worded(error)) from None
    if not isinstance(plain, dict):
        raise ParametersError(_('The parameters of a command must be a dictionary such as {"delay": 5}.'))
    return plain, text


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value if value.tzinfo is None else value.astimezone(timezone.utc).replace(tzinfo=None))
    if isinstance(value, date):
        return value.isoformat()
    raise ParametersError(_("%(kind)s is not a plain value"), kind=type(value).__name__)
