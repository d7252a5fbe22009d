"""Payloads as people read them. They are devices' words: text here, and escaped by the template."""

from __future__ import annotations

import json


def readable(payload: bytes, whole_bytes: int | None = None) -> str:
    """A payload, or the beginning of one that has ``whole_bytes``, in one line."""
    text = payload.decode("utf-8", "replace")
    cut = whole_bytes is not None and whole_bytes > len(payload)
    return f"{text} … ({whole_bytes} bytes)" if cut else text


def indented(payload: bytes) -> str:
    """A whole payload, JSON in lines where it is some."""
    try:
        return json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return payload.decode("utf-8", "replace")
