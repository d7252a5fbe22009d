"""Firmware by signed link: ranges, and everybody who has no link, or another one."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from base64 import urlsafe_b64decode, urlsafe_b64encode

import httpx
import pytest

from appliance.services import firmware as firmware_service
from appliance.services.firmware_links import TOKEN_CHARACTERS, FirmwareLinks
from appliance.web.firmware import Span, UnsatisfiableError, requested_span
from tests.web.conftest import AUTHORIZED, World, problem

CONTENT = random.Random(5).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
async def link(world: World) -> str:
    """A link that opens the file."""
    await world.pair("press-07", "SN-1")
    assert await world.keep(CONTENT) == SHA256
    return (await world.link(SHA256, len(CONTENT))).removeprefix("http://gw")


async def test_the_whole_file_comes_without_a_key(client: httpx.AsyncClient, link: str) -> None:
    response = await client.get(link)
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["content-length"] == str(len(CONTENT))
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["etag"] == f'"{SHA256}"'
    assert response.headers["accept-ranges"] == "bytes"
    assert "no-store" in response.headers["cache-control"]


async def test_head_tells_the_same_and_sends_nothing(client: httpx.AsyncClient, link: str) -> None:
    whole, part = await client.head(link), await client.head(link, headers={"Range": "bytes=5-"})
    assert (whole.status_code, whole.headers["content-length"], whole.content) == (200, str(len(CONTENT)), b"")
    assert (part.status_code, part.headers["content-length"]) == (206, str(len(CONTENT) - 5))


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, 299_999),
        ("bytes=131071-131072", 131_071, 131_072),
        ("bytes=299999-", 299_999, 299_999),
        ("bytes=100-999999999", 100, 299_999),
        ("bytes=-1", 299_999, 299_999),
        ("bytes=-999999999", 0, 299_999),
        ("BYTES= 7-8 ", 7, 8),
    ],
)
async def test_a_range_of_it(client: httpx.AsyncClient, link: str, asked: str, first: int, last: int) -> None:
    response = await client.get(link, headers={"Range": asked})
    assert response.status_code == 206
    assert response.headers["content-range"] == f"bytes {first}-{last}/300000"
    assert response.content == CONTENT[first : last + 1]
    assert response.headers["content-length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=300000-", "bytes=999999999999-", "bytes=-0"])
async def test_a_range_that_the_file_does_not_have(client: httpx.AsyncClient, link: str, asked: str) -> None:
    response = await client.get(link, headers={"Range": asked})
    assert response.status_code == 416
    assert problem(response)["detail"]
    assert response.headers["content-range"] == "bytes */300000"


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-1,5-6", "bytes=", "bytes=-", "bytes=5-2", "items=0-1", "bytes=a-b", "bytes=" + "9" * 99 + "-", "x"],
)
async def test_what_is_no_single_range_means_all_of_it(client: httpx.AsyncClient, link: str, asked: str) -> None:
    response = await client.get(link, headers={"Range": asked})
    assert (response.status_code, response.content) == (200, CONTENT)


async def test_a_range_of_another_file_means_all_of_it(client: httpx.AsyncClient, link: str) -> None:
    for validator, status in ((f'"{SHA256}"', 206), ('"other"', 200), (f'W/"{SHA256}"', 200), ("yesterday", 200)):
        response = await client.get(link, headers={"Range": "bytes=9-", "If-Range": validator})
        assert response.status_code == status
        assert response.content == CONTENT[9 if status == 206 else 0 :]


def test_an_empty_file_has_no_range() -> None:
    assert requested_span(None, None, etag='"e"', size=0) is None
    for asked in ("bytes=0-", "bytes=-5"):
        with pytest.raises(UnsatisfiableError):
            requested_span(asked, None, etag='"e"', size=0)
    assert requested_span("bytes=0-0", None, etag='"e"', size=1) == Span(0, 1)


async def test_a_link_that_was_changed_in_any_character_opens_nothing(client: httpx.AsyncClient, link: str) -> None:
    head, token = link.split("?t=")
    assert len(token) == TOKEN_CHARACTERS
    content = urlsafe_b64decode(token + "==")
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        response = await client.get(f"{head}?t={urlsafe_b64encode(changed).rstrip(b'=').decode()}")
        assert (response.status_code, problem(response)["code"]) == (403, "link_invalid")
    for wrong in ("", token[:-1], token + "A", token + "==", "ü" * TOKEN_CHARACTERS, "*" * TOKEN_CHARACTERS):
        response = await client.get(head, params={"t": wrong})
        assert (response.status_code, problem(response)["code"]) == (403, "link_invalid"), wrong
    response = await client.get(head)
    assert response.status_code == 403


async def test_a_link_opens_its_own_file_only(world: World, client: httpx.AsyncClient, link: str) -> None:
    other = await world.keep(b"another firmware")
    response = await client.get(link.replace(SHA256, other))
    assert (response.status_code, problem(response)["code"]) == (403, "link_invalid")
    for path in ("..%2f..%2fmaster.key", "f" * 63, SHA256.upper(), f"{SHA256}.part"):
        response = await client.get(link.replace(SHA256, path))
        assert (response.status_code, problem(response)["code"]) == (404, "not_found")


async def test_a_link_made_with_another_key_opens_nothing(client: httpx.AsyncClient, link: str) -> None:
    forged = FirmwareLinks(key=bytes(32), base_url="").url(SHA256, position=1, expires_ms=1 << 45)
    assert (await client.get(forged)).status_code == 403


async def test_a_link_ends(world: World, client: httpx.AsyncClient, link: str) -> None:
    world.clock.ahead += world.updates._deadlines.link_ms / 1000 - 60
    assert (await client.get(link)).status_code == 200
    world.clock.ahead += 61
    response = await client.get(link)
    assert (response.status_code, problem(response)["code"]) == (410, "link_expired")


async def test_a_link_outlives_its_update_but_not_its_cancellation(
    world: World, client: httpx.AsyncClient, link: str
) -> None:
    world.updates.accept_status("press-07", b'{"update_id": "u-press-07", "state": "installed"}', 1, None)
    async with asyncio.timeout(10):
        while world.updates.open_total:
            await asyncio.sleep(0)
    assert (await client.get(link)).status_code == 200
    await world.pair("press-08", "SN-2")
    second = await world.link(SHA256, len(CONTENT), "press-08")
    await world.updates.cancel("u-press-08")
    response = await client.get(second)
    assert (response.status_code, problem(response)["code"]) == (410, "link_expired")


async def test_a_file_that_is_gone_is_not_found(world: World, client: httpx.AsyncClient, link: str) -> None:
    (world.files._folder / SHA256).unlink()
    for _ in range(2):
        response = await client.get(link)
        assert (response.status_code, problem(response)["code"]) == (404, "not_found")
    assert world.firmware.active_downloads == 0


async def test_a_download_goes_on_though_its_file_goes(world: World, link: str) -> None:
    descriptor = await world.files.open(SHA256)
    assert descriptor is not None
    await world.files._remove(SHA256)
    assert os.pread(descriptor, 1 << 20, 0) == CONTENT
    os.close(descriptor)


async def test_downloads_are_counted_and_bounded(
    world: World, client: httpx.AsyncClient, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.get(link, headers={"Range": "bytes=0-99"})
    await client.get(link, headers={"Range": "bytes=100-"})
    seen = (await world.updates.status("u-press-07")).download
    assert seen is not None
    assert (seen.active, seen.requests, seen.bytes_sent) == (0, 2, len(CONTENT))
    assert seen.last_at
    position = world.updates._by_device["press-07"].row.position
    with world.firmware.download(position), world.firmware.download(position):
        response = await client.get(link)
        assert (response.status_code, problem(response)["code"]) == (503, "busy")
        assert response.headers["retry-after"] == "10"
        assert (await client.head(link)).status_code == 200
    assert (await client.get(link)).status_code == 200
    monkeypatch.setattr(firmware_service, "MOST_DOWNLOADS", 1)
    with world.firmware.download(99):
        assert (await client.get(link)).status_code == 503
    assert world.firmware.active_downloads == 0


async def test_a_link_ends_with_the_pairing_of_its_device(world: World, client: httpx.AsyncClient, link: str) -> None:
    assert (await client.get(link)).status_code == 200
    await client.delete("/api/v1/device/press-07", headers=AUTHORIZED)
    answer = await client.get(link)
    assert (answer.status_code, problem(answer)["code"]) == (410, "link_expired")
    await world.pair("press-07", "SN-2")  # another one has its name now
    world.updates.device_has("press-07", "SN-2")
    async with asyncio.timeout(10):
        while (await world.updates.status("u-press-07")).reason != "unpaired":
            await asyncio.sleep(0)
    assert (await client.get(link)).status_code == 410


async def test_the_link_of_an_update_that_has_ended_does_not_take_everybodys_places(
    world: World, client: httpx.AsyncClient, link: str
) -> None:
    position = world.updates._by_device["press-07"].row.position
    with world.firmware.download(position):
        said = b'{"update_id": "u-press-07", "state": "installed", "version": "2"}'
        world.updates.accept_status("press-07", said, world.clock.now_ms(), None)
        async with asyncio.timeout(10):
            while not (await world.updates.status("u-press-07")).settled:
                await asyncio.sleep(0)
        assert (await client.get(link)).status_code == 200
        with world.firmware.download(position):
            assert problem(await client.get(link))["code"] == "busy"
    assert world.firmware.downloads(position) is None
