"""What the checks find of Odoo and of the buffer: against the stand-in, servers that are no Odoo, and real files."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from appliance.cli.checks import Result, Surroundings, Verdict
from appliance.cli.checks.backlog import BacklogCheck
from appliance.cli.checks.base import Check
from appliance.cli.checks.contract import ContractCheck
from appliance.cli.checks.database import DatabaseCheck
from appliance.cli.checks.health import HealthCheck
from appliance.cli.checks.odoo import OdooCheck
from appliance.cli.checks.odoo_clock import OdooClockCheck
from appliance.cli.checks.parked import ParkedCheck
from appliance.contract.odoo import Kind
from appliance.contract.times import Clock
from appliance.settings import Findings, Settings
from appliance.store import parked as parked_store
from appliance.store.buffer import Buffer, Rejection
from appliance.store.database import Database
from appliance.store.folder import DataFolder
from tests.firmware_sim.stand_in import API_KEY, stand_in


@pytest.fixture(scope="module")
def odoo() -> Iterator[dict[str, str]]:
    with stand_in() as addresses:
        yield addresses


class ShiftedClock(Clock):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now_ms(self) -> int:
        return super().now_ms() + round(self.seconds * 1000)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("IIOT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PORT", "0")
    return Settings()


@pytest.fixture
def linked(settings: Settings, odoo: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ODOO_BASE_URL", odoo["url"])
    monkeypatch.setenv("ODOO_API_KEY", API_KEY)
    return Settings()


def made(check: type[Check], settings: Settings, clock: Clock | None = None) -> Result:
    return check().run(Surroundings(Findings(settings, [], [], []), clock=clock))


@contextmanager
def answering(body: bytes, status: int = 200, media_type: str = "text/html") -> Iterator[str]:
    """Something that answers everything alike, and is no Odoo."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_an_odoo_that_answers_and_knows_the_key_is_well(linked: Settings) -> None:
    for check in (OdooCheck, OdooClockCheck, ContractCheck):
        result = made(check, linked)
        assert result.verdict is Verdict.ok, result


def test_without_an_odoo_nothing_is_asked(settings: Settings) -> None:
    for check in (OdooCheck, OdooClockCheck, ContractCheck):
        assert made(check, settings).verdict is Verdict.skipped


