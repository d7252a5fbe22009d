"""Who asks: API keys of Odoo and of people, and the secrets of paired devices."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.problems import Problem
from appliance.services.limits import FailureLimiter, address_key
from appliance.web.problems import problem_response

log = logging.getLogger(__name__)

REALM = "iiot-appliance"
Endpoint = Callable[[Request], Awaitable[Response]]
Verdict = Literal["valid", "missing", "wrong"]


def source_address(request: Request) -> str:
    """The address that the request came from."""
    return request.client.host if request.client else "unknown"


class KeyGuard:
    """Knows the API keys, by digest, and lets nobody try them at will.

    A valid key always passes: with 256 random bits it cannot be guessed, and whoever shares an address with somebody
    who tries (behind a proxy, all do) must not be locked out.
    """

    def __init__(self, *, keys: Iterable[str], limiter: FailureLimiter) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._limiter = limiter

    def judge(self, request: Request) -> Verdict:
        """Whether the request carries a valid key; every key is compared, in constant time."""
        presented = _presented_key(request)
        if presented is None:
            return "missing"
        digest = hashlib.sha256(presented.encode("utf-8", "replace")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return "valid" if any(matches) else "wrong"

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

    def keyed(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, for those with a valid key."""

        async def guarded(request: Request) -> Response:
            verdict = self.judge(request)
            return await endpoint(request) if verdict == "valid" else self.refusal(request, verdict)

        return guarded


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
