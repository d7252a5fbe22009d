"""Problem documents (RFC 9457) and the stable codes that they carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

MEDIA_TYPE = "application/problem+json"

ProblemCode = Literal[
    "bad_request",
    "unauthorized",
    "insufficient_scope",
    "not_found",
    "unknown_device",
    "unknown_command",
    "unknown_dead_letter",
    "not_retryable",
    "unknown_api_key",
    "api_key_exists",
    "too_many_api_keys",
    "builtin_api_key",
    "method_not_allowed",
    "device_disabled",
    "invalid_token",
    "token_used",
    "token_expired",
    "command_not_json",
    "command_template",
    "command_too_large",
    "command_id_conflict",
    "command_final",
    "queue_full",
    "unknown_update",
    "update_id_conflict",
    "update_open",
    "update_final",
    "offer_too_large",
    "firmware_too_large",
    "link_invalid",
    "link_expired",
    "busy",
    "too_large",
    "unsupported_media_type",
    "rate_limited",
    "pending",
    "store_unavailable",
    "gateway_busy",
    "no_odoo",
    "behind",
    "internal",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One error as HTTP tells it; ``extra`` holds further members of the document."""

    status: int
    code: ProblemCode
    detail: str
    retry_after_s: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The document: ``title`` and ``status`` after RFC 9457, ``code`` for programs."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **({"retry_after_s": self.retry_after_s} if self.retry_after_s is not None else {}),
            **self.extra,
        }
