"""A device's download against a small file server: what it resumes, what it repeats, when it gives up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from appliance import certificates
from firmware_sim.download import Download, DownloadError
from firmware_sim.habits import Patience
from tests.firmware_sim.file_server import FileServer, file_server

CONTENT = Random(7).randbytes(300_000)
QUICK = Patience(read_s=5, longest_pause_s=0.02, give_up_s=0.2)


def download(server: FileServer, path: Path, **changed: Any) -> Download:
    options: dict[str, Any] = {
        "url": server.url,
        "path": path,
        "size": len(CONTENT),
        "ca_pem": None,
        "random": Random(1),
        "progress": lambda have: None,
        "patience": QUICK,
    }
    return Download(**options | changed)


async def test_a_file_comes_whole_and_its_progress_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    async with file_server(CONTENT) as server:
        await download(server, tmp_path / "part", progress=told.append).run()
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)
    assert server.ranges == [0]


async def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async with file_server(CONTENT) as server:
        server.cut_after = 70_000
        await download(server, tmp_path / "part").run()
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.ranges == [0, 70_000, 140_000, 210_000, 280_000]


async def test_what_an_earlier_run_has_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT[:123_456])
    async with file_server(CONTENT) as server:
        await download(server, tmp_path / "part").run()
        assert server.ranges == [123_456]
        await download(server, tmp_path / "part").run()
        assert server.ranges == [123_456], "a complete file was asked for"
    assert (tmp_path / "part").read_bytes() == CONTENT


async def test_a_server_without_ranges_is_read_from_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT[:1000])
    async with file_server(CONTENT) as server:
        server.honours_range = False
        await download(server, tmp_path / "part").run()
    assert (tmp_path / "part").read_bytes() == CONTENT


async def test_passing_failures_are_waited_out(tmp_path: Path) -> None:
    async with file_server(CONTENT) as server:
        server.statuses = [(503, ""), (429, "Retry-After: 0\r\n"), (500, "")]
        await download(server, tmp_path / "part", patience=Patience(longest_pause_s=0.02)).run()
        assert len(server.ranges) == 4


async def test_retry_after_is_a_floor(tmp_path: Path) -> None:
    async with file_server(CONTENT) as server:
        server.statuses = [(503, "Retry-After: 1\r\n")]
        began = asyncio.get_running_loop().time()
        await download(server, tmp_path / "part").run()
        assert asyncio.get_running_loop().time() - began >= 1


@pytest.mark.parametrize("status", [403, 404, 410, 302])
async def test_a_link_that_leads_nowhere_is_final(tmp_path: Path, status: int) -> None:
    async with file_server(CONTENT) as server:
        server.statuses = [(status, "")]
        with pytest.raises(DownloadError, match=str(status)):
            await download(server, tmp_path / "part").run()
        assert len(server.ranges) == 1


async def test_a_part_that_the_server_does_not_know_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x" * 1000)
    async with file_server(CONTENT) as server:
        server.statuses = [(416, "")]
        await download(server, tmp_path / "part").run()
    assert (tmp_path / "part").read_bytes() == CONTENT


async def test_a_file_that_is_longer_than_offered_is_not_taken(tmp_path: Path) -> None:
    async with file_server(CONTENT) as server:
        with pytest.raises(DownloadError, match="longer"):
            await download(server, tmp_path / "part", size=len(CONTENT) - 1).run()


async def test_a_server_that_never_gives_anything_is_given_up(tmp_path: Path) -> None:
    async with file_server(CONTENT) as server:
        server.statuses = [(503, "")] * 10_000
        with pytest.raises(DownloadError, match="no progress"):
            await download(server, tmp_path / "part").run()
        assert len(server.ranges) > 3


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "http://[", "nonsense", "http://"])
async def test_an_address_that_is_none_is_final(tmp_path: Path, url: str) -> None:
    async with file_server(CONTENT) as server:
        with pytest.raises(DownloadError):
            await download(server, tmp_path / "part", url=url).run()


async def test_tls_is_checked_with_the_authority_of_the_appliance(tmp_path: Path) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # the server's failed handshakes
    ours = certificates.ensure(tmp_path / "ours", ["127.0.0.1"])
    theirs = certificates.ensure(tmp_path / "theirs", ["127.0.0.1"])
    async with file_server(CONTENT, ours.server_context()) as server:
        await download(server, tmp_path / "part", ca_pem=ours.ca_pem).run()
        assert (tmp_path / "part").read_bytes() == CONTENT
        with pytest.raises(DownloadError, match="no authority"):
            await download(server, tmp_path / "other").run()
        with pytest.raises(DownloadError, match="no progress"):
            await download(server, tmp_path / "other", ca_pem=theirs.ca_pem).run()
        assert len(server.ranges) == 1
