"""JSON as it comes from outside: strict, bounded, and never an exception but ``ValueError``."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 64


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def loads(text: str | bytes) -> Any:
    """The value; ``ValueError`` for what is no JSON, holds NaN or Infinity, or is nested without end."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(value: Any) -> str:
    """Compact, keys in their order, Unicode as it is; ``ValueError`` for what JSON cannot say."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