def test_a_wrong_key_is_told(linked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODOO_API_KEY", "a-key-that-is-wrong")
    (finding,) = made(OdooCheck, Settings()).findings
    assert (finding.verdict, "enrol" in finding.remedy) == (Verdict.failed, True)
    assert made(ContractCheck, Settings()).verdict is Verdict.skipped


def test_an_odoo_that_is_away_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ODOO_BASE_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("ODOO_API_KEY", API_KEY)
        (finding,) = made(OdooCheck, Settings()).findings
        assert (finding.verdict, "does not answer" in finding.reason) == (Verdict.failed, True)
        assert made(OdooClockCheck, Settings()).verdict is Verdict.skipped


@pytest.mark.parametrize(
    ("body", "status", "of_odoo", "of_contract"),
    [
        (b'{"results": []}', 200, Verdict.failed, Verdict.skipped),
        (b"<h1>It works!</h1>", 200, Verdict.failed, Verdict.failed),
        (b"<h1>no such page</h1>", 404, Verdict.failed, Verdict.skipped),
        (b'{"code": "unsupported_contract", "detail": "version 2 only"}', 422, Verdict.ok, Verdict.failed),
    ],
)
def test_what_is_no_odoo_with_the_add_on_or_another_version_of_it_is_told(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    body: bytes,
    status: int,
    of_odoo: Verdict,
    of_contract: Verdict,
) -> None:
    with answering(body, status) as url:
        monkeypatch.setenv("ODOO_BASE_URL", url)
        monkeypatch.setenv("ODOO_API_KEY", API_KEY)
        assert made(OdooCheck, Settings()).verdict is of_odoo
        assert made(ContractCheck, Settings()).verdict is of_contract


@pytest.mark.parametrize(
    ("seconds", "verdict", "word"),
    [
        (0, Verdict.ok, "agree"),
        (60, Verdict.warning, "behind"),
        (-60, Verdict.warning, "ahead of"),
        (-900, Verdict.failed, "ahead of"),
    ],
)
def test_a_clock_that_differs_from_odoos_is_told(linked: Settings, seconds: float, verdict: Verdict, word: str) -> None:
    (finding,) = made(OdooClockCheck, linked, ShiftedClock(seconds)).findings
    assert (finding.verdict, word in finding.reason) == (verdict, True), finding
    assert formatdate(usegmt=True).endswith("GMT")


async def fill(settings: Settings, count: int, *, parked: int = 0, clock: Clock | None = None) -> None:
    database = await Database.open(settings.iiot_data_dir, clock=clock or Clock())
    buffer = Buffer(database)
    await buffer.load()
    for _ in range(count):
        buffer.append("press", Kind.TELEMETRY, b"{}", received_at_ms=database.clock.now_ms())
    await database.run(lambda connection: None)
    if parked:
        taken = await buffer.take(limit=parked)
        await buffer.settle([], [Rejection(message.seq, "unknown_device", "nobody") for message in taken.messages])
    await database.close()


def test_messages_that_have_waited_long_are_told(linked: Settings) -> None:
    assert made(BacklogCheck, linked).verdict is Verdict.skipped
    asyncio.run(fill(linked, 0))
    assert made(BacklogCheck, linked).verdict is Verdict.ok
    asyncio.run(fill(linked, 3))
    for seconds, verdict in ((0, Verdict.ok), (3600, Verdict.warning), (2 * 86_400, Verdict.failed)):
        (finding,) = made(BacklogCheck, linked, ShiftedClock(seconds)).findings
        assert (finding.verdict, finding.reason.startswith("3 messages wait")) == (verdict, True)


def test_messages_that_wait_where_no_odoo_is_known_are_told_at_once(settings: Settings) -> None:
    asyncio.run(fill(settings, 2))
    (finding,) = made(BacklogCheck, settings).findings
    assert (finding.verdict, "enroll" in finding.remedy) == (Verdict.warning, True)


def test_dead_letters_are_told_by_their_reason_and_a_list_that_is_nearly_full_is_a_failure(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made(ParkedCheck, settings).verdict is Verdict.skipped
    asyncio.run(fill(settings, 5, parked=2))
    (finding,) = made(ParkedCheck, settings).findings
    assert (finding.verdict, "2 unknown_device" in finding.reason) == (Verdict.warning, True)
    monkeypatch.setattr(parked_store, "MOST_PARKED", 2)
    assert made(ParkedCheck, settings).verdict is Verdict.failed


def test_a_damaged_buffer_is_told_and_a_whole_one_too(settings: Settings) -> None:
    assert made(DatabaseCheck, settings).verdict is Verdict.skipped
    asyncio.run(fill(settings, 2000))
    assert made(DatabaseCheck, settings).verdict is Verdict.ok
    path = settings.iiot_data_dir / "appliance.db"
    (settings.iiot_data_dir / "sync-failed").touch()
    assert made(DatabaseCheck, settings).verdict is Verdict.failed
    (settings.iiot_data_dir / "sync-failed").unlink()
    content = bytearray(path.read_bytes())
    content[-40_960:] = b"\xff" * 40_960
    path.write_bytes(content)
    (finding,) = made(DatabaseCheck, settings).findings
    assert (finding.verdict, "damaged" in finding.reason, "restore" in finding.remedy) == (Verdict.failed, True, True)
    path.write_bytes(b"no database" * 1000)
    assert made(DatabaseCheck, settings).verdict is Verdict.failed


def test_an_appliance_that_holds_the_folder_and_does_not_answer_is_told(settings: Settings) -> None:
    assert made(HealthCheck, settings).verdict is Verdict.skipped
    folder = DataFolder(settings.iiot_data_dir, ballast_bytes=0)
    folder.lock()
    (settings.iiot_data_dir / "api_key").write_text("0123456789abcdef")
    (finding,) = made(HealthCheck, settings).findings
    folder.unlock()
    assert (finding.verdict, "does not answer" in finding.reason) == (Verdict.failed, True)
