"""How many requests a second somebody may send: by key for those who have one, by address for all others."""

from __future__ import annotations

import ipaddress

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from appliance.contract.problems import Problem
from appliance.services.limits import RateLimiter, address_key
from appliance.web.auth import KeyGuard, source_address
from appliance.web.problems import problem_response


class RateLimit:
    """Answers 429 with ``Retry-After`` where it is too much, before anything of a request is read but its head.

    Whoever has a valid key is counted by it alone: somebody else at the same address cannot use up their share. This
    very machine is not counted without one: a proxy there speaks for everybody.
    """

    def __init__(self, app: ASGIApp, *, guard: KeyGuard, by_key: RateLimiter, by_address: RateLimiter) -> None:
        self._app = app
        self._guard = guard
        self._by_key = by_key
        self._by_address = by_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI). WebSockets have bounds of their own."""
        wait_s = self._wait_s(Request(scope)) if scope["type"] == "http" else 0
        if not wait_s:
            await self._app(scope, receive, send)
            return
        problem = Problem(429, "rate_limited", "too many requests; come again later", retry_after_s=wait_s)
        await problem_response(problem)(scope, receive, send)

    def _wait_s(self, request: Request) -> int:
        key = self._guard.key(request)
        if key is not None:
            return self._by_key.take(key.key_id)
        address = source_address(request)
        return 0 if _is_loopback(address) else self._by_address.take(address_key(address))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
