"""Pairing: whatever gets lost or comes twice, one token leads to one identity, and only for who holds it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.device import ConfigAnswer, ConfigOk, ConfigPending, ConfigRefused, ConfigRequest, encode
from appliance.contract.times import Clock
from appliance.contract.topics import TopicTemplates
from appliance.errors import OdooAlarmError, OdooRefusedError, OdooUnavailableError
from appliance.services.credentials import Credentials
from appliance.services.limits import FailureLimiter, address_key
from appliance.services.pairing import BrokerAddress, PairingLimits, PairingService
from appliance.store.database import Database
from appliance.store.devices import Device, DeviceRegistry
from tests.services.odoo_source import OdooSource

KEY = bytes(range(32))
CA_PEM = "-----BEGIN CERTIFICATE-----\n" + "A" * 600 + "\n-----END CERTIFICATE-----\n"
ADDRESS = BrokerAddress("gw1.factory.lan", 8883, tls=True)


class TestClock(Clock):
    __test__ = False

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@dataclass
class Box:
    """An appliance's pairing, on a real store."""

    service: PairingService
    registry: DeviceRegistry
    database: Database
    clock: TestClock

    async def ask(
        self, serial: str = "SN-1", token: str | None = "T-1", request_id: str | None = "r1", **more: Any
    ) -> ConfigAnswer:
        address = more.pop("address", "10.0.0.1")
        request = ConfigRequest(serial=serial, token=token, request_id=request_id, **more)
        return await self.service.answer(request, source_address=address)

    def device(self, device_id: str = "press-07") -> Device:
        device = self.registry.get(device_id)
        assert device is not None
        return device


Start = Callable[..., contextlib.AbstractAsyncContextManager[Box]]


@pytest.fixture
def odoo() -> OdooSource:
    source = OdooSource()
    source.issue("T-1", "SN-1", "press-07", config_version=7, settings={"telemetry_interval_s": 10})
    return source


@pytest.fixture
def start(tmp_path: Path, odoo: OdooSource) -> Start:
    """Starts an appliance on the test's data folder; again after its end is a restart."""

    @asynccontextmanager
    async def start(source: OdooSource | None = odoo, limits: PairingLimits | None = None) -> AsyncIterator[Box]:
        clock = TestClock()
        database = await Database.open(tmp_path, clock=clock)
        registry = DeviceRegistry(database=database, templates=TopicTemplates())
        await registry.load()
        service = PairingService(
            registry=registry,
            credentials=Credentials(KEY),
            source=source,
            address=ADDRESS,
            ca_pem=CA_PEM,
            clock=clock,
            limits=limits,
        )
        running = asyncio.create_task(service.run(), name="pairing")
        await asyncio.sleep(0)
        try:
            yield Box(service, registry, database, clock)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await database.close()

    return start


@pytest.fixture
async def box(start: Start) -> AsyncIterator[Box]:
    async with start() as box:
        yield box


def secret(answer: ConfigAnswer) -> str:
    assert isinstance(answer, ConfigOk), answer
    assert answer.mqtt.password
    return answer.mqtt.password


def code(answer: ConfigAnswer) -> str:
    assert isinstance(answer, ConfigRefused), answer
    return answer.code


async def login(box: Box, device_id: str, generation: int) -> None:
    """What the broker tells of a login, until it is durable."""
    done = asyncio.Event()
    box.registry.changed.append(lambda _: done.set())
    box.service.note_login(device_id, generation)
    await asyncio.wait_for(done.wait(), 5)


# --- the answer ----------------------------------------------------------------------------------------------


