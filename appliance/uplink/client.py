"""HTTP client for Odoo (contract, "Odoo HTTP API"). No foreign error passes it."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

import httpx

from appliance import __version__
from appliance.contract.device import ConfigRequest, encode
from appliance.contract.identity import IDENTITY_PATH, IdentityBody
from appliance.contract.odoo import CONFIG_PATH, WEBHOOK_PATH, BatchResult, DeviceConfig
from appliance.contract.sync import ENROLL_PATH, SYNC_PATH, EnrollAnswer, EnrollRequest, SyncAnswer
from appliance.contract.sync_answer import Flaw, read_answer
from appliance.contract.times import Clock
from appliance.errors import OdooTooLargeError, OdooUnavailableError, SettingsError
from appliance.uplink.answers import FOREIGN_ERRORS, Answer, translated
from appliance.uplink.gate import Gate
from appliance.uplink.retry import Breaker

MAX_ANSWER_BYTES = 2 << 20


class Secret(Protocol):
    """What keeps a secret out of reprs and logs, such as pydantic's ``SecretStr``."""

    def get_secret_value(self) -> str:
        """The secret itself."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds. Odoo's own retries may sleep for half a minute: with ``read_s`` below 60 batches repeat."""

    connect_s: float = 10.0
    read_s: float = 60.0
    write_s: float = 60.0
    pool_s: float = 10.0

    @property
    def total_s(self) -> float:
        """For a whole request: a server that sends a byte now and then must not hold it for ever."""
        return self.pool_s + self.connect_s + self.write_s + 2 * self.read_s


