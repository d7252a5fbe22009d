"""Firmware files on disk: quota, what must stay, what a kill leaves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.errors import FirmwareError
from appliance.store.firmware import FirmwareFiles

MIB = 1 << 20


def name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def opened(folder: Path, *, quota: int = 10 * MIB, keep_free: int = 0) -> FirmwareFiles:
    files = FirmwareFiles(folder, quota_bytes=quota, most_bytes=8 * MIB, keep_free_bytes=keep_free)
    await files.load()
    return files


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[FirmwareFiles]:
    files = await opened(tmp_path / "firmware")
    yield files
    await files.close()


async def keep(files: FirmwareFiles, content: bytes, *, needed: set[str] | None = None) -> str:
    part = await files.begin(name(content), resume=False)
    part.needed = lambda: needed or set()
    try:
        await part.write(content)
        return await part.finish()
    finally:
        part.close()


async def test_the_file_that_was_not_used_for_longest_makes_room(files: FirmwareFiles, tmp_path: Path) -> None:
    first, second, third = [await keep(files, bytes([number]) * (3 * MIB)) for number in range(3)]
    await files.use(first)
    fourth = await keep(files, b"4" * (3 * MIB))
    assert [files.size(each) is not None for each in (first, second, third, fourth)] == [True, False, True, True]
    assert sorted(path.name for path in (tmp_path / "firmware").iterdir()) == sorted([first, third, fourth])
    assert files.total_bytes == 9 * MIB


async def test_the_order_of_use_is_known_after_a_restart(files: FirmwareFiles, tmp_path: Path) -> None:
    first, second = await keep(files, b"1" * MIB), await keep(files, b"2" * MIB)
    os.utime(tmp_path / "firmware" / first, (5, 5))
    os.utime(tmp_path / "firmware" / second, (4, 4))
    await files.use(second)
    again = await opened(tmp_path / "firmware")
    assert list(again._sizes) == [first, second]
    await again.close()


async def test_what_is_needed_never_goes_and_then_there_is_no_room(files: FirmwareFiles) -> None:
    needed = {await keep(files, bytes([number]) * (3 * MIB)) for number in range(3)}
    with pytest.raises(FirmwareError, match="IIOT_FIRMWARE_QUOTA_MB"):
        await keep(files, b"x" * (3 * MIB), needed=needed)
    assert all(files.size(sha256) for sha256 in needed)
    await files.abandon(name(b"x" * (3 * MIB)))
    assert files.total_bytes == 9 * MIB


async def test_what_is_under_way_counts_too(files: FirmwareFiles) -> None:
    first = await files.begin("first", resume=False)
    await first.reserve(6 * MIB)
    second = await files.begin("second", resume=False)
    with pytest.raises(FirmwareError, match="no room"):
        await second.reserve(5 * MIB)
    await second.reserve(4 * MIB)
    await files.abandon("first")
    await second.reserve(8 * MIB)
    first.close()
    second.close()


async def test_a_disk_that_is_nearly_full_takes_no_firmware(tmp_path: Path) -> None:
    files = await opened(tmp_path / "firmware", keep_free=1 << 62)
    with pytest.raises(FirmwareError, match="the disk is nearly full"):
        await keep(files, b"x")
    await files.close()


async def test_a_part_goes_on_after_a_restart_and_whole_files_are_whole(files: FirmwareFiles, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    part = await files.begin(name(content), resume=True)
    await part.write(content[:MIB])
    part.close()  # and killed
    again = await opened(tmp_path / "firmware")
    assert again.size(name(content)) is None
    assert again.total_bytes == MIB
    part = await again.begin(name(content), resume=True)
    assert (part.size, part.resumed) == (MIB, True)
    await part.write(content[MIB:])
    assert await part.finish() == name(content)
    part.close()
    assert (tmp_path / "firmware" / name(content)).read_bytes() == content
    await again.close()


async def test_a_part_that_nobody_goes_on_with_is_removed(files: FirmwareFiles, tmp_path: Path) -> None:
    for each in ("old", "wanted"):
        part = await files.begin(each, resume=False)
        await part.write(b"x" * 1000)
        part.close()
    again = await opened(tmp_path / "firmware")
    await again.clean(["wanted"])
    assert [path.name for path in (tmp_path / "firmware").iterdir()] == ["wanted.part"]
    assert again.total_bytes == 1000
    await again.close()


async def test_a_folder_that_cannot_be_used_fails_the_update_and_not_the_start(tmp_path: Path) -> None:
    (tmp_path / "firmware").write_text("in the way")
    files = await opened(tmp_path / "firmware")
    with pytest.raises(FirmwareError, match="cannot be kept"):
        await files.begin("x", resume=False)
    await files.close()


async def test_a_write_that_fails_is_told(files: FirmwareFiles) -> None:
    part = await files.begin("x", resume=False)
    os.close(part._descriptor)
    with pytest.raises(FirmwareError, match="cannot be written"):
        await part.write(b"x")
    part._descriptor = -1


async def test_what_was_promised_before_the_disk_became_full_is_not_written(
    files: FirmwareFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files._keep_free_bytes = 20 * MIB
    free = 30 * MIB
    monkeypatch.setattr("appliance.store.firmware.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    first, second = [await files.begin(each, resume=False) for each in ("first", "second")]
    await first.reserve(5 * MIB)
    await second.reserve(5 * MIB)
    await first.write(bytes(MIB))
    free = 20 * MIB  # readings have come, or another file
    for part in (first, second):
        before = part.size
        with pytest.raises(FirmwareError, match="the disk is nearly full"):
            await part.write(bytes(MIB))
        assert part.size == before
        part.close()
