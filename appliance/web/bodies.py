"""Request bodies: bounded while they stream in, parsed with a bounded depth, read into typed values."""

from __future__ import annotations

import asyncio
import math
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.contract.problems import Problem
from appliance.errors import RequestError
from appliance.web.problems import InvalidBodyError, problem_response

MOST_DEPTH = 32
BODY_WITHIN_S = 30.0
LINGER_BYTES = 4 << 20
LINGER_S = 2.0
ModelT = TypeVar("ModelT", bound=BaseModel)


class BodyLimit:
    """Refuses bodies above ``most_bytes``: by their announced length at once, otherwise when they exceed it.

    What is still on its way is then read and thrown away for a moment. To close upon unread data would reset the
    connection, and the client would never see why.
    """

    def __init__(self, app: ASGIApp, *, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "0")
        if not (announced.isascii() and announced.isdigit()):
            problem = Problem(400, "bad_request", "Content-Length is no number")
            await problem_response(problem)(scope, receive, send)
            return
        # by digits first: a number of ten thousand of them is not worth an int
        if len(announced) > 18 or int(announced) > self._most_bytes:
            if "expect" not in headers:
                await _throw_away(receive)
            await problem_response(too_large(self._most_bytes).problem())(scope, receive, send)
            return
        received_bytes = 0

        async def limited() -> Message:
            nonlocal received_bytes
            message = await receive()
            if message["type"] == "http.request":
                received_bytes += len(message.get("body", b""))
                if received_bytes > self._most_bytes:
                    if message.get("more_body"):
                        await _throw_away(receive)
                    raise too_large(self._most_bytes)
            return message

        await self._app(scope, limited, send)


def too_large(most_bytes: int) -> RequestError:
    """A body is longer than it may be."""
    return RequestError(f"the body exceeds {most_bytes} bytes", status=413, code="too_large")


async def _throw_away(receive: Receive) -> None:
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return


async def read_json(
    request: Request, *, empty: dict[str, Any] | None = None, most_bytes: int | None = None
) -> dict[str, Any]:
    """The request's JSON object. ``empty`` stands for a body that is missing; without it that is an error.

    ``most_bytes``, where a route takes less than the API as a whole.
    """
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            body = await request.body()
    except TimeoutError:
        raise RequestError(f"the body did not arrive within {BODY_WITHIN_S:g} s", status=408) from None
    if most_bytes is not None and len(body) > most_bytes:
        raise too_large(most_bytes)
    if not body and empty is not None:
        return dict(empty)
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise RequestError("send application/json", status=415, code="unsupported_media_type")
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    _check(value)
    return value


def _check(value: object) -> None:
    """Refuse what later steps could choke on: deep nesting, and numbers that JSON cannot write again."""
    level = [value]
    for _ in range(MOST_DEPTH):
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            raise RequestError("a number in the body is too large")
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise RequestError(f"the body is nested more than {MOST_DEPTH} levels deep")


def parse(model: type[ModelT], value: object) -> ModelT:
    """Read a value as ``model``; :class:`InvalidBodyError` says what is wrong with which field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidBodyError(error) from None


def json_response(content: bytes, status: int = 200) -> Response:
    """JSON that is already encoded, as a response."""
    return Response(content, status, media_type="application/json")