class OdooClient:
    """Pooled connections to one Odoo. Close it with :meth:`aclose`, or use it as a context manager.

    ``base_url`` and both header values must be usable, otherwise :class:`SettingsError` (which never repeats the key);
    without ``api_key`` it can do nothing but :meth:`enroll`.
    ``breaker`` is driven by whoever sends batches; configuration requests fail at once while it is not closed.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: Secret | None,
        database: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        timeouts: Timeouts | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        breaker: Breaker | None = None,
        clock: Clock | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        host = _check(base_url, api_key, database)
        timeouts = timeouts or Timeouts()
        self._clock = clock or Clock()
        self.breaker = breaker or Breaker(clock=self._clock)
        self.gate: Gate | None = None
        """Set by who finds out whether this is the right Odoo: configuration requests claim tokens there."""
        self.clock_ahead_s: float | None = None
        """How much Odoo's clock was ahead of ours by the date of its last answer, which is in whole seconds."""
        self.longest_s = timeouts.total_s
        """No request takes longer, in seconds."""
        self._max_answer_bytes = max_answer_bytes
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/"),
            headers=_headers(api_key, database),
            # Odoo's session cookie would tie the requests to a server-side session that nobody needs
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(
                connect=timeouts.connect_s, read=timeouts.read_s, write=timeouts.write_s, pool=timeouts.pool_s
            ),
            limits=httpx.Limits(max_connections=10, max_keepalive_connections=4, keepalive_expiry=30.0),
            follow_redirects=False,
            transport=transport,
            verify=tls or _trusted_authorities(base_url),
            # the usual proxy variables count, but never on the way to this very machine
            trust_env=not _is_loopback(host),
        )

    def __repr__(self) -> str:
        return f"OdooClient({str(self._http.base_url)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def post_batch(self, body: bytes) -> BatchResult:
        """Send messages (:func:`appliance.contract.odoo.encode_batch`); what Odoo did with each.

        :class:`OdooUnavailableError`: again later (whether it was stored is unknown). :class:`OdooTooLargeError`: less
        at a time. :class:`OdooAlarmError`: Odoo refuses the appliance as a whole. :class:`OdooRefusedError`: Odoo
        refuses this body (400, 422), or knows less than it once confirmed (409 ``behind``).
        """
        answer = await self._post(WEBHOOK_PATH, body)
        if answer.status != 200:
            raise answer.batch_error(len(body))
        return answer.read(BatchResult)

    async def fetch_config(self, request: ConfigRequest) -> DeviceConfig:
        """Ask for a device's configuration, and claim its token.

        :class:`OdooRefusedError` is that device's answer (``invalid_token``, ``token_used``, …) and nothing more;
        :class:`OdooUnavailableError`, at once while Odoo is known not to answer; :class:`OdooAlarmError`.
        """
        self.breaker.check()
        if self.gate is not None:
            await self.gate.passed()
        try:
            answer = await self._post(CONFIG_PATH, encode(request))
        except OdooTooLargeError as error:
            raise OdooUnavailableError(str(error)) from error
        if answer.status != 200:
            raise answer.config_error()
        return answer.read(DeviceConfig)

    async def post_sync(self, body: bytes, within_s: float) -> tuple[SyncAnswer, list[Flaw]]:
        """Report, and ask what there is to do (:mod:`appliance.contract.sync`); with the items that make no sense.

        :class:`OdooUnavailableError`, :class:`OdooAlarmError`, or :class:`OdooRefusedError` with the code that Odoo
        gave, such as ``wrong_database`` and ``fenced``.
        """
        try:
            answer = await self._post(SYNC_PATH, body, within_s)
        except OdooTooLargeError as error:
            raise OdooUnavailableError(str(error)) from error
        if answer.status != 200:
            raise answer.sync_error()
        try:
            return read_answer(answer.content)
        except ValueError:
            raise OdooUnavailableError("Odoo's answer to sync does not speak the contract") from None

    async def enroll(self, request: EnrollRequest) -> EnrollAnswer:
        """Turn a code into a key; the code works once. Errors as of :meth:`post_sync`, 403 ``invalid_code`` too."""
        answer = await self._post(ENROLL_PATH, encode(request))
        if answer.status != 200:
            raise answer.enroll_error()
        return answer.read(EnrollAnswer)

    async def put_identity(self, body: IdentityBody) -> None:
        """Let Odoo keep this gateway's identity. Errors as of :meth:`post_sync`."""
        try:
            # encode() leaves out what is null, and here that says something
            answer = await self._post(IDENTITY_PATH, body.model_dump_json().encode(), method="PUT")
        except OdooTooLargeError as error:
            raise OdooUnavailableError(str(error)) from error
        if answer.status != 200:
            raise answer.sync_error()

    async def _post(self, path: str, body: bytes, within_s: float | None = None, *, method: str = "POST") -> Answer:
        try:
            async with (
                asyncio.timeout(within_s or self.longest_s),
                self._http.stream(method, path, content=body) as response,
            ):
                content = await self._read(response)
        except FOREIGN_ERRORS as error:
            raise translated(error, len(body)) from error
        now_ms = self._clock.now_ms()
        self._compare_clocks(response.headers.get("date"), now_ms)
        return Answer(response.status_code, response.headers, content, now_ms)

    def _compare_clocks(self, date: str | None, now_ms: int) -> None:
        with suppress(ValueError, TypeError, OverflowError, OSError):
            if date is not None:
                # it was cut off, not rounded
                self.clock_ahead_s = parsedate_to_datetime(date).timestamp() + 0.5 - now_ms / 1000

    async def _read(self, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            # it was not asked for, and a few bytes of it may become gigabytes
            raise OdooUnavailableError(f"Odoo's answer ({response.status_code}) is compressed")
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > self._max_answer_bytes:
                raise OdooUnavailableError(f"Odoo's answer is longer than {self._max_answer_bytes} bytes")
        return bytes(content)


def _check(base_url: str, api_key: Secret | None, database: str | None) -> str:
    """The host of the address; :class:`SettingsError` for what cannot be used."""
    problems = []
    host = None
    try:
        url = urlsplit(base_url)
        if url.scheme in ("http", "https") and url.username is None and url.port != 0:
            host = url.hostname
    except ValueError:
        pass
    if not host:
        problems.append("ODOO_BASE_URL must look like https://odoo.example.com, without user name and password")
    # a byte that HTTP forbids in a header would end up, with the whole header, in an error text
    key = None if api_key is None else api_key.get_secret_value()
    if key is not None and (not _is_header_value(key) or " " in key):
        problems.append("ODOO_API_KEY may hold printable ASCII characters only, and no spaces")
    if database is not None and not _is_header_value(database):
        problems.append("ODOO_DATABASE may hold printable ASCII characters only, and no spaces around them")
    if problems or not host:
        raise SettingsError(problems)
    return host


def _is_header_value(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and text == text.strip()


def _headers(api_key: Secret | None, database: str | None) -> dict[str, str]:
    headers = {
        **({} if api_key is None else {"Authorization": f"Bearer {api_key.get_secret_value()}"}),
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": f"iiot-appliance/{__version__}",
    }
    return headers if database is None else {**headers, "X-Odoo-Database": database}


def _trusted_authorities(base_url: str) -> ssl.SSLContext:
    """The well-known authorities, and those that this machine's administrator has added."""
    if base_url.startswith("http:"):
        return ssl.SSLContext(
            ssl.PROTOCOL_TLS_CLIENT
        )  # never used; it trusts nobody, and reading the others takes time
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
