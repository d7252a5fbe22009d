"""A simulated device against a scripted server: what it says, when, and what it does when the other side fails."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import ssl
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from appliance import certificates
from appliance.contract.times import parse_rfc3339
from firmware_sim import image, trust
from firmware_sim.credentials import CredentialStore
from firmware_sim.device import Device
from firmware_sim.flash import Flash
from firmware_sim.habits import Habits
from firmware_sim.pairing import Contact, Label, PairingRefusedError
from firmware_sim.record import Recorder, read_record
from firmware_sim.signals import PressSignal
from tests.firmware_sim.file_server import FileServer, file_server
from tests.firmware_sim.peer import Peer, Received, peer

SERIAL = "SN-1001"
DEVICE = "press-07"
COMMAND = f"command/{DEVICE}/action"
CONFIG = f"iiot/config/{SERIAL}"
TELEMETRY = f"telemetry/{DEVICE}/data"
NOTIFY = f"ota/{DEVICE}/notify"
STATUS = f"ota/{DEVICE}/status"


def answer(port: int, *, interval_s: float = 3600, tls: bool = False, **changed: Any) -> Callable[[Any], Any]:
    """A configuration answer to whatever is asked."""
    body = {
        "status": "ok",
        "device_id": DEVICE,
        "config_version": 1,
        "mqtt": {
            "host": "127.0.0.1",
            "port": port,
            "tls": tls,
            "client_id": DEVICE,
            "username": DEVICE,
            "password": "the-secret",
        },
        "topics": {
            "config_request": "iiot/config/request",
            "config_response": CONFIG,
            "telemetry": TELEMETRY,
            "command": COMMAND,
            "command_response": f"command/{DEVICE}/response",
            "ota_notify": f"ota/{DEVICE}/notify",
            "ota_status": f"ota/{DEVICE}/status",
        },
        "settings": {"telemetry_interval_s": interval_s},
        "time": "2026-11-22T10:00:00.000Z",
    }
    return lambda request: {**body, "request_id": request.get("request_id"), **changed}


def build(
    port: int,
    *,
    store: CredentialStore | None = None,
    recorder: Recorder | None = None,
    ca_pem: str | None = None,
    token: str | None = "K7QF",
    seed: int = 1,
    **options: Any,
) -> Device:
    random = Random(seed)
    return Device(
        label=Label(serial=SERIAL, token=token),
        contact=Contact(host="127.0.0.1", port=port, ca_pem=ca_pem),
        store=store or CredentialStore(),
        recorder=recorder or Recorder(),
        signal=PressSignal(random=random),
        random=random,
        connecting=asyncio.Semaphore(4),
        longest_backoff_s=0.5,
        **options,
    )


@asynccontextmanager
async def running(device: Device) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(device.run(), name="device under test")
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, PairingRefusedError):
            await task


@asynccontextmanager
async def connected(server: Peer, **options: Any) -> AsyncIterator[tuple[Device, Received]]:
    """A paired and connected device, and its last SUBSCRIBE."""
    if "interval_s" in options:
        server.configure = answer(server.port, interval_s=options.pop("interval_s"))
    else:
        server.configure = answer(server.port)
    device = build(server.port, **options)
    async with running(device):
        await server.expect("connect", client_id=DEVICE)
        subscribed = await server.expect("subscribe")
        async with asyncio.timeout(10):
            await device.ready.wait()
        yield device, subscribed


# --- pairing -------------------------------------------------------------------------------------------------


async def test_an_unpaired_device_asks_only_after_its_subscription_was_granted() -> None:
    async with peer() as server:
        server.configure = answer(server.port)
        server.automatic.discard("subscribe")
        async with running(build(server.port)):
            connect = await server.expect("connect")
            assert (connect.client_id, connect.username) == (SERIAL, None)
            subscribe = await server.expect("subscribe")
            assert subscribe.filters == [CONFIG]
            await asyncio.sleep(0.05)
            assert server.received.empty(), "it asked before SUBACK"
            server.automatic.add("subscribe")
            subscribe.connection.suback(subscribe.mid, [1])
            request = await server.expect("publish")
            assert (request.topic, request.qos) == ("iiot/config/request", 1)
            assert request.json["serial"] == SERIAL
            assert request.json["token"] == "K7QF"
            login = await server.expect("connect", client_id=DEVICE)
            assert (login.username, login.password) == (DEVICE, "the-secret")
            own = await server.expect("subscribe")
            assert set(own.filters) == {COMMAND, CONFIG, f"ota/{DEVICE}/notify"}


async def test_a_pending_device_asks_again_with_the_same_request_id() -> None:
    async with peer() as server:
        server.configure = lambda request: {
            "status": "pending",
            "request_id": request["request_id"],
            "retry_after_s": 1,
        }
        async with running(build(server.port)):
            first = await server.expect("publish")
            server.configure = answer(server.port)
            second = await server.expect("publish")
            assert first.json["request_id"] == second.json["request_id"]
            await server.expect("connect", client_id=DEVICE)


async def test_the_request_id_survives_a_restart_in_the_middle_of_pairing(tmp_path: Path) -> None:
    path = tmp_path / "flash.json"
    async with peer() as server:
        async with running(build(server.port, store=CredentialStore(path), seed=1)):
            first = await server.expect("publish")  # and the answer is lost with the device's power
        server.configure = answer(server.port)
        async with running(build(server.port, store=CredentialStore(path), seed=2)):
            second = await server.expect("publish")
            await server.expect("connect", client_id=DEVICE)
    assert first.json["request_id"] == second.json["request_id"]


async def test_an_answer_to_somebody_elses_request_is_ignored() -> None:
    async with peer() as server:
        foreign = answer(server.port)({"request_id": "another"})
        server.configure = lambda request: foreign
        async with running(build(server.port)):
            request = await server.expect("publish")
            request.connection.publish(CONFIG, answer(server.port, device_id="press-08")(request.json))
            login = await server.expect("connect")
            assert login.client_id == DEVICE  # of the second answer's mqtt part
        assert server.received.empty()


async def test_a_refused_device_gives_up_with_the_code() -> None:
    async with peer() as server:
        server.configure = lambda request: {
            "status": "error",
            "request_id": request["request_id"],
            "code": "token_used",
            "message": "used",
        }
        async with running(build(server.port)) as task:
            with pytest.raises(PairingRefusedError, match="token_used"):
                async with asyncio.timeout(10):
                    await task


async def test_a_rate_limited_device_waits_and_asks_again() -> None:
    async with peer() as server:
        server.configure = lambda request: {
            "status": "error",
            "request_id": request["request_id"],
            "code": "rate_limited",
            "message": "slowly",
            "retry_after_s": 1,
        }
        async with running(build(server.port)):
            await server.expect("publish")
            server.configure = answer(server.port)
            await server.expect("connect", client_id=DEVICE)


async def test_credentials_are_kept_for_the_owner_only_and_used_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "flash.json"
    async with peer() as server:
        async with connected(server, store=CredentialStore(path)):
            pass
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "K7QF" not in path.read_text()
        async with running(build(server.port, store=CredentialStore(path), token=None)):
            login = await server.expect("connect")
            assert (login.client_id, login.password) == (DEVICE, "the-secret")
            request = await server.expect("publish")
            assert request.topic == "iiot/config/request"
            assert "token" not in request.json


def test_a_torn_credentials_file_counts_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "flash.json"
    path.write_text('{"credentials": {"device_id": "pre')
    assert CredentialStore(path).load() is None


# --- trust ---------------------------------------------------------------------------------------------------


async def test_a_device_connects_over_tls_to_the_authority_that_it_has_pinned(tmp_path: Path) -> None:
    ours = certificates.ensure(tmp_path / "ours", ["127.0.0.1"])
    async with peer(ours.server_context()) as server:
        server.configure = answer(server.port, tls=True)
        async with running(build(server.port, ca_pem=ours.ca_pem)):
            login = await server.expect("connect", client_id=DEVICE)
            assert isinstance(login.connection.writer.get_extra_info("ssl_object"), ssl.SSLObject)


async def test_a_device_says_nothing_to_a_server_of_another_authority(tmp_path: Path) -> None:
    ours = certificates.ensure(tmp_path / "ours", ["127.0.0.1"])
    theirs = certificates.ensure(tmp_path / "theirs", ["127.0.0.1"])
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # the server's failed handshakes
    async with peer(theirs.server_context()) as server:
        async with running(build(server.port, ca_pem=ours.ca_pem)):
            await asyncio.sleep(0.3)
        assert server.received.empty()
    gc.collect()  # an open socket would be a warning, and that an error


def test_an_authority_is_checked_by_its_fingerprint_in_any_spelling(tmp_path: Path) -> None:
    ours = certificates.ensure(tmp_path / "ours", ["127.0.0.1"])
    trust.check(ours.ca_pem, ours.fingerprint)
    trust.check(ours.ca_pem, ours.fingerprint.replace(":", "").lower())
    with pytest.raises(trust.TrustError, match="not the one"):
        trust.check(ours.ca_pem, "00" * 32)
    with pytest.raises(trust.TrustError, match="64 hex"):
        trust.check(ours.ca_pem, "12:34")
    with pytest.raises(trust.TrustError, match="no certificate"):
        trust.check("nonsense", "00" * 32)


# --- readings ------------------------------------------------------------------------------------------------


async def test_readings_have_a_time_and_an_identity_and_come_in_the_configured_rhythm() -> None:
    async with peer() as server, connected(server, interval_s=0.05):
        began = asyncio.get_running_loop().time()
        readings = [await server.expect("publish", topic=TELEMETRY) for _ in range(5)]
        took_s = asyncio.get_running_loop().time() - began
    assert len({reading.json["msg_id"] for reading in readings}) == 5
    assert {reading.qos for reading in readings} == {1}
    assert all(parse_rfc3339(reading.json["ts"]) > 0 for reading in readings)
    assert took_s > 0.15


async def test_unacknowledged_readings_are_sent_again_in_order_on_the_next_connection(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "record")
    async with peer() as server:
        server.automatic.discard("publish")
        async with connected(server, interval_s=0.01, window=3, recorder=recorder):
            first = [await server.expect("publish") for _ in range(3)]
            first[0].connection.puback(first[0].mid)
            fourth = await server.expect("publish")
            assert fourth.json["msg_id"] not in {reading.json["msg_id"] for reading in first}
            first[0].connection.drop()
            await server.expect("connect", client_id=DEVICE)
            server.automatic.add("publish")
            again = [await server.expect("publish") for _ in range(3)]
            assert [reading.json for reading in again] == [reading.json for reading in (*first[1:], fourth)]
    recorder.close()
    record = read_record(tmp_path / "record")
    assert {(DEVICE, reading.json["msg_id"]) for reading in again} <= record.published
    assert (DEVICE, first[0].json["msg_id"]) in record.acknowledged
    assert len(record.lost_connections) == 2  # the dropped one, and the test's own end
    assert record.paired == {DEVICE}


async def test_a_device_without_a_connection_keeps_its_newest_readings(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "record")
    async with (
        peer() as server,
        connected(server, interval_s=0.01, queue_limit=5, recorder=recorder) as (_, subscribed),
    ):
        server.automatic.discard("connect")
        subscribed.connection.drop()
        async with asyncio.timeout(10):
            while recorder.counts["drop"] < 5:
                await asyncio.sleep(0.01)
        dropped = read_record(tmp_path / "record").dropped
        server.automatic.add("connect")
        for connection in list(server.connections):
            connection.drop()
        await server.expect("subscribe")
        reading = await server.expect("publish")
        assert (DEVICE, reading.json["msg_id"]) not in dropped
    recorder.close()


async def test_as_fast_as_acknowledged_keeps_the_window_full() -> None:
    async with peer() as server:
        server.automatic.discard("publish")
        server.configure = answer(server.port)
        async with running(build(server.port, interval_s=0, window=20)):
            first = [await server.expect("publish", topic=TELEMETRY) for _ in range(20)]
            await asyncio.sleep(0.05)
            assert server.received.empty()
            for reading in first[:7]:
                reading.connection.puback(reading.mid)
            for _ in range(7):
                await server.expect("publish", topic=TELEMETRY)


async def test_a_device_that_is_told_to_stop_waits_for_its_acknowledgements() -> None:
    async with peer() as server:
        server.automatic.discard("publish")
        async with connected(server, interval_s=0.01) as (device, _):
            reading = await server.expect("publish", topic=TELEMETRY)
            device.stop_publishing()
            drained = asyncio.create_task(device.drained(), name="drained")
            await asyncio.sleep(0.05)
            assert not drained.done()
            server.automatic.add("publish")
            reading.connection.puback(reading.mid)
            async with asyncio.timeout(10):
                await drained


# --- commands, updates, configuration ------------------------------------------------------------------------


async def test_a_command_is_carried_out_once_and_answered() -> None:
    recorder = Recorder()
    async with peer() as server, connected(server, recorder=recorder) as (_, subscribed):
        for _ in range(2):
            subscribed.connection.publish(COMMAND, {"command_id": "c-1", "action": "reset", "params": {}})
        subscribed.connection.publish(COMMAND, {"command_id": "c-2", "action": "fail"})
        answers = [await server.expect("publish", topic=f"command/{DEVICE}/response") for _ in range(2)]
    assert [reply.json["command_id"] for reply in answers] == ["c-1", "c-2"]
    assert [reply.json["status"] for reply in answers] == ["ok", "error"]
    assert (recorder.counts["cmd"], recorder.counts["repeat"]) == (2, 1)


async def test_an_answer_that_was_not_acknowledged_is_given_again_on_the_next_connection() -> None:
    async with peer() as server, connected(server) as (_, subscribed):
        server.automatic.discard("publish")
        subscribed.connection.publish(COMMAND, {"command_id": "c-1", "action": "reset"})
        first = await server.expect("publish")
        subscribed.connection.drop()
        server.automatic.add("publish")
        second = await server.expect("publish")
        assert first.payload == second.payload


async def test_a_command_that_is_no_json_is_answered_without_an_id() -> None:
    async with peer() as server, connected(server) as (_, subscribed):
        subscribed.connection.publish(COMMAND, b"RESET;5")
        reply = await server.expect("publish")
        assert reply.json["status"] == "ok"
        assert "command_id" not in reply.json


@pytest.mark.parametrize(
    ("offer", "state"),
    [
        ({"action": "start_update", "params": {"version": "2.0.0"}}, "failed"),
        ({"action": "start_update", "params": {"version": "1.0.0"}}, "already_installed"),
        ({"action": "cancel_update"}, "cancelled"),
    ],
    ids=["new", "same", "cancel"],
)
async def test_a_firmware_offer_gets_a_final_answer(offer: dict[str, Any], state: str) -> None:
    async with peer() as server, connected(server) as (_, subscribed):
        subscribed.connection.publish(f"ota/{DEVICE}/notify", {"update_id": "u-1", **offer})
        status = await server.expect("publish", topic=f"ota/{DEVICE}/status")
        assert (status.json["update_id"], status.json["state"]) == ("u-1", state)


async def test_a_new_interval_holds_from_then_on() -> None:
    async with peer() as server, connected(server) as (_, subscribed):
        told = answer(server.port, interval_s=0.01, config_version=2)({})
        del told["mqtt"]["password"]
        subscribed.connection.publish(CONFIG, told)
        await server.expect("publish", topic=TELEMETRY)


async def test_a_new_secret_is_acknowledged_then_used_on_a_new_connection(tmp_path: Path) -> None:
    path = tmp_path / "flash.json"
    async with peer() as server, connected(server, store=CredentialStore(path)) as (_, subscribed):
        told = answer(server.port, config_version=2)({})
        told["mqtt"]["password"] = "the-next-secret"
        mid = subscribed.connection.publish(CONFIG, told)
        await server.expect("puback", mid=mid)
        login = await server.expect("connect")
        assert login.password == "the-next-secret"
        assert json.loads(path.read_text())["credentials"]["password"] == "the-next-secret"


async def test_an_unusable_configuration_changes_nothing() -> None:
    async with peer() as server, connected(server) as (device, subscribed):
        for told in (b"{", {"status": "ok"}, answer(server.port, topics={"telemetry": "only/one"})({})):
            mid = subscribed.connection.publish(CONFIG, told)
            await server.expect("puback", mid=mid)
        assert device.is_connected


# --- connections ---------------------------------------------------------------------------------------------


async def test_a_device_whose_credentials_are_refused_keeps_trying() -> None:
    async with peer() as server:
        server.configure = answer(server.port)
        async with running(build(server.port)):
            await server.expect("publish")
            server.connack = 5
            await server.expect("connect", client_id=DEVICE)
            await server.expect("connect", client_id=DEVICE)
            server.connack = 0
            await server.expect("subscribe")


async def test_a_refused_subscription_is_a_failed_connection() -> None:
    async with peer() as server, connected(server) as (_, subscribed):
        server.automatic.discard("subscribe")
        subscribed.connection.drop()
        refused = await server.expect("subscribe")
        refused.connection.suback(refused.mid, [1, 128, 1])
        server.automatic.add("subscribe")
        await server.expect("connect", client_id=DEVICE)


async def test_a_cancelled_device_says_goodbye() -> None:
    async with peer() as server:
        async with connected(server):
            pass
        await server.expect("disconnect")


# --- the record ----------------------------------------------------------------------------------------------


def test_a_record_is_bounded_and_says_when_it_is_full(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "record", limit_bytes=500)
    for number in range(50):
        recorder.note("pub", DEVICE, id=str(number))
    recorder.close()
    record = read_record(tmp_path / "record")
    assert not record.complete
    assert 0 < len(record.published) < 50
    assert recorder.counts["pub"] == 50
    assert (tmp_path / "record").stat().st_size < 600


def test_the_torn_end_of_a_killed_writers_record_is_left_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "record")
    recorder.note("ack", DEVICE, id="1", ms=3.5)
    recorder.close()
    with (tmp_path / "record").open("ab") as file:
        file.write(b'{"t":1,"e":"ack","d":"pre')
    assert read_record(tmp_path / "record").acknowledged == {(DEVICE, "1")}


# --- firmware ------------------------------------------------------------------------------------------------


def firmware_offer(files: FileServer, content: bytes, update_id: str = "u-1") -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    params = {"version": "2.0.0", "url": files.url, "size": len(content), "sha256": sha256}
    return {"action": "start_update", "update_id": update_id, "params": params}


async def until_state(server: Peer, state: str) -> list[str]:
    """Reports up to this one."""
    states = []
    while not states or states[-1] != state:
        states.append((await server.expect("publish", topic=STATUS)).json["state"])
    return states


async def test_a_device_updates_itself_connects_again_and_reports_its_new_version(tmp_path: Path) -> None:
    content = image.make("2.0.0", 100_000)
    options: dict[str, Any] = {"habits": Habits(boot_s=0.01), "flash": Flash(tmp_path)}
    async with peer() as server, file_server(content) as files, connected(server, **options) as (device, subscribed):
        subscribed.connection.publish(NOTIFY, firmware_offer(files, content))
        assert "downloading" in await until_state(server, "rebooting")
        await server.expect("connect", client_id=DEVICE)
        assert await until_state(server, "installed") == ["installed"]
        assert device.firmware_version == "2.0.0"


async def test_an_update_goes_on_after_a_restart_of_the_device_and_unacknowledged_reports_come_again(
    tmp_path: Path,
) -> None:
    content = image.make("2.0.0", 100_000)
    store = CredentialStore(tmp_path / "flash.json")
    async with peer() as server, file_server(content) as files:
        files.stall_at = 50_000
        async with connected(server, store=store, flash=Flash(tmp_path / "firmware")) as (_, subscribed):
            server.automatic.discard("publish")
            subscribed.connection.publish(NOTIFY, firmware_offer(files, content))
            assert (await server.expect("publish", topic=STATUS)).json["state"] == "accepted"
            await files.stalled.wait()
        files.stall_at = None
        files.go_on.set()
        server.automatic.add("publish")
        options: dict[str, Any] = {"habits": Habits(boot_s=0.01), "flash": Flash(tmp_path / "firmware")}
        async with connected(server, store=CredentialStore(tmp_path / "flash.json"), **options) as (device, _):
            states = await until_state(server, "installed")
            assert (states[0], device.firmware_version) == ("accepted", "2.0.0")
        assert files.ranges[-1] >= 50_000


async def test_a_device_whose_new_secret_is_refused_goes_back_to_the_one_before(tmp_path: Path) -> None:
    store = CredentialStore(tmp_path / "flash.json")
    async with peer() as server, connected(server, store=store) as (_, subscribed):
        told = answer(server.port, config_version=2)({})
        told["mqtt"]["password"] = "the-next-secret"
        server.connack = 5
        subscribed.connection.publish(CONFIG, told)
        assert (await server.expect("connect")).password == "the-next-secret"
        server.connack = 0
        assert (await server.expect("connect")).password == "the-secret"
        await server.expect("subscribe")
        for connection in list(server.connections):
            connection.drop()
        assert (await server.expect("connect")).password == "the-secret"
    assert store.load() is not None


async def test_the_password_before_is_forgotten_once_the_new_one_has_worked(tmp_path: Path) -> None:
    path = tmp_path / "flash.json"
    async with peer() as server, connected(server, store=CredentialStore(path)) as (_, subscribed):
        told = answer(server.port, config_version=2)({})
        told["mqtt"]["password"] = "the-next-secret"
        subscribed.connection.publish(CONFIG, told)
        await server.expect("subscribe")
        assert "the-secret" not in path.read_text()


async def test_what_waits_goes_to_the_topics_of_a_new_configuration() -> None:
    async with peer() as server:
        server.automatic.discard("publish")
        async with connected(server, interval_s=0.01) as (_, subscribed):
            reading = await server.expect("publish", topic=TELEMETRY)
            told = answer(server.port, config_version=2, interval_s=0.01)({})
            told["topics"]["telemetry"] = f"plant/{DEVICE}/values"
            subscribed.connection.publish(CONFIG, told)
            await server.expect("subscribe")
            again = await server.expect("publish")
            assert (again.topic, again.json) == (f"plant/{DEVICE}/values", reading.json)
