"""Numbers and times as people read them; the templates' filters."""

from __future__ import annotations

import re
from typing import Any

NONE = "–"
_UNRULY = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_THIN = "\N{NARROW NO-BREAK SPACE}"


def tame(given: Any) -> Any:
    """Of every text that comes into a page: nothing that turns the direction of what stands beside it, or hides."""
    return _UNRULY.sub("\N{REPLACEMENT CHARACTER}", given) if type(given) is str else given


def number(value: float | None) -> str:
    """``12 345`` with narrow spaces; a dash where nothing is known."""
    return NONE if value is None else f"{value:,.0f}".replace(",", _THIN)


def rate(per_s: float | None) -> str:
    """Something per second, minute or hour, whichever makes a number that says something."""
    if per_s is None:
        return NONE
    for factor, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if per_s * factor >= 1:
            value = per_s * factor
            return f"{value:.1f}/{unit}" if value < 10 else f"{number(value)}/{unit}"
    return f"{per_s * 3600:.1f}/h" if per_s else "0/s"


def span(seconds: float | None) -> str:
    """How long, in the unit that fits."""
    if seconds is None:
        return NONE
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.0f} h"
    return f"{number(seconds / 86_400)} days"


def ago(then_ms: int | None, now_ms: int) -> str:
    """How long ago; a dash where it never was."""
    return NONE if then_ms is None else f"{span(max(now_ms - then_ms, 0) / 1000)} ago"


def size(count: float | None) -> str:
    """Bytes."""
    if count is None:
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def when(text: str | None) -> str:
    """An RFC 3339 time in UTC without what nobody reads: ``2026-11-29 10:41:33``."""
    return NONE if not text else text[:19].replace("T", " ")


def label(name: str) -> str:
    """A field's name as words."""
    return name.replace("_", " ")


def value(given: Any) -> str:
    """Whatever it is, for a table of facts."""
    if given is None or given == "":
        return NONE
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, float):
        return f"{given:.1f}"
    return number(given) if isinstance(given, int) else str(given)


FILTERS = {
    "number": number,
    "rate": rate,
    "span": span,
    "bytes": size,
    "when": when,
    "label": label,
    "value": value,
}
