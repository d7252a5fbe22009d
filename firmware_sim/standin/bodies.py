"""Reading requests: bodies that must be JSON, and routes that answer to this machine only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from firmware_sim.standin.refusal import RefusalError

MAX_BODY_BYTES = 1_000_000


def json_body(body: bytes) -> object:
    """Any JSON; ``RefusalError`` 400."""
    try:
        value: object = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise RefusalError(400, "bad_request", "the body is not JSON") from None
    return value


async def json_object(request: Request) -> dict[str, Any]:
    """A body that is an object; none at all is an empty one."""
    body = await request.body()
    if len(body) > MAX_BODY_BYTES:
        raise RefusalError(413, "too_large", f"at most {MAX_BODY_BYTES} bytes")
    value = json_body(body or b"{}")
    if not isinstance(value, dict):
        raise RefusalError(422, "bad_request", "the body must be an object")
    return value


def local_only(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A route for people and tests on this machine."""

    async def endpoint(request: Request) -> Response:
        try:
            if request.client is not None and not ip_address(request.client.host).is_loopback:
                raise RefusalError(403, "local_only", "the control routes answer to this machine only")
            if request.headers.get("sec-fetch-site") and not _is_own_page(request):
                raise RefusalError(403, "local_only", "another site may not use the control routes")
            return await handle(request)
        except RefusalError as refusal:
            return refusal.response()

    return endpoint


def _is_own_page(request: Request) -> bool:
    """Whether a browser asks for a page of this stand-in, or for people: not another site, nor a name made for it."""
    return request.headers["sec-fetch-site"] in ("same-origin", "none") and (
        request.url.hostname == "localhost" or _is_loopback(request.url.hostname or "")
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
