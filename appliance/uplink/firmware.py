"""Fetches a firmware file: in pieces, over as many connections as it takes, from where it may be fetched.

Whoever may order updates chooses the address, so this is a way into the factory's network (CWE-918). It is narrowed:
http and https alone, also after redirects, and never from https to http; no loopback, link-local or multicast address,
unless the host is Odoo's own or named in ``IIOT_FIRMWARE_HOSTS``, and where that names hosts, no others at all. Nothing
of an answer reaches the caller but its status. Odoo's key goes to Odoo's own origin alone, and only if the order itself
names that.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from random import Random
from typing import Protocol
from urllib.request import getproxies

import httpx

from appliance import __version__
from appliance.contract.times import Clock
from appliance.errors import FirmwareError
from appliance.services.firmware import Wish
from appliance.store.firmware import Part
from appliance.uplink.answers import FOREIGN_ERRORS, printable
from appliance.uplink.client import Secret
from appliance.uplink.retry import Backoff, parse_retry_after

MOST_TRIES = 10
"""In a row without a new byte."""
LONGEST_WAIT_S = 60.0
MOST_REDIRECTS = 5
STALL_S = 30.0
"""Without a byte; there is no limit to the whole, large files come over slow lines."""
CONNECT_S = 10.0
PIECE_BYTES = 512 * 1024
"""What is gathered for one write."""
_RETRIED = frozenset({408, 425, 429})
_PROXIES = frozenset({"http", "https", "all"})
"""``NO_PROXY`` alone, which is among them as ``no``, is none."""
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,15})-(\d{1,15})|\*)/(\d{1,15}|\*)")


class _TryAgain(Exception):
    """This attempt has failed; another may not. ``wait_s``: the server's own wish."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class OdooAccess(Protocol):
    """Odoo's address and what opens it."""

    @property
    def base_url(self) -> str: ...
    @property
    def api_key(self) -> Secret: ...
    @property
    def database(self) -> str | None: ...


