"""The client: what each answer and each failure of Odoo becomes, and what never leaves it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from appliance.contract.device import ConfigRequest
from appliance.errors import (
    OdooAlarmError,
    OdooError,
    OdooRefusedError,
    OdooTooLargeError,
    OdooUnavailableError,
    SettingsError,
)
from appliance.uplink.client import OdooClient, Timeouts
from appliance.uplink.retry import Breaker
from tests.uplink import chaos
from tests.uplink.chaos import ChaosOdoo, Post
from tests.uplink.conftest import API_KEY, Time

BODY = b'{"contract":1,"gateway":"g","epoch":"e","floor":1,"settled":0,"messages":[]}'
REQUEST = ConfigRequest(serial="SN-1", token="K7QF-9", request_id="r1")
CONFIG = {"device_id": "press-07", "config_version": 7, "topics": {}, "command_template": None}

Answerer = Callable[[httpx.Request], httpx.Response]


def made(answerer: Answerer, **options: object) -> OdooClient:
    """A client whose requests never leave the process."""
    transport = httpx.MockTransport(answerer)
    return OdooClient(
        base_url="http://odoo.example",
        api_key=SecretStr(API_KEY),
        transport=transport,
        **options,  # type: ignore[arg-type]
    )


def answering(status: int, json: object = None, **options: object) -> OdooClient:
    def answerer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=json, **options) if json is not None else httpx.Response(status, **options)  # type: ignore[arg-type]

    return made(answerer)


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def foreign_errors() -> list[Exception]:
    kinds = {*subclasses(httpx.HTTPError), *subclasses(httpx.StreamError), httpx.InvalidURL, httpx.CookieConflict}
    public = {kind for kind in kinds if kind.__name__ in httpx.__all__}
    assert {httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.DecodingError, httpx.StreamClosed} <= public
    request = httpx.Request("POST", "http://odoo.example")
    errors: list[Exception] = [ConnectionResetError("reset"), TimeoutError(), ssl.SSLError("bad certificate")]
    for kind in sorted(public, key=lambda kind: kind.__name__):
        if kind is httpx.HTTPStatusError:
            errors.append(httpx.HTTPStatusError("bad", request=request, response=httpx.Response(500)))
        else:
            try:
                errors.append(kind("broken"))
            except TypeError:
                errors.append(kind())
    return errors


@pytest.mark.parametrize("error", foreign_errors(), ids=lambda error: type(error).__name__)
async def test_every_foreign_error_becomes_one_of_ours(error: Exception) -> None:
    def answerer(request: httpx.Request) -> httpx.Response:
        raise error

    async with made(answerer) as client:
        with pytest.raises(OdooUnavailableError):
            await client.post_batch(BODY)
        with pytest.raises(OdooUnavailableError):
            await client.fetch_config(REQUEST)


@pytest.mark.parametrize("kind", [httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError])
async def test_a_cut_while_sending_more_than_64_kib_counts_as_too_large(kind: type[httpx.TransportError]) -> None:
    def answerer(request: httpx.Request) -> httpx.Response:
        raise kind("cut")

    async with made(answerer) as client:
        with pytest.raises(OdooTooLargeError) as caught:
            await client.post_batch(b"x" * (64 * 1024 + 1))
        assert not caught.value.certain
        with pytest.raises(OdooUnavailableError):
            await client.post_batch(b"x" * 64 * 1024)


@pytest.mark.parametrize(
    ("status", "json", "error"),
    [
        *[(status, None, OdooAlarmError) for status in (301, 302, 303, 307, 308, 401, 403, 404)],
        *[(status, {"code": "wrong_key"}, OdooAlarmError) for status in (401, 403, 404)],
        *[(status, None, OdooUnavailableError) for status in (201, 204, 405, 408, 410, 425, 429, 500, 502, 503, 504)],
        *[(status, None, OdooUnavailableError) for status in (400, 409, 422)],
        *[(status, {"code": 200, "message": "Odoo Server Error"}, OdooUnavailableError) for status in (400, 422, 200)],
        *[(status, {"code": "invalid"}, OdooRefusedError) for status in (400, 422)],
        *[(409, {"code": code}, OdooRefusedError) for code in ("behind", "fenced", "wrong_database")],
        (409, {"code": "locked"}, OdooUnavailableError),
        (413, None, OdooTooLargeError),
        (200, [], OdooUnavailableError),
        (200, {"results": [{"seq": 1, "status": "perhaps"}]}, OdooUnavailableError),
        (200, {"results": "none"}, OdooUnavailableError),
    ],
)
async def test_each_answer_to_a_batch_has_its_meaning(status: int, json: object, error: type[OdooError]) -> None:
    async with answering(status, json) as client:
        with pytest.raises(error) as caught:
            await client.post_batch(BODY)
        assert type(caught.value) is error
        assert str(status) in str(caught.value) or error is OdooRefusedError


async def test_an_odoo_that_is_behind_says_below_which_number_it_has_everything() -> None:
    for told, floor in (({"floor": 41}, 41), ({}, None)):
        async with answering(409, {"code": "behind", **told}) as client:
            with pytest.raises(OdooRefusedError) as caught:
                await client.post_batch(BODY)
            assert caught.value.floor == floor


async def test_what_is_html_counts_as_no_answer_whatever_its_status() -> None:
    for status in (200, 400, 422, 500):
        async with answering(status, html="<html>code</html>") as client:
            with pytest.raises(OdooUnavailableError):
                await client.post_batch(BODY)


@pytest.mark.parametrize(
    ("status", "json", "error"),
    [
        (403, {"code": "invalid_token", "message": "no"}, OdooRefusedError),
        (410, {"code": "token_used"}, OdooRefusedError),
        (400, {"code": "bad_request"}, OdooRefusedError),
        (403, None, OdooAlarmError),
        (401, {"code": "wrong_key"}, OdooAlarmError),
        (404, None, OdooAlarmError),
        (302, None, OdooAlarmError),
        (410, None, OdooUnavailableError),
        (429, {"code": "rate_limited", "retry_after_s": 7}, OdooUnavailableError),
        (500, None, OdooUnavailableError),
        (200, {"config_version": 1}, OdooUnavailableError),
    ],
)
async def test_each_answer_to_a_configuration_request_has_its_meaning(
    status: int, json: dict[str, object] | None, error: type[OdooError]
) -> None:
    async with answering(status, json) as client:
        with pytest.raises(error) as caught:
            await client.fetch_config(REQUEST)
    if isinstance(caught.value, OdooRefusedError) and json:
        assert caught.value.code == json["code"]
    if isinstance(caught.value, OdooUnavailableError) and json:
        assert caught.value.retry_after_s == json.get("retry_after_s")


async def test_a_configuration_is_asked_for_as_the_contract_says() -> None:
    asked: list[httpx.Request] = []

    def answerer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=CONFIG)

    transport = httpx.MockTransport(answerer)
    async with OdooClient(
        base_url="http://odoo.example/prefix/", api_key=SecretStr(API_KEY), database="factory", transport=transport
    ) as client:
        config = await client.fetch_config(REQUEST)
    assert (config.device_id, config.config_version) == ("press-07", 7)
    (request,) = asked
    assert request.url == "http://odoo.example/prefix/iiot/config"
    assert request.headers["authorization"] == f"Bearer {API_KEY}"
    assert request.headers["x-odoo-database"] == "factory"
    assert request.headers["content-type"] == "application/json"
    assert request.content == b'{"serial":"SN-1","token":"K7QF-9","request_id":"r1"}'


async def test_configuration_requests_fail_at_once_while_odoo_is_known_not_to_answer(time: Time) -> None:
    breaker = Breaker(clock=time, threshold=1)

    def answerer(request: httpx.Request) -> httpx.Response:
        pytest.fail("nothing may be sent")

    async with made(answerer, breaker=breaker) as client:
        breaker.failed(retry_after_s=20)
        with pytest.raises(OdooUnavailableError) as caught:
            await client.fetch_config(REQUEST)
        assert caught.value.retry_after_s == pytest.approx(20)


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ({"Retry-After": "30"}, 30),
        ({"Retry-After": "86400"}, 600),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT", "Date": "Wed, 21 Oct 2026 07:27:00 GMT"}, 60),
        ({"Retry-After": "Wed, 21 Oct 1970 07:28:00 GMT", "Date": "Wed, 21 Oct 2026 07:27:00 GMT"}, 0),
        ({}, None),
    ],
)
async def test_the_wish_how_long_to_wait_is_heard_within_reason(
    headers: dict[str, str], expected_s: float | None
) -> None:
    async with answering(503, headers=headers) as client:
        with pytest.raises(OdooUnavailableError) as caught:
            await client.post_batch(BODY)
    assert caught.value.retry_after_s == expected_s


async def test_a_date_to_wait_for_is_read_by_the_gateways_clock_if_the_answer_has_none(time: Time) -> None:
    then = datetime.fromtimestamp(time.now_ms() / 1000 + 90, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    transport = httpx.MockTransport(lambda request: httpx.Response(503, headers={"Retry-After": then}))
    async with OdooClient(
        base_url="http://odoo.example", api_key=SecretStr(API_KEY), transport=transport, clock=time
    ) as client:
        with pytest.raises(OdooUnavailableError) as caught:
            await client.post_batch(BODY)
    assert caught.value.retry_after_s == pytest.approx(90, abs=1)


async def test_the_key_is_in_no_repr_no_log_line_and_no_error(
    odoo: ChaosOdoo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    odoo.faults.extend(chaos.EVERY_FAULT)
    texts = []
    async with OdooClient(base_url=odoo.url, api_key=SecretStr(API_KEY)) as client:
        texts.append(f"{client!r} {client} {vars(client)}")
        for _ in chaos.EVERY_FAULT:
            try:
                texts.append(repr(await client.post_batch(BODY)))
            except OdooError as error:
                texts.append(repr(error))
        await odoo.stop()
        with pytest.raises(OdooUnavailableError) as caught:
            await client.post_batch(BODY)
        texts.append(repr(caught.value))
    assert len(texts) == len(chaos.EVERY_FAULT) + 2
    assert caplog.text
    assert API_KEY not in caplog.text + "".join(texts)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"api_key": SecretStr("line\nbreak-geheim")}, "ODOO_API_KEY"),
        ({"api_key": SecretStr("schlüssel-geheim")}, "ODOO_API_KEY"),
        ({"api_key": SecretStr("")}, "ODOO_API_KEY"),
        ({"database": "a\r\nb"}, "ODOO_DATABASE"),
        ({"base_url": "ftp://odoo.example"}, "ODOO_BASE_URL"),
        ({"base_url": "https://user:geheim@odoo.example"}, "ODOO_BASE_URL"),
        ({"base_url": "https://[::1"}, "ODOO_BASE_URL"),
        ({"base_url": "odoo.example"}, "ODOO_BASE_URL"),
    ],
)
def test_settings_that_cannot_be_used_are_named_without_repeating_a_secret(
    options: dict[str, object], name: str
) -> None:
    good: dict[str, object] = {"base_url": "https://odoo.example", "api_key": SecretStr("good")}
    with pytest.raises(SettingsError) as caught:
        OdooClient(**{**good, **options})  # type: ignore[arg-type]
    assert name in str(caught.value)
    assert "geheim" not in str(caught.value)


async def test_foreign_text_in_an_error_is_short_and_one_line() -> None:
    async with answering(422, {"code": "x", "detail": "line\nbreak \x1b[31m" + "y" * 10_000}) as client:
        with pytest.raises(OdooRefusedError) as caught:
            await client.post_batch(BODY)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 301


async def test_a_redirect_is_not_followed_and_its_text_holds_no_secret(odoo: ChaosOdoo) -> None:
    odoo.faults.append(chaos.status(302, location="https://user:geheim@elsewhere.example/x?token=geheim#geheim"))
    async with OdooClient(base_url=odoo.url, api_key=SecretStr(API_KEY)) as client:
        with pytest.raises(OdooAlarmError, match=r"https://elsewhere\.example/x:") as caught:
            await client.post_batch(BODY)
    assert "geheim" not in str(caught.value)
    assert len(odoo.posts) == 1


async def test_an_answer_that_is_too_long_is_not_read_to_its_end() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 1000

    async with answering(200, content=endless()) as client:
        client._max_answer_bytes = 50_000
        with pytest.raises(OdooUnavailableError, match="longer than 50000"):
            await client.post_batch(BODY)
    assert read < 60


async def test_a_compressed_answer_is_not_unpacked() -> None:
    async with answering(200, headers={"content-encoding": "gzip"}, content=b"\x1f\x8b") as client:
        with pytest.raises(OdooUnavailableError, match="compressed"):
            await client.post_batch(BODY)


async def test_a_server_that_sends_a_byte_now_and_then_does_not_hold_a_request_for_ever(odoo: ChaosOdoo) -> None:
    async def drip(odoo: ChaosOdoo, post: Post, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    odoo.faults.append(drip)
    timeouts = Timeouts(connect_s=0.1, read_s=0.1, write_s=0.1, pool_s=0.1)
    async with OdooClient(base_url=odoo.url, api_key=SecretStr(API_KEY), timeouts=timeouts) as client:
        async with asyncio.timeout(5):
            with pytest.raises(OdooUnavailableError, match="in time"):
                await client.post_batch(BODY)


async def test_connections_are_kept_where_the_server_keeps_them_and_cookies_are_not(odoo: ChaosOdoo) -> None:
    odoo.keeps_connections = True
    odoo.faults.extend([chaos.status(429, set_cookie="session_id=abc; Path=/")] * 3)
    async with OdooClient(base_url=odoo.url, api_key=SecretStr(API_KEY)) as client:
        for _ in range(3):
            with pytest.raises(OdooUnavailableError):
                await client.post_batch(BODY)
    assert odoo.connections == 1
    assert [post.headers.get("cookie") for post in odoo.posts] == [None] * 3


async def test_a_server_whose_certificate_nobody_vouches_for_gets_nothing(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    received: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        await chaos.answer(writer, 200, b'{"results":[]}')
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=server_side)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        async with OdooClient(base_url=url, api_key=SecretStr(API_KEY)) as client:
            with pytest.raises(OdooUnavailableError, match="certificate verify failed"):
                await client.post_batch(BODY)
        assert received == []
        trusting = ssl.create_default_context(cafile=certificate)
        async with OdooClient(base_url=url, api_key=SecretStr(API_KEY), tls=trusting) as client:
            assert (await client.post_batch(BODY)).results == []


def _certificate(folder: Path) -> Path:
    """Key and self-signed certificate of 127.0.0.1 in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
