"""A reading as people read it: its single values, each with its path."""

from __future__ import annotations

import json
from typing import Any

SHOWN_VALUES = 40
VALUE_CHARACTERS = 200
LINE_CHARACTERS = 200
SHOWN_LEVELS = 16
RESERVED = frozenset(("ts", "msg_id"))
"""Of the transport, not of the machine: when the device sent a reading, and by what it knows it again."""


def shown_values(payload: Any) -> list[dict[str, str]]:
    """The single values of a reading, each with its path, as texts: what lies deeper than lists and dictionaries do.
    Without what the contract reserves for the transport.

    None of ``None`` and ``False``, by which Odoo says that there is no reading.
    """
    values = [] if payload is None or payload is False else _values(payload)
    return [{"name": name or "value", "value": text} for name, text in values]


def reading_line(payload: Any) -> str:
    """All of a reading in a line, ``motor.rpm: 1500, running: true``, cut where it is long."""
    line = ", ".join(f"{name}: {text}" if name else text for name, text in _values(payload))
    return line if len(line) <= LINE_CHARACTERS else line[:LINE_CHARACTERS] + "…"


def reading_pretty(payload: Any) -> str:
    """A reading as JSON over several lines; in one line where it is nested without end."""
    try:
        return json.dumps(payload, indent=2, ensure_ascii=False)
    except RecursionError:
        return reading_line(payload)


def _values(payload: Any) -> list[tuple[str, str]]:
    """Paths and texts of the first values; a path is empty where the reading is a plain value itself."""
    found: list[tuple[str, str]] = []

    def walk(name: str, value: Any, level: int) -> None:
        if len(found) >= SHOWN_VALUES:
            return
        if isinstance(value, dict) and value and level < SHOWN_LEVELS:
            for key, inner in value.items():
                walk(f"{name}.{key}" if name else str(key), inner, level + 1)
        elif isinstance(value, list) and _holds_more(value) and level < SHOWN_LEVELS:
            for index, inner in enumerate(value):
                walk(f"{name}[{index}]", inner, level + 1)
        else:
            found.append((name, _text(value)))

    shown = (
        {name: value for name, value in payload.items() if name not in RESERVED} if isinstance(payload, dict) else {}
    )
    walk("", shown or payload, 0)
    return found


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)) and _holds_more(value):
        return "…"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:VALUE_CHARACTERS]


def _holds_more(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value
    return any(isinstance(inner, (dict, list)) for inner in inside)
