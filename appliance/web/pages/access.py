"""Who may see and do what on the pages: login, cookie, and the proof that a change was asked for on a page of ours."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.times import Clock
from appliance.errors import BusyError, RequestError, StoreUnavailableError
from appliance.services.api_keys import ApiKey, Scope
from appliance.services.limits import FailureLimiter, address_key
from appliance.web.auth import source_address
from appliance.web.bodies import BODY_WITHIN_S
from appliance.web.pages.frame import Frame
from appliance.web.pages.sessions import LONGEST_S, Session, Sessions
from appliance.web.services import Password

log = logging.getLogger(__name__)

COOKIE = "iiot_page"
SECURE_COOKIE = "__Host-iiot_page"
"""Browsers take a cookie of this name from HTTPS alone, for this host alone: no neighbour can plant one."""
LOGIN_PAGE = "/ui/login"
MOST_FORM_BYTES = 8192
MOST_FIELDS = 16
PageT = TypeVar("PageT", bound="Guarded")


class PageAccess:
    """Logs browsers in and out.

    ``find_key`` knows the API keys. Whoever has a valid key is never kept waiting for what others at the same address
    do; the password waits out the minute in which too many wrong ones came from its address.
    """

    def __init__(
        self, *, password: Password, find_key: Callable[[str], ApiKey | None], limiter: FailureLimiter, clock: Clock
    ) -> None:
        self._password = password
        self._find_key = find_key
        self._limiter = limiter
        self.sessions = Sessions(generation=lambda: password.generation, clock=clock)

    def session(self, request: Request) -> Session | None:
        """The browser's session, if it has one."""
        return self.sessions.find(request.cookies.get(_cookie_name(request)))

    async def login(self, request: Request) -> Response | str:
        """Take password or key out of a form: an answer that sets the cookie, or why not."""
        if not _is_own_page(request):
            return "This form was sent from another site."
        shown = (await read_form(request)).get("password", "")
        key = self._find_key(shown)
        if key is None:
            refusal = await self.refusal(shown, request)
            if refusal:
                return refusal
        elif not key.may("read"):
            return "This key may not see the pages: its scope is for metrics alone."
        self.sessions.end(request.cookies.get(_cookie_name(request)))
        answer = Response(status_code=303, headers={"Location": "/ui/"})
        answer.set_cookie(
            _cookie_name(request),
            self.sessions.begin(key),
            max_age=LONGEST_S,
            path="/",
            secure=_is_secure(request),
            httponly=True,
            samesite="strict",
        )
        how = f"the API key {key.name!r}" if key else "the password"
        log.info("somebody at %s has logged in to the status pages with %s", source_address(request), how)
        return answer

    async def refusal(self, shown: str, request: Request) -> str | None:
        """Why this is not the password, or may not be tried now; ``None`` if it is."""
        address = source_address(request)
        wait_s = self._limiter.wait_s(address_key(address))
        if wait_s:
            return f"Too many failed attempts from this address. Try again in {wait_s:.0f} seconds."
        # counted before it is known: a hundred at once must not all be tried
        self._limiter.failed(address_key(address))
        try:
            if await self._password.verify(shown):
                self._limiter.succeeded(address_key(address))
                return None
        except BusyError as error:
            return f"{error}."
        log.warning("somebody at %s has tried a wrong password at the status pages", address)
        return "This is neither the password nor a valid API key."

    def logout(self, request: Request) -> Response:
        """End the browser's session."""
        name = _cookie_name(request)
        self.sessions.end(request.cookies.get(name))
        answer = Response(status_code=303, headers={"Location": LOGIN_PAGE})
        answer.delete_cookie(name, path="/", secure=_is_secure(request), httponly=True, samesite="strict")
        return answer


class Guarded:
    """What has pages behind the login."""

    access: PageAccess
    frame: Frame

    async def admit(self, request: Request, endpoint: Callable[[Session], Awaitable[Response]]) -> Response:
        """Serve who has logged in, ask others to; what cannot be done is said on a page."""
        session = self.access.session(request)
        if session is None:
            return Response(status_code=303, headers={"Location": LOGIN_PAGE})
        try:
            return await endpoint(session)
        except RequestError as error:
            return self.frame.refusal(session, error.status, str(error))
        except StoreUnavailableError:
            return self.frame.refusal(session, 503, "Nothing can be stored or read now; the appliance tries again.")


def page(
    endpoint: Callable[[PageT, Request, Session], Awaitable[Response]],
) -> Callable[[PageT, Request], Awaitable[Response]]:
    """For who has logged in."""

    @wraps(endpoint)
    async def guarded(self: PageT, request: Request) -> Response:
        return await self.admit(request, lambda session: endpoint(self, request, session))

    return guarded


def change(
    scope: Scope,
) -> Callable[
    [Callable[[PageT, Request, Session, Mapping[str, str]], Awaitable[Response]]],
    Callable[[PageT, Request], Awaitable[Response]],
]:
    """For a form of a page of ours, from who has logged in and may do this; it gets the form's fields."""

    def decorate(
        endpoint: Callable[[PageT, Request, Session, Mapping[str, str]], Awaitable[Response]],
    ) -> Callable[[PageT, Request], Awaitable[Response]]:
        @wraps(endpoint)
        async def guarded(self: PageT, request: Request) -> Response:
            async def checked(session: Session) -> Response:
                fields = await read_form(request)
                token = fields.get("csrf", "").encode("utf-8", "replace")
                if not _is_own_page(request) or not hmac.compare_digest(token, session.csrf.encode()):
                    raise RequestError("this form does not come from a page of this session", status=403)
                if not session.may(scope):
                    raise RequestError(f"this needs the password, or an API key with the scope {scope}", status=403)
                return await endpoint(self, request, session, fields)

            return await self.admit(request, checked)

        return guarded

    return decorate


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, of each the last; :class:`RequestError` if it is too long or does not come."""
    body = b""
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for part in request.stream():
                body += part
                if len(body) > MOST_FORM_BYTES:
                    raise RequestError(f"the form exceeds {MOST_FORM_BYTES} bytes", status=413, code="too_large")
    except TimeoutError:
        raise RequestError(f"the body did not arrive within {BODY_WITHIN_S:g} s", status=408) from None
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise RequestError("this is no form") from None
    return {name: values[-1].strip() for name, values in fields.items()}


def _is_own_page(request: Request) -> bool:
    """Browsers say where a form comes from; another site must neither change anything nor log anybody in."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"


def _cookie_name(request: Request) -> str:
    return SECURE_COOKIE if _is_secure(request) else COOKIE