class FirmwareFetcher:
    """Fetches files. Close it with :meth:`aclose`. ``hosts``: the only ones besides Odoo's, if any is named."""

    def __init__(
        self,
        *,
        odoo: OdooAccess | None = None,
        hosts: Collection[str] = (),
        clock: Clock | None = None,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        stall_s: float = STALL_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._odoo = odoo
        self._odoo_origin = None if odoo is None else _origin(httpx.URL(odoo.base_url))
        self._hosts = frozenset(host.lower() for host in hosts)
        self._clock = clock or Clock()
        self._backoff = Backoff(random=random, base_s=4.0, cap_s=LONGEST_WAIT_S)
        self._sleep = sleep
        self._stall_s = stall_s
        self._tls = tls
        self._clients: dict[bool, httpx.AsyncClient] = {}

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()

    async def fetch(self, wish: Wish, part: Part) -> None:
        """Fill ``part`` until it is the whole file; :class:`FirmwareError` says why that cannot be."""
        url = self._start(wish.url)
        most_seen, tries = part.size, 0
        attempt = _Attempt()
        while True:
            try:
                await self._attempt(url, wish, part, attempt)
                return
            except ValueError as error:  # a name with a label that is too long, for instance
                text = f"its address, or what is found there, cannot be read ({type(error).__name__})"
                raise FirmwareError(text) from error
            except _TryAgain as failure:
                if part.size > most_seen:
                    most_seen, tries = part.size, 0
                tries += 1
                if tries >= MOST_TRIES:
                    raise FirmwareError(f"given up after {tries} tries: {failure}") from failure
                await self._sleep(max(self._backoff.delay_s(tries), failure.wait_s or 0.0))

    async def _attempt(self, start: httpx.URL, wish: Wish, part: Part, attempt: _Attempt) -> None:
        url = start
        for _ in range(MOST_REDIRECTS + 1):
            try:
                location = await self._request(url, start, wish, part, attempt)
            except FOREIGN_ERRORS as error:
                raise _TryAgain(_cause(error)) from error
            if location is None:
                break
            url = _redirected(url, location)
        else:
            raise FirmwareError(f"more than {MOST_REDIRECTS} redirects")
        if wish.sha256 is not None and part.sha256 != wish.sha256:
            if part.resumed:
                # its beginning may be of another file than its end
                await part.restart()
                raise _TryAgain("the pieces do not make up the file that was ordered")
            raise FirmwareError("its SHA-256 is not the one that was ordered")

    async def _request(self, url: httpx.URL, start: httpx.URL, wish: Wish, part: Part, attempt: _Attempt) -> str | None:
        """One request; where it redirects to, or ``None`` once everything is here."""
        guarded = await self._check_address(url)
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if self._odoo is not None and self._odoo_origin == _origin(url) == _origin(start):
            headers["Authorization"] = f"Bearer {self._odoo.api_key.get_secret_value()}"
            if self._odoo.database is not None:
                headers["X-Odoo-Database"] = self._odoo.database
        if part.size and wish.sha256 is None and attempt.validator is None:
            await part.restart()  # nobody could tell whether the rest belongs to it
        if part.size:
            part.resumed = True
            headers["Range"] = f"bytes={part.size}-"
            if attempt.validator is not None:
                headers["If-Range"] = attempt.validator
        async with self._client(url).stream("GET", url, headers=headers) as response:
            if guarded:
                _check_peer(response)
            if response.has_redirect_location:
                return response.headers["location"]
            total = await self._begin(response, wish, part, attempt)
            if total is None or total > part.size or total == 0:
                await self._receive(response, wish, part, total)
        return None

    async def _begin(self, response: httpx.Response, wish: Wish, part: Part, attempt: _Attempt) -> int | None:
        """Judge the head of an answer; the size of the whole file, if the server says."""
        status = response.status_code
        if status in _RETRIED or status >= 500:
            date = response.headers.get("date")
            wait_s = parse_retry_after(response.headers.get("retry-after"), date=date, now_ms=self._clock.now_ms())
            raise _TryAgain(f"the server answers {_status(status)}", wait_s)
        total = await _total(response, part)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise FirmwareError("the server sends it compressed, without being asked to")
        chunked = response.headers.get("transfer-encoding", "").lower() == "chunked"
        if total is None and wish.size is None and wish.sha256 is None and not chunked:
            raise FirmwareError("nobody says how long it is: neither the order nor the server")
        for size, who in ((total, "the server's file has"), (wish.size, "the order says")):
            if size is not None and size > part.most_bytes:
                raise FirmwareError(f"{who} {size} bytes, {part.most_bytes} are allowed (IIOT_FIRMWARE_MAX_MB)")
        if total is not None and wish.size not in (None, total):
            raise FirmwareError(f"the server's file has {total} bytes, {wish.size} were ordered")
        attempt.validator = _validator(response)
        expected = total if total is not None else wish.size
        if expected is not None:
            await part.reserve(expected)
        return total

    async def _receive(self, response: httpx.Response, wish: Wish, part: Part, total: int | None) -> None:
        most_bytes = min(size for size in (total, wish.size, part.most_bytes) if size is not None)
        piece = bytearray()
        try:
            async for data in response.aiter_raw():
                piece += data
                if part.size + len(piece) > most_bytes:
                    raise FirmwareError(f"it is longer than {most_bytes} bytes")
                if len(piece) >= PIECE_BYTES:
                    await part.write(bytes(piece))
                    piece.clear()
        except FOREIGN_ERRORS:
            # what has come need not come again
            await part.write(bytes(piece))
            raise
        await part.write(bytes(piece))
        if total is not None and part.size < total:
            raise _TryAgain(f"the connection ended after {part.size} of {total} bytes")
        if wish.size not in (None, part.size):
            raise FirmwareError(f"it has {part.size} bytes, {wish.size} were ordered")

    def _start(self, url: str) -> httpx.URL:
        if url.startswith("/"):
            if self._odoo is None:
                raise FirmwareError("its address is one of Odoo's, and there is no Odoo (ODOO_BASE_URL)")
            url = self._odoo.base_url.rstrip("/") + url
        try:
            return httpx.URL(url)
        except httpx.InvalidURL as error:
            raise FirmwareError("its address is none") from error

    async def _check_address(self, url: httpx.URL) -> bool:
        """:class:`FirmwareError` where nothing may be fetched from; whether the peer's address is to be looked at."""
        if self._odoo_origin is not None and _origin(url) == self._odoo_origin:
            return False
        host = url.host.lower()
        if host in self._hosts:
            return False
        if self._hosts:
            raise FirmwareError(f"{printable(host, 80)} is not among IIOT_FIRMWARE_HOSTS")
        with suppress(OSError):  # a name that nobody knows: the connection will say so, or a proxy knows it
            found = await asyncio.get_running_loop().getaddrinfo(host, url.port or 0)
            for *_, address in found:
                _refuse_inner(str(address[0]), host)
        # the name may mean another address a moment later; behind a proxy the peer is that
        return _PROXIES.isdisjoint(getproxies())

    def _client(self, url: httpx.URL) -> httpx.AsyncClient:
        direct = _is_loopback(url.host)
        client = self._clients.get(direct)
        if client is None:
            client = self._clients[direct] = httpx.AsyncClient(
                headers={"User-Agent": f"iiot-appliance/{__version__}"},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                timeout=httpx.Timeout(connect=CONNECT_S, read=self._stall_s, write=self._stall_s, pool=None),
                limits=httpx.Limits(max_connections=8, max_keepalive_connections=0),
                follow_redirects=False,
                verify=self._tls or _trusted(),
                trust_env=not direct,
            )
        return client


@dataclass(slots=True)
class _Attempt:
    """What one attempt leaves for the next: what tells whether the file is still the same (RFC 9110 §13.1.5)."""

    validator: str | None = None


async def _total(response: httpx.Response, part: Part) -> int | None:
    """The size of the whole file by status and headers; a part that does not fit is forgotten."""
    status, headers = response.status_code, response.headers
    if status == 200:
        if part.size:
            await part.restart()
        length = headers.get("content-length", "")
        return int(length) if length.isdigit() and len(length) < 16 else None
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if status == 416 and part.size:
        if found is None or found[1] is not None or found[3] != str(part.size):
            await part.restart()
            raise _TryAgain("the server has no such range")
        return part.size
    if status == 206 and part.size:
        if found is None or found[1] != str(part.size) or found[3] == "*" or int(found[2]) + 1 != int(found[3]):
            await part.restart()
            raise _TryAgain("the server sends another range than it was asked for")
        return int(found[3])
    raise FirmwareError(f"the server answers {_status(status)}")


def _validator(response: httpx.Response) -> str | None:
    etag = response.headers.get("etag", "")
    if etag.startswith('"'):
        return str(etag)
    modified = response.headers.get("last-modified")
    return None if modified is None or etag else str(modified)


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    try:
        target = url.join(location)
    except httpx.InvalidURL as error:
        raise FirmwareError("it redirects to an address that is none") from error
    if target.scheme not in ("http", "https") or not target.host:
        raise FirmwareError("it redirects to an address that is neither http nor https")
    if target.port is not None and not 0 < target.port < 65536:
        # httpx takes it, and the socket's OverflowError is none of those that it translates
        raise FirmwareError("it redirects to an address that is none")
    if url.scheme == "https" and target.scheme == "http":
        raise FirmwareError("it redirects from https to http")
    return target.copy_with(userinfo=b"", fragment=None)


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host.lower(), url.port or (443 if url.scheme == "https" else 80)


def _check_peer(response: httpx.Response) -> None:
    stream = response.extensions.get("network_stream")
    address = None if stream is None else stream.get_extra_info("server_addr")
    if address:
        _refuse_inner(str(address[0]), "its host")


def _refuse_inner(address: str, host: str) -> None:
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        text = "is an address from which nothing is fetched unless IIOT_FIRMWARE_HOSTS names it"
        raise FirmwareError(f"{printable(host, 80)} {text}")


def _cause(error: Exception) -> str:
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return f"the server does not answer in time ({type(error).__name__})"
    if isinstance(error, httpx.ProtocolError):
        # its text quotes what came: the banner of whatever listens there, for whoever ordered to read
        return f"the server breaks off, or does not speak HTTP ({type(error).__name__})"
    return f"{type(error).__name__}: {printable(str(error), 120) or 'no reason given'}"


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _trusted() -> ssl.SSLContext:
    """The well-known authorities, and those that this machine's administrator has added."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
