"""The watchdog is fed while everything moves, and not by something that hangs; an absent Odoo is nothing that hangs."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.errors import StoreUnavailableError
from appliance.notify import Notifier
from appliance.parts.odoo import STEP_S, OdooLink
from appliance.parts.watchdog import LOOKS_IN_TIME, Watchdog
from appliance.store.database import Database
from appliance.uplink.client import OdooClient
from appliance.uplink.progress import Progress
from tests.broker.rig import Rig, running
from tests.e2e.harness import Appliance
from tests.parts.test_health import service
from tests.uplink.conftest import Time

WITHIN_S = 0.2


def watchdog(rig: Rig, *, notifier: Notifier | None = None, odoo: Any = None) -> Watchdog:
    return Watchdog(
        notifier=notifier or Notifier({}),
        database=rig.database,
        listener=rig.broker.listener,
        odoo=odoo,
        health=service(rig, rig.broker),
    )


async def test_what_moves_is_fed_and_says_how_it_is(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(LOOKS_IN_TIME * 50_000)}
        async with running(tmp_path) as rig:
            await rig.login("press-07")
            task = asyncio.create_task(watchdog(rig, notifier=Notifier(environment)).run())
            async with asyncio.timeout(5):
                for _ in range(3):
                    told = (await asyncio.get_running_loop().sock_recv(listening, 1000)).decode()
                    assert told.splitlines() == ["WATCHDOG=1", "STATUS=ok: 1 devices online; 0 messages wait"]
            task.cancel()


async def test_a_writer_that_hangs_is_asked_once_and_seen_and_one_that_goes_on_is_fed_again(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        dog = watchdog(rig)
        assert await dog.look(WITHIN_S) == []
        release = threading.Event()
        hangs = rig.database.submit(lambda connection: release.wait(20))
        for _ in range(5):
            assert await dog.look(WITHIN_S) == ["the store's writer does not answer"]
        assert rig.database.queued <= 1
        release.set()
        await hangs
        assert await dog.look(5) == []


async def test_a_disk_that_cannot_be_written_is_not_mended_by_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as rig:

        def refused(self: Database, job: object, *, receipt: object = None) -> asyncio.Future[None]:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(StoreUnavailableError("the disk is full"))
            return future

        with monkeypatch.context() as patch:
            patch.setattr(Database, "submit", refused)
            assert await watchdog(rig).look(WITHIN_S) == []


async def test_a_listener_whose_round_does_not_come_by_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as rig:
        listener = rig.broker.listener
        listener.sweep()
        assert listener.stuck(30) is None
        with monkeypatch.context() as patch:
            now = listener.time()
            patch.setattr(listener, "time", lambda: now + 31)
            assert (listener.stuck(30) or "").startswith("the listener's round has not come by")


def link(time: Time, **steps: Progress) -> OdooLink:
    """As far as it is asked here."""
    odoo: Any = OdooLink.__new__(OdooLink)
    odoo.client = SimpleNamespace(longest_s=190.0)
    odoo.pump = SimpleNamespace(progress=steps.get("pump", Progress(time)))
    odoo.sync = SimpleNamespace(progress=steps.get("sync", Progress(time)))
    return odoo  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["pump", "sync"])
def test_an_uplink_in_the_same_step_for_longer_than_any_can_take_is_seen(time: Time, name: str) -> None:
    progress = Progress(time)
    odoo = link(time, **{name: progress})
    progress.step()
    time.pass_by(190 + STEP_S - 1)
    assert odoo.stuck() is None
    time.pass_by(2)
    assert "has been at the same step for 311 s" in (odoo.stuck() or "")
    progress.sleep()
    time.pass_by(30 * 86_400)
    assert odoo.stuck() is None


@pytest.fixture
def time() -> Time:
    return Time()


def test_no_request_lasts_longer_than_the_client_says() -> None:
    client = OdooClient(base_url="http://localhost:1", api_key=None)
    assert client.longest_s == 10 + 10 + 60 + 2 * 60


async def test_a_service_tells_systemd_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        # nobody is at Odoo's address: its being away is nothing that hangs
        environment = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "400000",
            "ODOO_BASE_URL": "http://127.0.0.1:9",
            "ODOO_API_KEY": "geheim-0123456789",
        }
        appliance = Appliance(tmp_path, environment=environment)
        told: list[str] = []

        async def until(wanted: str) -> None:
            async with asyncio.timeout(20):
                while not told or wanted not in told[-1]:
                    told.append((await asyncio.get_running_loop().sock_recv(listening, 4000)).decode())

        async with appliance:
            await until("READY=1")
            assert told == ["READY=1"]
            for _ in range(5):
                told.append("")
                await until("WATCHDOG=1")
            await until("Odoo does not answer")
            appliance._process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
            await until("STOPPING=1")