async def test_a_token_leads_to_address_secret_topics_and_settings(box: Box, odoo: OdooSource) -> None:
    answer = await box.ask(firmware_version="1.0.0", hardware="press-ctl-2")
    assert isinstance(answer, ConfigOk)
    assert json.loads(encode(answer)) == {
        "status": "ok",
        "request_id": "r1",
        "device_id": "press-07",
        "config_version": 7,
        "mqtt": {
            "host": "gw1.factory.lan",
            "port": 8883,
            "tls": True,
            "client_id": "press-07",
            "username": "press-07",
            "password": Credentials(KEY).password("press-07", 1),
            "ca_pem": CA_PEM,
        },
        "topics": TopicTemplates().expand("press-07", "SN-1").as_dict(),
        "settings": {"telemetry_interval_s": 10},
        "time": answer.time,
    }
    assert (box.device().firmware_version, box.device().hardware) == ("1.0.0", "press-ctl-2")
    assert (odoo.calls[0].firmware_version, odoo.calls[0].hardware) == ("1.0.0", "press-ctl-2")


async def test_a_device_is_told_its_local_topics_where_its_profile_grants_any(box: Box, odoo: OdooSource) -> None:
    odoo.issue("T-2", "SN-2", "press-08", local_topics={"publish": ["line/{device}/out"], "subscribe": ["line/#"]})
    answer = await box.ask("SN-2", "T-2")
    assert json.loads(encode(answer))["local_topics"] == {"publish": ["line/press-08/out"], "subscribe": ["line/#"]}
    assert "local_topics" not in json.loads(encode(await box.ask()))


async def test_the_address_that_odoo_advertises_goes_before_the_appliances_own(box: Box, odoo: OdooSource) -> None:
    odoo.issue("T-2", "SN-2", "press-08", mqtt={"host": "mqtt.factory.com", "tls": False})
    answer = await box.ask("SN-2", "T-2")
    assert isinstance(answer, ConfigOk)
    assert (answer.mqtt.host, answer.mqtt.port, answer.mqtt.tls) == ("mqtt.factory.com", 8883, False)
    assert answer.mqtt.ca_pem is None


async def test_an_answer_without_certificate_stays_small_with_long_names(box: Box, odoo: OdooSource) -> None:
    device_id, serial = "press-line-north-building-4-station-0017", "SN-2026-0047110815-XK:00:1A:2B:3C:4D:5E"
    odoo.issue("T-2", serial, device_id, settings={"telemetry_interval_s": 10, "unit": "metric"})
    answer = await box.ask(serial, "T-2", "0192f0c8-7b7a-7c3e-9d55-0d9c4c1b2a33", ca_pem=False)
    assert secret(answer)
    assert len(encode(answer)) < 1024


@pytest.mark.parametrize(
    ("asked", "over_http", "over_mqtt"), [(None, True, False), (True, True, True), (False, False, False)]
)
async def test_the_certificate_comes_over_http_and_over_mqtt_only_when_asked_for(
    box: Box, asked: bool | None, over_http: bool, over_mqtt: bool
) -> None:
    http = await box.ask(ca_pem=asked)
    assert isinstance(http, ConfigOk)
    assert (http.mqtt.ca_pem == CA_PEM) is over_http
    replies = Replies()
    request = ConfigRequest(serial="SN-1", token="T-1", request_id="r1", ca_pem=asked)
    box.service.accept_request("SN-1", encode(request), "10.0.0.1", replies)
    assert ("ca_pem" in (await replies.next())["mqtt"]) is over_mqtt


async def test_a_paired_device_gets_its_present_configuration_without_the_secret(box: Box) -> None:
    await box.ask()
    answer = box.service.current(box.device(), generation=1, request_id="x")
    assert (answer.status, answer.request_id, answer.config_version) == ("ok", "x", 7)
    assert answer.mqtt.password is None
    assert Credentials(KEY).password("press-07", 1).encode() not in encode(answer)


# --- asking again --------------------------------------------------------------------------------------------


async def test_a_repeated_request_gets_the_same_secret_without_odoo_and_after_a_restart(
    start: Start, odoo: OdooSource
) -> None:
    async with start() as box:
        first = await box.ask()
        await login(box, "press-07", 1)
    odoo.fail = OdooUnavailableError("away")
    async with start() as box:
        again = await box.ask()
        assert secret(again) == secret(first)
        assert box.device().generation == 1
    async with start(source=None) as box:
        assert secret(await box.ask()) == secret(first)
    assert len(odoo.calls) == 1


