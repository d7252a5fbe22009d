"""What ``check-config`` finds on a machine without starting anything."""

from __future__ import annotations

import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance import certificates
from appliance.cli import checks
from appliance.cli.box import is_in_use, local_address
from appliance.cli.exits import Exit, printable
from appliance.cli.output import cell, duration, size
from appliance.contract.times import Clock
from appliance.settings import Settings
from appliance.store.folder import DataFolder

RELEASED = certificates.BUILD_DATE


class FixedClock(Clock):
    def __init__(self, now: datetime = RELEASED) -> None:
        self.now = now

    def now_ms(self) -> int:
        return int(self.now.timestamp() * 1000)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("IIOT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MQTT_BROKER_PORT", "0")
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, 1 << 40))
    return Settings()


def found(settings: Settings, clock: Clock | None = None) -> list[tuple[Exit | None, str]]:
    return [(finding.status, finding.text) for finding in checks.offline(settings, clock or FixedClock())]


def test_a_machine_on_which_nothing_was_started_yet_is_in_order_and_left_alone(settings: Settings) -> None:
    assert found(settings) == []
    assert not settings.iiot_data_dir.exists()


def test_a_data_folder_that_is_a_file_or_holds_a_damaged_key_is_an_error(settings: Settings) -> None:
    folder = settings.iiot_data_dir
    folder.write_text("no folder")
    ((status, text),) = found(settings)
    assert (status, str(folder) in text) == (Exit.DATA_FOLDER, True)
    folder.unlink()
    folder.mkdir()
    (folder / "master.key").write_bytes(b"short")
    ((status, text),) = found(settings)
    assert (status, "master.key" in text) == (Exit.DATA_FOLDER, True)


def test_a_port_of_another_program_is_an_error_and_the_running_appliance_s_own_is_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("HOST", "127.0.0.1")
        monkeypatch.setenv("PORT", str(taken.getsockname()[1]))
        ((status, text),) = found(Settings())
        assert (status, text.startswith("PORT: port")) == (Exit.ADDRESS, True)
        folder = DataFolder(settings.iiot_data_dir, ballast_bytes=0)
        folder.lock()
        assert is_in_use(settings.iiot_data_dir)
        assert found(Settings()) == []
        folder.unlock()
        assert not is_in_use(settings.iiot_data_dir)


def test_an_address_that_this_machine_does_not_have_is_an_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "192.0.2.1")
    monkeypatch.setenv("PORT", "8000")
    ((status, text),) = found(Settings())
    assert (status, "192.0.2.1" in text) == (Exit.ADDRESS, True)


@pytest.fixture
def certified(settings: Settings) -> Settings:
    certificates.ensure(settings.iiot_data_dir / "tls", ["localhost"])
    return settings


def test_certificates_that_end_are_told_in_time(certified: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LATEST", timedelta(days=40 * 365))
    assert found(certified) == []
    end = RELEASED.replace(year=RELEASED.year + certificates.VALID_YEARS)
    soon = found(certified, FixedClock(end - timedelta(days=30)))
    assert [status for status, _ in soon] == [None, None]
    over = found(certified, FixedClock(end + timedelta(days=1)))
    assert [status for status, _ in over] == [Exit.DATA_FOLDER, Exit.DATA_FOLDER]
    (certified.iiot_data_dir / "tls" / "server.pem").write_text("damaged")
    ((status, text),) = found(certified)
    assert (status, "server.pem" in text) == (Exit.DATA_FOLDER, True)


@pytest.mark.parametrize("now", [datetime(1970, 1, 2, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)])
def test_a_clock_that_cannot_be_right_is_an_error(settings: Settings, now: datetime) -> None:
    ((status, text),) = found(settings, FixedClock(now))
    assert (status, f"{now:%Y-%m-%d}" in text) == (Exit.FAILED, True)


def test_a_clock_that_went_back_behind_the_buffer_is_an_error(settings: Settings) -> None:
    settings.iiot_data_dir.mkdir()
    database = settings.iiot_data_dir / "appliance.db"
    database.touch()
    written = datetime.fromtimestamp(database.stat().st_mtime, UTC)
    assert found(settings, FixedClock(max(written, RELEASED))) == []
    earlier = written - timedelta(days=3)
    if earlier > RELEASED - checks.TOLERANCE:
        assert [status for status, _ in found(settings, FixedClock(earlier))] == [Exit.FAILED]
    else:
        assert Exit.FAILED in [status for status, _ in found(settings, FixedClock(earlier))]


def test_a_disk_that_is_too_small_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, 1 << 30))
    ((status, text),) = found(settings)
    assert (status, "IIOT_BUFFER_QUOTA_MB" in text) == (None, True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, 1 << 20))
    ((status, text),) = found(settings)
    assert (status, "1 MiB" in text) == (Exit.DATA_FOLDER, True)


@pytest.mark.parametrize(
    ("bound", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("192.0.2.7", "192.0.2.7"), ("fe80::1", "[fe80::1]")],
)
def test_a_listener_is_reached_over_the_loopback_interface_where_it_listens_everywhere(
    bound: str, reached: str
) -> None:
    assert local_address(bound) == reached


def test_figures_are_short_and_text_is_harmless() -> None:
    assert [size(count) for count in (0, 1023, 1536, 3 << 30, None)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "3.0 GiB",
        "-",
    ]
    assert [duration(s) for s in (0, 59.9, 61, 90_061, None)] == ["0 s", "59 s", "1 min 1 s", "1 d 1 h", "-"]
    assert [cell(value) for value in (None, "", True, 1, "a\x1b[31m", {"n": 1})] == [
        "-",
        "-",
        "yes",
        "1",
        "a\ufffd[31m",
        '{"n":1}',
    ]
    assert printable("Grüße 你好") == "Grüße 你好"
