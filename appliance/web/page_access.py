"""Who may see the status page: people at the box itself, and browsers that have shown an API key."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.times import Clock
from appliance.services.api_keys import ApiKey
from appliance.services.limits import FailureLimiter, address_key
from appliance.web.auth import source_address

COOKIE = "iiot_page"
LIFETIME_S = 12 * 3600
MOST_SESSIONS = 100
MOST_FORM_BYTES = 4096
LOOPBACK_NAMES = ("localhost", "localhost.localdomain")
FORWARDING = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")


class PageAccess:
    """Remembers which browsers have logged in; a restart forgets them, and so does the end of their API key.

    ``find_key`` knows the API keys. ``at_the_box``: whether a browser on this very machine needs none.
    """

    def __init__(
        self,
        *,
        find_key: Callable[[str], ApiKey | None],
        limiter: FailureLimiter,
        clock: Clock,
        at_the_box: bool = True,
    ) -> None:
        self._find_key = find_key
        self._limiter = limiter
        self._clock = clock
        self._at_the_box = at_the_box
        self._sessions: OrderedDict[bytes, tuple[ApiKey, float]] = OrderedDict()
        """By the cookie's digest: the key, and the monotonic time when the session ends."""

    def admits(self, request: Request) -> bool:
        """Whether this browser may see the page."""
        return (self._at_the_box and is_at_the_box(request)) or self._has_session(request)

    async def login(self, request: Request) -> Response | str:
        """Take the key out of a form: an answer that sets the cookie, or why not."""
        address = address_key(source_address(request))
        if not _is_own_page(request):
            return "This form was sent from another site."
        key = self._find_key(await _field(request, "key"))
        if key is None:
            # a valid key always passes, as with the API: whoever shares an address with somebody who tries is not
            # locked out by them
            wait_s = self._limiter.wait_s(address)
            if wait_s:
                return f"Too many failed attempts from this address. Try again in {wait_s:.0f} seconds."
            self._limiter.failed(address)
            return "This key is not valid."
        if not key.may("read"):
            return "This key may not see the page: its scope is for metrics alone."
        cookie = secrets.token_urlsafe(32)
        while len(self._sessions) >= MOST_SESSIONS:
            self._sessions.popitem(last=False)
        self._sessions[_digest(cookie)] = (key, self._clock.monotonic() + LIFETIME_S)
        answer = Response(status_code=303)
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=LIFETIME_S,
            path="/ui/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    def logout(self, request: Request) -> Response:
        """End the browser's session."""
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)
        answer = Response(status_code=303)
        answer.delete_cookie(COOKIE, path="/ui/")
        return answer

    def _has_session(self, request: Request) -> bool:
        cookie = request.cookies.get(COOKIE)
        name = _digest(cookie) if cookie else b""
        # found by its digest: how long the search takes tells nothing of the cookie
        session = self._sessions.get(name)
        if session is None:
            return False
        key, ends_at = session
        if self._clock.monotonic() < ends_at and not key.revoked.is_set():
            return True
        del self._sessions[name]
        return False


def is_at_the_box(request: Request) -> bool:
    """Whether the request comes from this very machine, and not through a proxy or a name that points here.

    A web page elsewhere can let its own name point to 127.0.0.1 and have the browser ask for it: the name in ``Host``
    gives that away. A proxy on this machine says so in a header.
    """
    if not _is_loopback(source_address(request)) or any(name in request.headers for name in FORWARDING):
        return False
    return _is_loopback(request.url.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in LOOPBACK_NAMES


def _is_own_page(request: Request) -> bool:
    """Browsers say where a form comes from; another site must not log anybody in."""
    return request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


async def _field(request: Request, name: str) -> str:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_FORM_BYTES:
            return ""
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
    except ValueError:
        return ""
    return fields.get(name, [""])[0].strip()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