async def test_the_same_token_with_another_request_id_is_refused(box: Box, odoo: OdooSource) -> None:
    await box.ask()
    assert code(await box.ask(request_id="r2")) == "token_used"
    assert code(await box.ask(request_id=None)) == "token_used"
    assert len(odoo.calls) == 1


async def test_another_token_with_a_known_request_id_is_odoos_to_judge(box: Box) -> None:
    await box.ask()
    assert code(await box.ask(token="T-guessed")) == "invalid_token"


async def test_another_serial_number_with_a_known_token_is_refused(box: Box) -> None:
    await box.ask()
    assert code(await box.ask(serial="SN-2")) == "invalid_token"
    assert box.registry.by_serial("SN-2") is None


async def test_a_request_without_request_id_may_be_repeated_until_the_first_login(
    start: Start, odoo: OdooSource
) -> None:
    async with start() as box:
        first = await box.ask(request_id=None)
        assert isinstance(first, ConfigOk)
        assert first.request_id is None
    async with start() as box:
        assert secret(await box.ask(request_id=None)) == secret(first)
        await login(box, "press-07", 1)
        assert code(await box.ask(request_id=None)) == "token_used"
        # nor may a stranger name the derived id himself
        derived = odoo.calls[0].request_id
        assert code(await box.ask(request_id=derived)) == "token_used"
    assert [call.request_id for call in odoo.calls] == [Credentials(KEY).request_id("SN-1", "T-1")]


async def test_a_claim_whose_answer_from_odoo_got_lost_is_completed_by_the_repeat_after_a_restart(
    start: Start, odoo: OdooSource
) -> None:
    odoo.fail_after_claim = OdooUnavailableError("connection reset")
    async with start() as box:
        assert isinstance(await box.ask(), ConfigPending)
    assert odoo.claimed == {"T-1": "r1"}
    odoo.fail_after_claim = None
    async with start() as box:
        assert secret(await box.ask()) == Credentials(KEY).password("press-07", 1)


async def test_a_claim_that_odoo_granted_and_the_store_refused_is_completed_by_the_repeat(
    box: Box, odoo: OdooSource, caplog: pytest.LogCaptureFixture
) -> None:
    trigger = "CREATE TRIGGER broken BEFORE INSERT ON pairings BEGIN SELECT RAISE(ABORT, 'broken'); END"
    await box.database.run(lambda connection: connection.execute(trigger) and None)
    assert isinstance(await box.ask(), ConfigPending)
    assert odoo.claimed == {"T-1": "r1"}
    assert "failed unexpectedly" in caplog.text
    assert box.registry.get("press-07") is None
    await box.database.run(lambda connection: connection.execute("DROP TRIGGER broken") and None)
    assert secret(await box.ask()) == Credentials(KEY).password("press-07", 1)


async def test_while_nothing_can_be_stored_no_token_is_claimed(box: Box, odoo: OdooSource) -> None:
    await box.database.close()
    assert isinstance(await box.ask(), ConfigPending)
    assert not odoo.calls


async def test_a_new_token_counts_the_generation_up_and_the_earlier_secret_lasts_until_the_login(
    box: Box, odoo: OdooSource
) -> None:
    credentials = Credentials(KEY)
    first = secret(await box.ask())
    await login(box, "press-07", 1)
    odoo.issue("T-2", "SN-1", "press-07", config_version=8)
    second = secret(await box.ask(token="T-2", request_id="r2"))
    assert second != first
    assert credentials.accepted_generation(box.device(), first) == 1
    assert credentials.accepted_generation(box.device(), second) == 2
    assert box.device().config_version == 8
    await login(box, "press-07", 2)
    assert credentials.accepted_generation(box.device(), first) is None
    assert credentials.accepted_generation(box.device(), second) == 2
    # the old token still has its old request, but no longer its secret
    assert code(await box.ask()) == "token_used"
    assert secret(await box.ask(token="T-2", request_id="r2")) == second


