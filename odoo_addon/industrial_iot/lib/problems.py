"""What goes wrong, as the contract says it: a request that is refused, a message that is rejected."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from .worded import Worded

MEDIA_TYPE = "application/problem+json"


class RefusalError(Exception):
    """A whole request that is refused; ``headers`` and ``extra`` members go out with the problem document."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.headers = headers or {}
        self.extra = extra

    def document(self) -> dict[str, Any]:
        """The body of the answer, after RFC 9457."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": str(self),
            **self.extra,
        }


class RejectedError(Exception):
    """A message that cannot be taken for good; the rest of its batch is not touched."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.worded = Worded(text)


class LaterError(Exception):
    """A message that cannot be taken now: the appliance keeps it and sends it again."""
