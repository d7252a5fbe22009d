"""What a button says when it has done its work."""

from __future__ import annotations

from typing import Any


def told(title: str, message: str, kind: str = "success") -> dict[str, Any]:
    """A note in the corner of the page, and the page as it is now. ``kind``: ``success``, ``info`` or ``warning``."""
    return {
        "type": "ir.actions.client",
        "tag": "display_notification",
        "params": {
            "title": title,
            "message": message,
            "type": kind,
            "next": {"type": "ir.actions.client", "tag": "soft_reload"},
        },
    }
