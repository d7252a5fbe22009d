"""What the stand-in says when it does not do what it was asked: a problem document with a stable code."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from appliance.contract.problems import MEDIA_TYPE


class RefusalError(Exception):
    """A request that is refused; ``headers`` and ``extra`` members go out with the problem document."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.headers = headers or {}
        self.extra = extra

    def response(self) -> JSONResponse:
        """The answer after RFC 9457."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": str(self),
            **self.extra,
        }
        return JSONResponse(body, status_code=self.status, headers=self.headers, media_type=MEDIA_TYPE)
