"""From a value of a reading to the value of a field: by the field's type, with factor, offset and rounding."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from .times import parse_rfc3339
from .worded import WordedError, _

NUMBERS = frozenset(("integer", "float", "monetary"))
FIELD_TYPES = NUMBERS | {"boolean", "char", "text", "selection", "date", "datetime", "many2one"}
MILLISECONDS_ABOVE = 10**11
"""A number that is a time counts seconds; above this it counts milliseconds, as in a reading's ``ts``."""
_EPOCH = datetime(1970, 1, 1)
_TRUE = frozenset(("true", "on", "yes", "1"))
_FALSE = frozenset(("false", "off", "no", "0"))


class ConversionError(WordedError):
    """A value that the field cannot take; the text says why, for people."""


@dataclass(frozen=True)
class Conversion:
    """How a rule makes its field's value. ``rounding`` is the step to which numbers are rounded, 0: not at all."""

    field_type: str
    factor: float = 1.0
    offset: float = 0.0
    rounding: float = 0.0
    size: int = 0
    """Longest text of a char field; 0: no limit."""
    options: tuple[str, ...] = ()
    """Keys of a selection."""

    def convert(self, value: Any) -> Any:
        """The field's value; a many2one gets an ``int`` (an id) or a ``str`` (a name). ``ConversionError``."""
        if value is None:
            raise ConversionError(_("the value is null"))
        return _CONVERTERS[self.field_type](self, value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:60] + "…"


def number(value: Any) -> float | int:
    """A number of a reading: itself, a boolean as 0 or 1, or a text that is one."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        found: float | int = value
    elif isinstance(value, str) and len(value) <= 64:
        try:
            found = float(value)
        except ValueError:
            raise ConversionError(_("%(value)s is not a number"), value=_shown(value)) from None
    else:
        raise ConversionError(_("%(value)s is not a number"), value=_shown(value))
    if (isinstance(found, float) and not math.isfinite(found)) or abs(found) > 1e300:
        raise ConversionError(_("%(value)s is too large"), value=_shown(value))
    return found


def _scaled(how: Conversion, value: Any) -> float | int:
    result = number(value)
    if how.factor != 1.0:
        result *= how.factor
    if how.offset:
        result += how.offset
    if how.rounding:
        step = Decimal(repr(how.rounding))
        result = float((Decimal(repr(float(result))) / step).to_integral_value(ROUND_HALF_UP) * step)
    if abs(result) > 1e300:
        raise ConversionError(_("%(value)s is too large"), value=_shown(value))
    return result


def _float(how: Conversion, value: Any) -> float:
    return float(_scaled(how, value))


def _integer(how: Conversion, value: Any) -> int:
    result = int(Decimal(repr(_scaled(how, value))).to_integral_value(ROUND_HALF_UP))
    if not -(2**31) <= result < 2**31:
        raise ConversionError(_("%(value)s is out of range for a field with whole numbers"), value=_shown(value))
    return result


def _boolean(how: Conversion, value: Any) -> bool:
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        raise ConversionError(_("%(value)s is neither true nor false"), value=_shown(value))
    return bool(_scaled(how, value))


def _text(how: Conversion, value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and (how.factor, how.offset) != (1.0, 0.0):
        value = _scaled(how, value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if how.size and len(text) > how.size:
        raise ConversionError(
            _("%(value)s is longer than the %(size)s characters of the field"), value=_shown(value), size=how.size
        )
    return text


def _selection(how: Conversion, value: Any) -> str:
    text = _text(how, value)
    if text not in how.options:
        raise ConversionError(
            _("%(value)s is not one of %(options)s"), value=_shown(value), options=", ".join(how.options[:20])
        )
    return text


def _datetime(how: Conversion, value: Any) -> datetime:
    try:
        if isinstance(value, str):
            # Odoo keeps whole seconds
            return parse_rfc3339(value).replace(microsecond=0)
        seconds = _scaled(how, value)
        seconds = seconds / 1000 if seconds > MILLISECONDS_ABOVE else seconds
        return (_EPOCH + timedelta(seconds=seconds)).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise ConversionError(
            _("%(value)s is not a time: use RFC 3339, or seconds since 1970"), value=_shown(value)
        ) from None


def _date(how: Conversion, value: Any) -> date:
    if isinstance(value, str) and len(value) == 10:
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise ConversionError(_("%(value)s is not a date"), value=_shown(value)) from None
    return _datetime(how, value).date()


def _link(how: Conversion, value: Any) -> int | str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
        return value
    raise ConversionError(_("%(value)s is neither the name nor the ID of a record"), value=_shown(value))


_CONVERTERS: dict[str, Callable[[Conversion, Any], Any]] = {
    "integer": _integer,
    "float": _float,
    "monetary": _float,
    "boolean": _boolean,
    "char": _text,
    "text": _text,
    "selection": _selection,
    "date": _date,
    "datetime": _datetime,
    "many2one": _link,
}
