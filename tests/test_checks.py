"""What the checks of the machine find, without an appliance that runs."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance import certificates
from appliance.cli.box import is_in_use, local_address
from appliance.cli.checks import CHECKS, Result, Surroundings, Verdict, clock, disk_speed, dns, make_checks, service
from appliance.cli.checks.base import Check, Finding
from appliance.cli.checks.disk_speed import DiskSpeedCheck
from appliance.cli.checks.dns import DnsCheck
from appliance.cli.checks.permissions import PermissionsCheck
from appliance.cli.checks.service import ServiceCheck
from appliance.cli.exits import Exit, printable
from appliance.cli.output import cell, duration, size
from appliance.contract.times import Clock
from appliance.settings import Findings, Settings, read
from appliance.store.folder import DataFolder
from tests.conftest import ROOT

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
    """What ``check-config`` would say: problems with their status, and cautions."""
    box = Surroundings(Findings(settings, [], [], []), clock=clock or FixedClock())
    return [
        (finding.status if finding.verdict is Verdict.failed else None, finding.reason)
        for result in make_checks(box, before_start=True)
        for finding in result.findings
        if finding.verdict in (Verdict.failed, Verdict.warning)
    ]


def made(check: type[Check], settings: Settings, env_file: Path | None = None) -> Result:
    return check().run(Surroundings(Findings(settings, [], [], []), env_file=env_file, clock=FixedClock()))


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
        ((status, text),) = found(Settings())
        assert (status, "does not speak TLS" in text or "does not answer" in text) == (Exit.ADDRESS, True)
        monkeypatch.setenv("HTTP_USE_TLS", "False")
        assert found(Settings()) == []
        taken.close()
        ((status, text),) = found(Settings())
        assert (status, "does not answer" in text) == (Exit.ADDRESS, True)
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
    monkeypatch.setattr(clock, "LATEST", timedelta(days=40 * 365))
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
    if earlier > RELEASED - clock.TOLERANCE:
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


def test_secrets_that_others_may_read_are_told_with_the_command_that_mends_it(
    certified: Settings, tmp_path: Path
) -> None:
    folder = certified.iiot_data_dir
    folder.chmod(0o700)
    for name in ("master.key", "api_key"):
        (folder / name).write_bytes(bytes(32))
        (folder / name).chmod(0o600)
    env_file = tmp_path / "appliance.env"
    env_file.write_text("IIOT_API_KEY=0123456789abcdef")
    env_file.chmod(0o640)
    assert made(PermissionsCheck, certified, env_file).verdict is Verdict.ok
    for path in (folder / "api_key", folder / "tls" / "authority.pem", folder, env_file):
        before = path.stat().st_mode
        path.chmod(before | 0o044)
        (finding,) = made(PermissionsCheck, certified, env_file).findings
        assert (finding.verdict, str(path) in finding.reason) == (Verdict.failed, True)
        assert finding.remedy.startswith("chmod")
        subprocess.run(shlex.split(finding.remedy), check=True)
        assert made(PermissionsCheck, certified, env_file).verdict is Verdict.ok


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a file somebody else's")
def test_a_file_that_is_somebody_elses_is_told_with_the_command_that_mends_it(certified: Settings) -> None:
    folder = certified.iiot_data_dir
    folder.chmod(0o700)
    os.chown(folder / "tls" / "server.pem", 65534, 65534)
    (finding,) = made(PermissionsCheck, certified).findings
    assert (finding.verdict, "another user" in finding.reason) == (Verdict.warning, True)
    subprocess.run(shlex.split(finding.remedy), check=True)
    assert made(PermissionsCheck, certified).verdict is Verdict.ok


def test_a_disk_is_measured_and_one_that_is_slow_or_fails_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made(DiskSpeedCheck, settings).verdict is Verdict.skipped
    settings.iiot_data_dir.mkdir()
    measured = made(DiskSpeedCheck, settings)
    assert "a sync takes" in measured.findings[0].reason
    assert list(settings.iiot_data_dir.iterdir()) == []
    sync = os.fdatasync
    ticks = itertools.count(0, 0.2)
    with monkeypatch.context() as patched:
        patched.setattr(disk_speed.time, "monotonic", lambda: next(ticks))
        slow = made(DiskSpeedCheck, settings)
        assert (slow.verdict, "200.0 ms" in slow.findings[0].reason) == (Verdict.warning, True)

    def fails(descriptor: int) -> None:
        sync(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    assert made(DiskSpeedCheck, settings).verdict is Verdict.failed


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_disk_without_room_for_more_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m,nr_inodes=500", "none", disk], check=True)
    try:
        monkeypatch.setenv("IIOT_DATA_DIR", str(disk / "data"))
        monkeypatch.setenv("IIOT_BUFFER_QUOTA_MB", "16")
        ((status, text),) = [each for each in found(Settings()) if "more files" in each[1]]
        assert status is Exit.FAILED
        assert re.search(r"room for 49\d more files", text)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_name_that_leads_nowhere_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made(DnsCheck, settings).verdict is Verdict.skipped
    monkeypatch.setenv("ODOO_API_KEY", "0123456789abcdef")
    for url, verdict in (
        ("https://192.0.2.1", Verdict.ok),
        ("https://localhost", Verdict.ok),
        ("https://nobody.invalid", Verdict.failed),
    ):
        monkeypatch.setenv("ODOO_BASE_URL", url)
        assert made(DnsCheck, Settings()).verdict is verdict, url


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def silent(*_: object, **__: object) -> list[object]:
        never.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    assert "does not answer" in dns.resolve("odoo.example.com", 0.05)
    never.set()


def systemctl(folder: Path, says: str) -> Path:
    """A program of this name that says so."""
    path = folder / "systemctl"
    path.write_text(f"#!/bin/sh\ncat <<'EOT'\n{says}\nEOT\n")
    path.chmod(0o755)
    return folder


RUNNING = "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nNRestarts=0\nUnitFileState=enabled"


@pytest.mark.parametrize(
    ("says", "verdict", "words"),
    [
        (RUNNING, Verdict.ok, "active"),
        (RUNNING.replace("=active", "=failed").replace("=success", "=exit-code"), Verdict.failed, "exit-code"),
        (RUNNING.replace("=active", "=activating"), Verdict.failed, "activating"),
        (RUNNING.replace("NRestarts=0", "NRestarts=17"), Verdict.warning, "17 times"),
        (RUNNING.replace("=enabled", "=disabled"), Verdict.warning, "with the machine"),
        (RUNNING.replace("=loaded", "=not-found"), Verdict.skipped, "not installed"),
        ("", Verdict.skipped, "not installed"),
    ],
)
def test_the_service_is_judged_by_what_systemd_says(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, verdict: Verdict, words: str
) -> None:
    monkeypatch.setenv("PATH", str(systemctl(tmp_path, says)), prepend=os.pathsep)
    monkeypatch.setattr(service, "BOOTED", tmp_path)
    (finding,) = made(ServiceCheck, settings).findings
    assert (finding.verdict, words in finding.reason) == (verdict, True)
    assert bool(finding.remedy) == (verdict in (Verdict.failed, Verdict.warning))


def test_a_machine_without_systemd_is_no_failure(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BOOTED", tmp_path / "nothing")
    assert made(ServiceCheck, settings).verdict is Verdict.skipped


def test_where_the_settings_cannot_be_used_the_rest_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    results = list(make_checks(Surroundings(read())))
    assert [result.verdict for result in results] == [Verdict.failed, *[Verdict.skipped] * (len(CHECKS) - 1)]
    assert results[0].findings[0].remedy


def test_a_check_that_breaks_says_so_and_the_others_go_on(settings: Settings) -> None:
    class Broken(Check):
        name, title = "broken", "Broken"

        def look(self, box: Surroundings) -> Iterator[Finding]:
            raise RuntimeError("of no use")

    result = made(Broken, settings)
    assert (result.verdict, "of no use" in result.findings[0].reason) == (Verdict.failed, True)


def test_the_readme_lists_every_check() -> None:
    table = (ROOT / "README.md").read_text().split("| check | fails or warns when |\n")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \| \w", table, re.MULTILINE) == [check.name for check in CHECKS]


def test_each_check_is_in_a_module_of_its_own_and_has_a_name_of_its_own() -> None:
    assert len({check.__module__ for check in CHECKS}) == len({check.name for check in CHECKS}) == len(CHECKS)
    there = {path.stem for path in Path(service.__file__).parent.glob("*.py")} - {"__init__", "base", "surroundings"}
    assert {check.__module__.rpartition(".")[2] for check in CHECKS} == there


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
