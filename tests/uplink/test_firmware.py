"""Fetching firmware: from a real server that hangs, resets, sends too little, too much, or something else."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from appliance.contract.times import Clock
from appliance.enrolment import OdooAccess
from appliance.errors import FirmwareError
from appliance.services.firmware import Fetched, FirmwareService, Wish
from appliance.store.firmware import FirmwareFiles
from appliance.uplink.firmware import LONGEST_WAIT_S, MOST_TRIES, FirmwareFetcher, _refuse_inner
from tests.services.file_server import FileServer

CONTENT = random.Random(7).randbytes(2_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(8).randbytes(2_000_000)
WITHIN_S = 20
KEY = "the-key-of-odoo-0123456789"


@dataclass
class Bench:
    """A firmware service on a real folder, and a server."""

    folder: Path
    server: FileServer
    files: FirmwareFiles
    fetcher: FirmwareFetcher
    service: FirmwareService
    waited: list[float] = field(default_factory=list)
    on_wait: Callable[[], None] = lambda: None
    _position: int = 0

    def wish(self, path: str = "/fw.bin", *, sha256: str | None = SHA256, size: int | None = len(CONTENT)) -> Wish:
        return Wish(url=f"{self.server.url}{path}", sha256=sha256, size=size)

    def start(self, wish: Wish) -> asyncio.Future[Fetched | str]:
        self._position += 1
        future: asyncio.Future[Fetched | str] = asyncio.get_running_loop().create_future()
        self.service.want(self._position, wish, future.set_result)
        return future

    async def get(self, wish: Wish) -> Fetched | str:
        """What became of it: the file, or why not."""
        async with asyncio.timeout(WITHIN_S):
            result = await self.start(wish)
            while wish.name in self.service._jobs:
                await asyncio.sleep(0)
        return result

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "firmware").iterdir())

    def kept(self, sha256: str = SHA256) -> bytes:
        return (self.folder / "firmware" / sha256).read_bytes()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with FileServer({"/fw.bin": CONTENT, "/other.bin": OTHER}) as server:
        files = FirmwareFiles(tmp_path / "firmware", quota_bytes=5_000_000, most_bytes=3_000_000, keep_free_bytes=0)
        await files.load()

        async def sleep(seconds: float) -> None:
            bench.waited.append(seconds)
            bench.on_wait()
            await asyncio.sleep(0)

        odoo = OdooAccess(f"http://127.0.0.2:{server.port}", SecretStr(KEY), "production")
        fetcher = FirmwareFetcher(odoo=odoo, hosts=["127.0.0.1"], sleep=sleep, stall_s=0.3)
        service = FirmwareService(files=files, fetcher=fetcher, clock=Clock())
        bench = Bench(tmp_path, server, files, fetcher, service)
        running = asyncio.create_task(service.run(), name="firmware")
        yield bench
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await fetcher.aclose()
        await files.close()


async def test_a_file_is_fetched_checked_and_kept_under_its_name(bench: Bench) -> None:
    assert await bench.get(bench.wish()) == Fetched(SHA256, len(CONTENT))
    assert bench.kept() == CONTENT
    assert bench.names() == [SHA256]
    assert await bench.get(bench.wish()) == Fetched(SHA256, len(CONTENT))
    assert len(bench.server.requests) == 1


async def test_several_who_want_the_same_share_one_download(bench: Bench) -> None:
    wishes = [bench.start(bench.wish()) for _ in range(5)] + [bench.start(bench.wish("/other.bin"))]
    async with asyncio.timeout(WITHIN_S):
        results = await asyncio.gather(*wishes)
    assert set(results) == {Fetched(SHA256, len(CONTENT))}
    assert bench.server.requests == [("GET", "/fw.bin", None)]


async def test_where_one_address_fails_those_who_named_another_get_it_from_there(bench: Bench) -> None:
    first, second = bench.start(bench.wish("/none")), bench.start(bench.wish("/fw.bin"))
    async with asyncio.timeout(WITHIN_S):
        assert await first == "the server answers 404 Not Found"
        assert await second == Fetched(SHA256, len(CONTENT))


async def test_without_a_checksum_it_is_computed(bench: Bench) -> None:
    assert await bench.get(bench.wish(sha256=None, size=None)) == Fetched(SHA256, len(CONTENT))
    assert bench.kept() == CONTENT
    bench.server.length = False
    bench.server.files["/chunked"] = b""
    length = f"{len(CONTENT):x}".encode()
    bench.server.answers.append(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + length + b"\r\n" + CONTENT + b"\r\n0\r\n\r\n"
    )
    assert await bench.get(bench.wish("/chunked", sha256=None, size=None)) == Fetched(SHA256, len(CONTENT))


async def test_what_nobody_says_the_length_of_is_not_taken(bench: Bench) -> None:
    bench.server.length = False
    result = await bench.get(bench.wish(sha256=None, size=None))
    assert result == "nobody says how long it is: neither the order nor the server"
    assert await bench.get(bench.wish()) == Fetched(SHA256, len(CONTENT))


async def test_a_broken_connection_goes_on_where_it_was(bench: Bench) -> None:
    bench.server.cut_after = 700_000
    assert await bench.get(bench.wish(sha256=None)) == Fetched(SHA256, len(CONTENT))
    starts = [0 if asked is None else int(asked[6:-1]) for _, _, asked in bench.server.requests]
    assert len(starts) >= 3
    assert starts == sorted(set(starts))
    assert bench.server.heads[1]["if-range"] == '"v1"'
    assert max(bench.waited) <= LONGEST_WAIT_S


async def test_a_server_that_falls_silent_is_left_and_asked_again(bench: Bench) -> None:
    bench.server.stop_after = 1_200_000
    assert await bench.get(bench.wish()) == Fetched(SHA256, len(CONTENT))
    assert len(bench.server.requests) == 2


async def test_a_server_without_ranges_sends_all_of_it_again(bench: Bench) -> None:
    bench.server.ranges = False
    bench.server.cut_after = 1_200_000
    bench.on_wait = lambda: setattr(bench.server, "cut_after", None)
    assert await bench.get(bench.wish()) == Fetched(SHA256, len(CONTENT))
    assert len(bench.server.requests) == 2
    assert bench.kept() == CONTENT


@pytest.mark.parametrize("sha256", [SHA256, None])
async def test_a_file_that_changed_in_between_is_never_put_together_of_two(bench: Bench, sha256: str | None) -> None:
    bench.server.cut_after = 700_000
    bench.server.files["/fw.bin"] = OTHER

    def changed() -> None:
        bench.server.files["/fw.bin"] = CONTENT
        bench.server.etag = '"v2"'
        bench.server.cut_after = None

    bench.on_wait = changed
    assert await bench.get(bench.wish(sha256=sha256)) == Fetched(SHA256, len(CONTENT))
    assert bench.kept() == CONTENT


async def test_pieces_of_two_files_that_nothing_tells_apart_are_found_by_the_checksum(bench: Bench) -> None:
    bench.server.etag = None
    bench.server.cut_after = 700_000
    bench.server.files["/fw.bin"] = OTHER

    def changed() -> None:
        bench.server.files["/fw.bin"] = CONTENT
        bench.server.cut_after = None

    bench.on_wait = changed
    assert await bench.get(bench.wish()) == Fetched(SHA256, len(CONTENT))
    assert [asked for _, _, asked in bench.server.requests][-1] is None


async def test_without_checksum_and_validator_it_begins_anew(bench: Bench) -> None:
    bench.server.etag = None
    bench.server.cut_after = 700_000
    bench.on_wait = lambda: setattr(bench.server, "cut_after", None)
    assert await bench.get(bench.wish(sha256=None, size=None)) == Fetched(SHA256, len(CONTENT))
    assert [asked for _, _, asked in bench.server.requests] == [None, None]


async def test_it_gives_up_after_ten_tries_in_a_row_without_a_byte(bench: Bench) -> None:
    bench.server.answers = [b""] * 50
    result = await bench.get(bench.wish())
    assert str(result).startswith(f"given up after {MOST_TRIES} tries: the server breaks off")
    assert len(bench.server.requests) == MOST_TRIES
    assert all(0 <= wait <= LONGEST_WAIT_S for wait in bench.waited)
    assert bench.names() == []


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 425, 429])
async def test_what_may_pass_is_tried_again(bench: Bench, status: int) -> None:
    bench.server.answers = [f"HTTP/1.1 {status} No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n".encode()]
    assert await bench.get(bench.wish()) == Fetched(SHA256, len(CONTENT))
    assert bench.waited[0] >= 7


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 204, 304, 206, 416])
async def test_what_will_not_pass_is_final(bench: Bench, status: int) -> None:
    bench.server.answers = [f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()]
    assert str(await bench.get(bench.wish())).startswith(f"the server answers {status} ")
    assert len(bench.server.requests) == 1
    assert bench.names() == []


@pytest.mark.parametrize(
    ("path", "sha256", "size", "reason"),
    [
        ("/other.bin", SHA256, len(CONTENT), "its SHA-256 is not the one that was ordered"),
        ("/fw.bin", SHA256, 5, f"the server's file has {len(CONTENT)} bytes, 5 were ordered"),
        ("/fw.bin", None, len(CONTENT) + 1, f"the server's file has {len(CONTENT)} bytes, {len(CONTENT) + 1} were"),
        ("/huge", None, None, "the server's file has 3000001 bytes, 3000000 are allowed"),
    ],
)
async def test_another_file_than_was_ordered_is_not_kept(
    bench: Bench, path: str, sha256: str | None, size: int | None, reason: str
) -> None:
    bench.server.files["/huge"] = bytes(3_000_001)
    assert str(await bench.get(bench.wish(path, sha256=sha256, size=size))).startswith(reason)
    assert bench.names() == []
    assert len(bench.server.requests) == 1


async def test_a_body_without_an_end_is_cut_off(bench: Bench) -> None:
    bench.server.files["/huge"] = bytes(9_000_000)
    bench.server.length = False
    assert await bench.get(bench.wish("/huge", size=None)) == "it is longer than 3000000 bytes"
    assert await bench.get(bench.wish("/huge", size=1000)) == "it is longer than 1000 bytes"
    assert await bench.get(bench.wish("/fw.bin", sha256=None, size=2_500_000)) == (
        "it has 2000000 bytes, 2500000 were ordered"
    )
    assert bench.names() == []


async def test_what_is_compressed_is_not_taken(bench: Bench) -> None:
    bench.server.headers["Content-Encoding"] = "gzip"
    assert "compressed" in str(await bench.get(bench.wish()))
    assert bench.server.heads[0]["accept-encoding"] == "identity"


async def test_an_error_that_nobody_has_thought_of_ends_one_file_and_not_the_appliance(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(FirmwareFetcher, "_attempt", lambda *_: {}["unthought of"])
        assert "unexpected error" in str(await bench.get(bench.wish("/fw.bin?key=secret")))
    assert "unthought of" in caplog.text
    assert "key=secret" not in caplog.text
    assert await bench.get(bench.wish()) == Fetched(SHA256, len(CONTENT))


# --- where it may come from -----------------------------------------------------------------------------------


def redirect(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


async def test_a_redirect_is_followed(bench: Bench) -> None:
    bench.server.answers = [redirect("/fw.bin"), redirect(f"{bench.server.url}/fw.bin")]
    assert await bench.get(bench.wish("/old")) == Fetched(SHA256, len(CONTENT))


async def test_redirects_have_an_end(bench: Bench) -> None:
    bench.server.answers = [redirect("/again")] * 20
    assert await bench.get(bench.wish()) == "more than 5 redirects"
    assert len(bench.server.requests) == 6


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("file:///etc/shadow", "neither http nor https"),
        ("ftp://127.0.0.1/x", "neither http nor https"),
        ("http://169.254.169.254/latest/meta-data", "not among IIOT_FIRMWARE_HOSTS"),
        ("http://localhost/x", "not among IIOT_FIRMWARE_HOSTS"),
        ("http://127.0.0.1:65536/x", "an address that is none"),
        ("http://127.0.0.1:-1/x", "an address that is none"),
    ],
)
async def test_a_redirect_leads_nowhere_else_than_an_order_may(bench: Bench, to: str, reason: str) -> None:
    bench.server.answers = [redirect(to)]
    assert reason in str(await bench.get(bench.wish()))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.9.9.9",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "169.254.169.254",
        "[fe80::1]",
        "224.0.0.1",
        "2130706433",
        "0x7f.1",
    ],
)
async def test_nothing_is_fetched_from_this_box_or_its_link_unless_it_is_named(bench: Bench, host: str) -> None:
    fetcher = FirmwareFetcher(sleep=lambda _: asyncio.sleep(0))
    part = await bench.files.begin("x", resume=False)
    wish = Wish(url=f"http://{host}:{bench.server.port}/fw.bin", sha256=None, size=None)
    with pytest.raises(FirmwareError, match="is an address from which nothing is fetched"):
        await fetcher.fetch(wish, part)
    await fetcher.aclose()
    part.close()
    assert bench.server.requests == []


def test_a_factorys_own_network_is_allowed() -> None:
    for address in ("192.168.1.10", "10.0.0.1", "172.16.5.5", "fd00::1", "203.0.113.5"):
        _refuse_inner(address, "host")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-banner-of-an-inner-host\r\n",
        b"HTTP/1.1 200 OK\r\nbanner of an inner host\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://banner:inner/\r\n\r\n",
    ],
)
async def test_nothing_of_what_else_listens_somewhere_is_told(
    bench: Bench, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    bench.server.answers = [answer] * MOST_TRIES
    result = str(await bench.get(bench.wish()))
    assert "RemoteProtocolError" in result
    assert "banner" not in result + caplog.text
    assert "inner" not in result + caplog.text


@pytest.mark.parametrize("proxies", [{}, {"no": "odoo.lan"}])
async def test_the_peer_is_looked_at_too_for_a_name_may_change_its_mind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str]
) -> None:
    fetcher = FirmwareFetcher(sleep=lambda _: asyncio.sleep(0))

    async def harmless(*_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", ("192.0.2.1", 80))]

    loop = asyncio.get_running_loop()
    part = await bench.files.begin("x", resume=False)
    with monkeypatch.context() as patch:
        patch.setattr("appliance.uplink.firmware.getproxies", lambda: proxies)
        looked_up = loop.getaddrinfo
        patch.setattr(
            loop,
            "getaddrinfo",
            lambda host, *rest, **named: harmless() if not named else looked_up(host, *rest, **named),
        )
        wish = Wish(url=f"http://localhost:{bench.server.port}/fw.bin", sha256=None, size=None)
        with pytest.raises(FirmwareError, match="nothing is fetched"):
            await fetcher.fetch(wish, part)
    assert part.size == 0
    await fetcher.aclose()
    part.close()


async def test_a_name_that_cannot_be_one_fails_and_harms_nothing(bench: Bench) -> None:
    fetcher = FirmwareFetcher(sleep=lambda _: asyncio.sleep(0))
    part = await bench.files.begin("x", resume=False)
    for host in ("a" * 64 + ".example", "x..y", "."):
        with pytest.raises(FirmwareError):
            await fetcher.fetch(Wish(url=f"http://{host}/fw", sha256=None, size=None), part)
    part.close()
    await fetcher.aclose()


async def test_odoos_key_goes_to_odoos_own_origin_alone(bench: Bench) -> None:
    odoo = f"http://127.0.0.2:{bench.server.port}"
    server = await asyncio.start_server(bench.server._accept, "127.0.0.2", bench.server.port)
    async with server:
        # by the order itself, by a path of Odoo's, by a redirect from elsewhere, and from there to elsewhere
        for url in (f"{odoo}/fw.bin", "/fw.bin"):
            result = await bench.get(Wish(url=url, sha256=None, size=None))
            assert result == Fetched(SHA256, len(CONTENT))
            head = bench.server.heads[-1]
            assert (head["authorization"], head["x-odoo-database"]) == (f"Bearer {KEY}", "production")
        bench.server.answers = [redirect(f"{odoo}/fw.bin")]
        await bench.get(bench.wish("/from-elsewhere", sha256=None))
        assert all("authorization" not in head for head in bench.server.heads[-2:])
        bench.server.answers = [redirect(f"{bench.server.url}/fw.bin")]
        await bench.get(Wish(url="/to-elsewhere", sha256=None, size=None))
        assert "authorization" in bench.server.heads[-2]
        assert "authorization" not in bench.server.heads[-1]
        bench.server.answers = [redirect(f"{odoo.replace('http:', 'https:')}/fw.bin")]
        assert "authorization" not in bench.server.heads[-1]


async def test_an_address_of_odoos_needs_an_odoo(bench: Bench) -> None:
    fetcher = FirmwareFetcher()
    part = await bench.files.begin("x", resume=False)
    with pytest.raises(FirmwareError, match="ODOO_BASE_URL"):
        await fetcher.fetch(Wish(url="/iiot/firmware/1/file", sha256=None, size=None), part)
    part.close()


async def test_no_error_repeats_what_may_be_secret_in_an_address(bench: Bench) -> None:
    wish = bench.wish("/none?signature=hidden-secret")
    assert "hidden-secret" not in str(await bench.get(wish))
    assert "hidden-secret" not in repr(wish)
    bench.server.answers = [b""] * 20
    assert "hidden-secret" not in str(await bench.get(wish))


# --- whoever needs it no more -----------------------------------------------------------------------------------


async def test_a_download_that_nobody_wants_any_more_ends_and_leaves_nothing(bench: Bench) -> None:
    bench.server.stop_after = 1_200_000
    bench.start(bench.wish())
    async with asyncio.timeout(WITHIN_S):
        while not bench.server.requests:
            await asyncio.sleep(0.005)
        bench.service.drop(1)
        while bench.names() or bench.service._jobs:
            await asyncio.sleep(0.005)
    assert bench.files.total_bytes == 0
    bench.server.stop_after = None
    assert await bench.get(bench.wish()) == Fetched(SHA256, len(CONTENT))


async def test_one_who_hangs_does_not_hold_up_the_others(bench: Bench) -> None:
    bench.server.files |= {f"/{number}": bytes([number]) * 100 for number in range(10)}
    bench.server.answers = [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"]
    hanging = asyncio.Event()

    async def sleep(_: float) -> None:
        await hanging.wait()

    bench.fetcher._sleep = sleep
    first = bench.start(bench.wish())
    while not bench.server.requests:
        await asyncio.sleep(0)
    results = [await bench.get(bench.wish(f"/{number}", sha256=None, size=100)) for number in range(10)]
    assert all(isinstance(result, Fetched) for result in results)
    assert not first.done()
    hanging.set()
    async with asyncio.timeout(WITHIN_S):
        assert await first == Fetched(SHA256, len(CONTENT))