async def test_a_repeat_gets_its_own_secret_also_when_a_newer_one_waits_for_its_first_login(
    box: Box, odoo: OdooSource
) -> None:
    first = secret(await box.ask())
    odoo.issue("T-2", "SN-1", "press-07")
    assert secret(await box.ask(token="T-2", request_id="r2")) != first
    assert secret(await box.ask()) == first


async def test_a_device_id_that_odoo_gives_to_another_serial_number_leaves_the_old_one_outside(
    box: Box, odoo: OdooSource
) -> None:
    old = secret(await box.ask())
    odoo.issue("T-2", "SN-2", "press-07")
    new = secret(await box.ask("SN-2", "T-2"))
    assert Credentials(KEY).accepted_generation(box.device(), old) is None
    assert Credentials(KEY).accepted_generation(box.device(), new) == 2
    # the replaced device repeats its request: Odoo might repeat its answer, and the two would take turns
    assert code(await box.ask()) == "token_used"
    assert box.device().serial == "SN-2"
    assert len(odoo.calls) == 2


async def test_a_token_of_an_identity_that_the_serial_number_has_lost_leads_nowhere(box: Box, odoo: OdooSource) -> None:
    await box.ask()
    odoo.issue("T-2", "SN-1", "press-99")
    assert secret(await box.ask(token="T-2", request_id="r2")) == Credentials(KEY).password("press-99", 1)
    assert code(await box.ask()) == "token_used"
    assert (box.registry.get("press-07"), box.device("press-99").serial) == (None, "SN-1")


# --- refused and pending -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("invalid_token", "invalid_token"),
        ("unknown_serial", "invalid_token"),
        ("token_used", "token_used"),
        ("token_expired", "token_expired"),
        ("device_disabled", "device_disabled"),
        ("rate_limited", "rate_limited"),
        ("something_new", "bad_request"),
    ],
)
async def test_what_odoo_refuses_is_told_to_the_device(box: Box, odoo: OdooSource, said: str, told: str) -> None:
    odoo.fail = OdooRefusedError("no", status=403, code=said)
    assert code(await box.ask()) == told
    assert box.registry.get("press-07") is None


