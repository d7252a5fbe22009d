"""What devices answer to commands, for people."""

from __future__ import annotations

from . import json_text

WORDS_IN = ("error", "message", "reason", "detail", "description")
"""Where devices say why they could not do something; the contract leaves that to them."""
MOST_CHARACTERS = 300


def device_words(response: str | None) -> str:
    """The device's own words in its answer (JSON text); empty where it has none."""
    try:
        told = json_text.loads(response or "null")
    except ValueError:
        return ""
    return _words(told)[:MOST_CHARACTERS]


def _words(told: object) -> str:
    if not isinstance(told, dict):
        return ""
    for name in WORDS_IN:
        inner = told.get(name)
        text = inner if isinstance(inner, str) else _words(inner)
        if text.strip():
            return text.strip()
    return ""
