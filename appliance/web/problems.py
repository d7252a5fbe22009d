"""Every error as a problem document (RFC 9457), and the outermost wall that lets nothing else out."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.contract.problems import MEDIA_TYPE, Problem, ProblemCode
from appliance.errors import RequestError, StoreUnavailableError

log = logging.getLogger(__name__)

STORE_RETRY_S = 5
MOST_FIELD_ERRORS = 20
_CODES: dict[int, ProblemCode] = {
    401: "unauthorized",
    403: "insufficient_scope",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
}
_CLOSING = (408, 413)
"""After these the rest of the request is still on its way: the connection is of no use."""


class KeyRevokedError(Exception):
    """The key of an answer that is still being sent was revoked: the connection has to end."""


class InvalidBodyError(RequestError):
    """Well-formed JSON, but not what the route takes; the document names each field, never its value."""

    status = 422

    def __init__(self, error: ValidationError) -> None:
        details = error.errors(include_url=False, include_input=False, include_context=False)[:MOST_FIELD_ERRORS]
        self.errors = [
            {"field": ".".join(str(part) for part in detail["loc"]), "message": detail["msg"]} for detail in details
        ]
        first = self.errors[0]
        super().__init__(f"{first['field']}: {first['message']}" if first["field"] else first["message"])

    def problem(self) -> Problem:
        """With ``errors``, one for each field."""
        return Problem(self.status, self.code, str(self), extra={"errors": self.errors})


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """A problem document as a response."""
    response = Response(to_json(problem.as_dict()), problem.status, media_type=MEDIA_TYPE, headers=headers)
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(problem.retry_after_s)
    if problem.status in _CLOSING:
        response.headers["Connection"] = "close"
    return response


async def on_http_exception(_: Request, error: HTTPException) -> Response:
    """What Starlette itself refuses: no such route, wrong method."""
    code = _CODES.get(error.status_code, "bad_request" if error.status_code < 500 else "internal")
    return problem_response(Problem(error.status_code, code, error.detail), error.headers)


async def on_request_error(_: Request, error: RequestError) -> Response:
    """What a service or a route refuses."""
    return problem_response(error.problem())


async def on_store_unavailable(_: Request, error: StoreUnavailableError) -> Response:
    """Nothing can be stored now. The reason may name files: it is for health and the log."""
    log.warning("a request could not be served: %s", error)
    detail = "nothing can be stored now; the appliance tries again by itself"
    return problem_response(Problem(503, "store_unavailable", detail, retry_after_s=STORE_RETRY_S))


class Boundary:
    """The outermost wall: an unexpected error becomes a problem without details, and a log entry with all of them.

    Also sets the headers that every answer has, unless the route has set its own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            log.debug("the client of %s %.200r has gone", scope["method"], scope["path"])
        except KeyRevokedError:
            # unfinished, so that nobody takes what came for all there is
            log.info("%s %.200r ends: its key was revoked", scope["method"], scope["path"])
        except Exception:
            log.exception("%s %.200r failed unexpectedly", scope["method"], scope["path"])
            if started:
                raise
            answer = problem_response(Problem(500, "internal", "an unexpected error; the appliance's log has it"))
            await answer(scope, receive, sending)
