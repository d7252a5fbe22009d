"""Who asks: API keys of Odoo and of people, and the secrets of paired devices."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Scope as AsgiScope

from appliance.contract.problems import Problem
from appliance.services.api_keys import ApiKey, ApiKeys, Scope
from appliance.services.limits import FailureLimiter, address_key
from appliance.web.problems import KeyRevokedError, problem_response

log = logging.getLogger(__name__)

REALM = "iiot-appliance"
Endpoint = Callable[[Request], Awaitable[Response]]
Verdict = Literal["valid", "missing", "wrong"]
_JUDGED = "iiot.judged"
T = TypeVar("T")


def source_address(request: Request) -> str:
    """The address that the request came from."""
    return request.client.host if request.client else "unknown"


class KeyGuard:
    """Asks the keys who is there, and lets nobody try them at will.

    A valid key always passes: with 256 random bits it cannot be guessed, and whoever shares an address with somebody
    who tries (behind a proxy, all do) must not be locked out.
    """

    def __init__(self, *, keys: ApiKeys, limiter: FailureLimiter) -> None:
        self._keys = keys
        self._limiter = limiter

    def judge(self, request: Request) -> Verdict:
        """Whether the request carries a valid key, whatever its scope."""
        return self._judged(request)[0]

    def key(self, request: Request) -> ApiKey | None:
        """The valid key that the request carries, if it does."""
        return self._judged(request)[1]

    def _judged(self, request: Request) -> tuple[Verdict, ApiKey | None]:
        """Found out once for each request."""
        scope: AsgiScope = request.scope
        if _JUDGED not in scope:
            presented = _presented_key(request)
            key = None if presented is None else self._keys.find(presented)
            verdict: Verdict = "missing" if presented is None else "wrong" if key is None else "valid"
            scope[_JUDGED] = verdict, key
        judged: tuple[Verdict, ApiKey | None] = scope[_JUDGED]
        return judged

    def refusal(self, request: Request, verdict: Verdict, scheme: str = "Bearer") -> Response:
        """The answer to who may not: 401, or 429 once it was tried too often from this address."""
        address = source_address(request)
        if verdict == "wrong":
            wait_s = self._limiter.wait_s(address_key(address))
            if wait_s:
                detail = "too many failed attempts from this address"
                return problem_response(Problem(429, "rate_limited", detail, retry_after_s=wait_s))
            self._limiter.failed(address_key(address))
            log.warning("wrong credentials from %s for %s %.200r", address, request.method, request.url.path)
        detail = "these credentials are not valid" if verdict == "wrong" else "credentials are needed"
        error = ', error="invalid_token"' if verdict == "wrong" and scheme == "Bearer" else ""
        challenge = f'{scheme} realm="{REALM}"{error}'
        return problem_response(Problem(401, "unauthorized", detail), {"WWW-Authenticate": challenge})

    def keyed(self, endpoint: Endpoint, scope: Scope) -> Endpoint:
        """The endpoint, for those with a valid key of this scope; what it streams ends when the key is revoked."""

        async def guarded(request: Request) -> Response:
            verdict, key = self._judged(request)
            if key is None:
                return self.refusal(request, verdict)
            if not key.may(scope):
                return _out_of_scope(key, scope)
            response = await endpoint(request)
            if isinstance(response, StreamingResponse):
                response.body_iterator = while_valid(key, response.body_iterator)
            return response

        return guarded


def _out_of_scope(key: ApiKey, scope: Scope) -> Response:
    problem = Problem(403, "insufficient_scope", f"this key's scope is {key.scope}; {scope} is needed here")
    challenge = f'Bearer realm="{REALM}", error="insufficient_scope", scope="{scope}"'
    return problem_response(problem, {"WWW-Authenticate": challenge})


async def while_valid(key: ApiKey, chunks: AsyncIterable[T]) -> AsyncIterator[T]:
    """What a stream yields until its key is revoked; then :class:`KeyRevokedError`, at once, however long the stream
    would have been silent."""
    revoked = asyncio.create_task(key.revoked.wait(), name="until the key of a stream is revoked")
    try:
        async with aclosing(_each(chunks)) as each:
            while True:
                chunk = asyncio.ensure_future(anext(each))
                try:
                    await asyncio.wait({chunk, revoked}, return_when=asyncio.FIRST_COMPLETED)
                    if revoked.done():
                        raise KeyRevokedError
                finally:
                    if not chunk.done():
                        chunk.cancel()
                        await asyncio.wait({chunk})
                try:
                    value = chunk.result()
                except StopAsyncIteration:
                    return
                yield value
    finally:
        revoked.cancel()


async def _each(chunks: AsyncIterable[T]) -> AsyncGenerator[T, None]:
    async for chunk in chunks:
        yield chunk


def _presented_key(request: Request) -> str | None:
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, key = header.partition(" ")
        # another scheme is no key at all, but it is an attempt
        return key.strip() if scheme.lower() == "bearer" else ""
    return request.headers.get("x-api-key")


def basic_credentials(request: Request) -> tuple[str, str] | None:
    """Name and secret of HTTP Basic (RFC 7617), or ``None`` without it; what is malformed is a name nobody has."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return name, secret