async def test_an_unknown_serial_number_and_a_wrong_token_look_the_same_on_the_wire_and_differ_in_the_log(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    wrong_token = await box.ask(token="T-guessed")
    unknown_serial = await box.ask(serial="SN-404")
    assert encode(wrong_token) == encode(unknown_serial)
    assert "unknown_serial" in caplog.text
    assert "T-guessed" not in caplog.text


@pytest.mark.parametrize(
    ("error", "retry_after_s"),
    [
        (OdooUnavailableError("away"), 30),
        (OdooUnavailableError("busy", retry_after_s=4.2), 5),
        (OdooUnavailableError("busy", retry_after_s=1e9), 3600),
        (OdooAlarmError("wrong key", status=401), 30),
        (RuntimeError("a fault of ours"), 30),
    ],
)
async def test_while_odoo_cannot_be_asked_the_answer_is_pending(
    box: Box, odoo: OdooSource, error: Exception, retry_after_s: int
) -> None:
    odoo.fail = error
    assert await box.ask() == ConfigPending(request_id="r1", retry_after_s=retry_after_s)
    odoo.fail = None
    assert secret(await box.ask())


async def test_without_odoo_configured_a_new_token_is_pending(start: Start) -> None:
    async with start(source=None) as box:
        assert isinstance(await box.ask(), ConfigPending)


async def test_an_odoo_that_hangs_makes_the_answer_pending_and_the_claim_is_still_committed(
    start: Start, odoo: OdooSource
) -> None:
    odoo.open.clear()
    async with start(limits=PairingLimits(answer_wait_s=0.01)) as box:
        assert isinstance(await box.ask(), ConfigPending)
        paired = asyncio.Event()
        box.registry.changed.append(lambda _: paired.set())
        odoo.open.set()
        await asyncio.wait_for(paired.wait(), 5)
        assert secret(await box.ask())
        assert len(odoo.calls) == 1


async def test_a_disabled_device_is_told_so_and_not_its_secret(box: Box) -> None:
    await box.ask()
    await box.registry.set_enabled("press-07", False)
    assert code(await box.ask()) == "device_disabled"


async def test_topics_that_belong_to_another_device_refuse_the_pairing_and_leave_both_as_they_were(
    box: Box, odoo: OdooSource, caplog: pytest.LogCaptureFixture
) -> None:
    await box.ask()
    odoo.issue("T-2", "SN-2", "data", topics={"command": "telemetry/press-07/{device}"})
    answer = await box.ask("SN-2", "T-2")
    assert isinstance(answer, ConfigRefused)
    assert "belongs to device press-07" in answer.message
    assert "mended" in caplog.text
    assert box.registry.get("data") is None
    # once the profile is mended the device's repeat succeeds
    odoo.issue("T-2", "SN-2", "data")
    assert secret(await box.ask("SN-2", "T-2"))


async def test_a_request_without_token_is_refused(box: Box, odoo: OdooSource) -> None:
    await box.ask()
    assert code(await box.ask(token=None)) == "bad_request"
    assert len(odoo.calls) == 1


# --- bounds --------------------------------------------------------------------------------------------------


async def test_identical_requests_at_once_share_one_call_to_odoo(box: Box, odoo: OdooSource) -> None:
    odoo.open.clear()
    asking = [asyncio.create_task(box.ask()) for _ in range(20)]
    await odoo.arrived.acquire()
    odoo.open.set()
    answers = await asyncio.gather(*asking)
    assert len({secret(answer) for answer in answers}) == 1
    assert len(odoo.calls) == 1
    assert box.device().generation == 1


async def test_a_wrong_token_never_shares_the_claim_of_the_right_one(box: Box, odoo: OdooSource) -> None:
    odoo.open.clear()
    right, wrong = asyncio.create_task(box.ask()), asyncio.create_task(box.ask(token="T-guessed"))
    await odoo.arrived.acquire()
    await odoo.arrived.acquire()
    odoo.open.set()
    assert secret(await right)
    assert code(await wrong) == "invalid_token"


async def test_two_request_ids_racing_for_one_token_end_with_one_secret(box: Box, odoo: OdooSource) -> None:
    answers = await asyncio.gather(box.ask(request_id="r1"), box.ask(request_id="r2"))
    assert sorted(answer.status for answer in answers) == ["error", "ok"]
    # even an Odoo that granted both
    odoo.issue("T-2", "SN-2", "press-08")
    odoo.open.clear()
    asking = [asyncio.create_task(box.ask("SN-2", "T-2", request_id)) for request_id in ("r1", "r2")]
    for _ in range(4):
        await odoo.arrived.acquire()
    odoo.claimed = _Forgetful()
    odoo.open.set()
    answers = await asyncio.gather(*asking)
    assert sorted(answer.status for answer in answers) == ["error", "ok"]
    assert box.device("press-08").generation == 1


class _Forgetful(dict[str, str]):
    def setdefault(self, key: str, default: str = "") -> str:
        return default


async def test_calls_to_odoo_and_waiting_claims_are_bounded(start: Start, odoo: OdooSource) -> None:
    limits = PairingLimits(odoo_calls=2, open_claims=5)
    odoo.open.clear()
    async with start(limits=limits) as box:
        asking = [asyncio.create_task(box.ask(f"SN-{n}", "T-x", address=f"10.0.1.{n}")) for n in range(9)]
        done, waiting = await asyncio.wait(asking, timeout=0.2)
        assert len(done) == 4
        assert all(isinstance(task.result(), ConfigPending) for task in done)
        odoo.open.set()
        assert {code(answer) for answer in await asyncio.gather(*waiting)} == {"invalid_token"}
    assert (odoo.most_waiting, len(odoo.calls)) == (2, 5)


async def test_failed_attempts_of_an_address_are_limited_and_other_addresses_are_served(
    start: Start, odoo: OdooSource, caplog: pytest.LogCaptureFixture
) -> None:
    async with start(limits=PairingLimits(failures_per_address=3)) as box:
        for number in range(3):
            assert code(await box.ask(f"SN-{number + 10}", "T-guessed")) == "invalid_token"
        limited = await box.ask()
        assert isinstance(limited, ConfigRefused)
        assert (limited.code, limited.retry_after_s) == ("rate_limited", 60)
        assert code(await box.ask()) == "rate_limited"
        assert caplog.text.count("too many failed attempts") == 1
        assert len(odoo.calls) == 3
        assert secret(await box.ask(address="10.0.0.2"))
        box.clock.ahead += 61
        assert secret(await box.ask())


async def test_guesses_at_one_serial_number_are_limited_also_from_many_addresses_at_once(
    start: Start, odoo: OdooSource
) -> None:
    limits = PairingLimits(failures_per_serial=3, odoo_calls=2)
    async with start(limits=limits) as box:
        guesses = [box.ask(token=f"T-{n}x", address=f"10.0.1.{n}") for n in range(50)]
        answers = await asyncio.gather(*guesses)
        assert {code(answer) for answer in answers} == {"invalid_token", "rate_limited"}
        assert len(odoo.calls) <= 4
        assert code(await box.ask(address="10.0.0.9")) == "rate_limited"
        box.clock.ahead += 61
        assert secret(await box.ask(address="10.0.0.9"))


async def test_a_device_that_is_paired_can_repeat_while_others_guess_at_its_serial_number(start: Start) -> None:
    async with start(limits=PairingLimits(failures_per_serial=1)) as box:
        first = secret(await box.ask())
        for number in range(3):
            await box.ask(token=f"T-{number}x", address="10.0.0.66")
        assert secret(await box.ask()) == first


def test_the_table_of_failures_is_bounded_and_forgets_the_oldest() -> None:
    limiter = FailureLimiter(most=1, window_s=60, clock=Clock(), most_keys=100)
    for number in range(1000):
        limiter.failed(str(number))
    assert len(limiter) == 100
    assert limiter.wait_s("999") == 60
    assert limiter.wait_s("1") == 0


def test_an_ipv6_host_cannot_escape_the_limit_within_its_network() -> None:
    assert address_key("2001:db8:1:2::1") == address_key("2001:db8:1:2:ffff::9")
    assert address_key("2001:db8:1:2::1") != address_key("2001:db8:1:3::1")
    assert address_key("::ffff:10.0.0.1") == address_key("10.0.0.1")
    assert address_key("fe80::1%eth0") == address_key("fe80::2%eth0")
    assert address_key("unknown") == "unknown"


# --- over MQTT -----------------------------------------------------------------------------------------------


class Replies:
    """A connection that waits for its answers."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    def __call__(self, payload: bytes) -> None:
        self.queue.put_nowait(payload)

    async def next(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await asyncio.wait_for(self.queue.get(), 5))
        return answer


def body(serial: str = "SN-1", token: str = "T-1", **more: object) -> bytes:
    return json.dumps({"serial": serial, "token": token, **more}).encode()


async def test_each_answer_goes_to_the_connection_that_asked(box: Box, odoo: OdooSource) -> None:
    odoo.issue("T-2", "SN-2", "press-08")
    right, guess, other = Replies(), Replies(), Replies()
    odoo.open.clear()
    box.service.accept_request("SN-1", body(request_id="r1"), "10.0.0.1", right)
    box.service.accept_request("SN-1", body(token="T-guessed", request_id="r1"), "10.0.0.66", guess)
    box.service.accept_request("SN-2", body("SN-2", "T-2", request_id="r1"), "10.0.0.2", other)
    for _ in range(3):
        await odoo.arrived.acquire()
    odoo.open.set()
    assert (await right.next())["device_id"] == "press-07"
    assert (await guess.next())["code"] == "invalid_token"
    assert (await other.next())["device_id"] == "press-08"
    assert right.queue.empty()
    assert guess.queue.empty()
    assert other.queue.empty()


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"{", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"token": "T-1"}', b'{"serial": "SN-1", "token": 7}'),
        *(body(serial="../x"), body(token=""), body(token="x" * 257), body(request_id="x" * 65), body("SN-2")),
    ],
)
async def test_a_bad_request_is_answered_and_reaches_nobody(box: Box, odoo: OdooSource, payload: bytes) -> None:
    replies = Replies()
    box.service.accept_request("SN-1", payload, "10.0.0.1", replies)
    answer = await replies.next()
    assert (answer["status"], answer["code"]) == ("error", "bad_request")
    assert not odoo.calls


async def test_bad_requests_of_an_address_are_limited(start: Start) -> None:
    async with start(limits=PairingLimits(failures_per_address=2)) as box:
        replies = Replies()
        for _ in range(3):
            box.service.accept_request("SN-1", b"{", "10.0.0.1", replies)
        codes = [(await replies.next())["code"] for _ in range(3)]
        assert codes == ["bad_request", "bad_request", "rate_limited"]


async def test_requests_over_mqtt_that_have_no_answer_yet_are_bounded(start: Start, odoo: OdooSource) -> None:
    odoo.open.clear()
    async with start(limits=PairingLimits(open_requests=2)) as box:
        first, second, third = Replies(), Replies(), Replies()
        for replies in (first, second, third):
            box.service.accept_request("SN-1", body(), "10.0.0.1", replies)
        assert (await third.next())["status"] == "pending"
        odoo.open.set()
        assert (await first.next())["status"] == (await second.next())["status"] == "ok"
        box.service.accept_request("SN-1", body(), "10.0.0.1", third)
        assert (await third.next())["status"] == "ok"


async def test_an_answer_larger_than_the_devices_packet_is_an_error_instead_of_silence(
    box: Box, odoo: OdooSource, caplog: pytest.LogCaptureFixture
) -> None:
    odoo.issue("T-2", "SN-2", "small", max_packet_bytes=512)
    replies = Replies()
    box.service.accept_request("SN-2", body("SN-2", "T-2", request_id="r"), "10.0.0.1", replies)
    answer = await replies.next()
    assert answer["code"] == "bad_request"
    assert "ask over HTTP" in answer["message"]
    assert "small cannot be told" in caplog.text
    # over HTTP the same request gets its secret
    assert secret(await box.ask("SN-2", "T-2", "r"))


async def test_a_login_with_an_earlier_secret_ends_nothing(box: Box, odoo: OdooSource) -> None:
    await box.ask()
    await login(box, "press-07", 1)
    odoo.issue("T-2", "SN-1", "press-07")
    await box.ask(token="T-2", request_id="r2")
    before = box.device()
    box.service.note_login("press-07", 1)
    box.service.note_login("nobody", 1)
    await box.database.run(lambda connection: None)
    assert box.device() == before
    assert before.previous_valid


async def test_no_secret_and_no_token_is_kept_in_the_file(start: Start, tmp_path: Path) -> None:
    async with start() as box:
        password = secret(await box.ask(token="T-1"))
    with contextlib.closing(sqlite3.connect(tmp_path / "appliance.db")) as connection:
        everything = "\n".join(connection.iterdump())
    assert "press-07" in everything
    assert password not in everything
    assert "T-1" not in everything


async def test_no_secret_and_no_token_is_in_a_log_or_a_repr(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    answer = await box.ask()
    await box.ask(request_id="r2")
    text = caplog.text + repr(answer) + repr(ConfigRequest(serial="SN-1", token="T-1")) + repr(box.device())
    assert "paired SN-1 as press-07" in text
    assert secret(answer) not in text
    assert "T-1" not in text
