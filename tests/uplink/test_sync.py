"""``sync`` against the stand-in: when it asks, what it does not believe, what it says when it may send nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from appliance.contract.odoo import Kind, Sender
from appliance.contract.sync import BatchLimits, PendingCommand
from appliance.errors import OdooUnavailableError
from appliance.store.database import Database
from appliance.store.standing import Standing
from appliance.uplink.client import OdooClient
from appliance.uplink.fetched import FetchedWork
from appliance.uplink.retry import Backoff, Breaker
from appliance.uplink.sync import MOST_AT_ONCE, MOST_RENEWALS, Sync, SyncTimes
from appliance.uplink.sync_request import GatewayReport
from tests.uplink.conftest import API_KEY, GATEWAY, Time, WatchedBuffer

DATABASE = "9c1de5ae-4d22-4f09-8d43-6c8f2b1d5f10"


class FakePump:
    """What ``sync`` has asked of the pump."""

    def __init__(self) -> None:
        self.held: str | None = None
        self.alarm = False
        self.hurried = 0
        self.sender: Sender | None = None
        self.limits: BatchLimits | None = None

    def hold(self, reason: str, *, alarm: bool = True) -> None:
        self.held, self.alarm = reason, alarm

    def release(self) -> None:
        self.held, self.alarm = None, False

    def try_now(self) -> None:
        self.hurried += 1

    def use_sender(self, sender: Sender | None) -> None:
        self.sender = sender

    def use_limits(self, limits: BatchLimits) -> None:
        self.limits = limits


class FakeCommands:
    def __init__(self) -> None:
        self.taken: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self.withdrawn: list[str] = []
        self.full_for: set[str] = set()

    async def take(self, pending: PendingCommand, *, withdrawn: bool = False) -> bool:
        if pending.device_id in self.full_for:
            return False
        self.taken.append(pending.command_id)
        return True

    async def refuse(self, *, command_id: str, device_id: str, reason: str, detail: str) -> None:
        self.refused.append((command_id, reason))

    async def withdraw(self, command_id: str) -> None:
        self.withdrawn.append(command_id)


class Odoo:
    """Answers each ``sync`` with what a test has put down; the last answer stays."""

    def __init__(self) -> None:
        self.answers: list[httpx.Response | Exception | dict[str, Any]] = [{}]
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(json.loads(request.content))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return httpx.Response(200, json={"database_uuid": DATABASE, **answer})


def problem(status: int, code: str, **more: Any) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": f"{code} on request", **more})


class Rig:
    """A ``Sync`` with everything around it."""

    def __init__(self, *, database: Database, buffer: WatchedBuffer, time: Time) -> None:
        self.odoo = Odoo()
        self.time = time
        self.buffer = buffer
        self.pump = FakePump()
        self.commands = FakeCommands()
        self.standing = Standing(database)
        self.client = OdooClient(
            base_url="http://odoo",
            api_key=SecretStr(API_KEY),
            transport=httpx.MockTransport(self.odoo),
            breaker=Breaker(clock=time, backoff=Backoff(random=Random(1))),
            clock=time,
        )

    def build(self) -> None:
        self.sync = Sync(
            client=self.client,
            pump=self.pump,
            buffer=self.buffer,
            standing=self.standing,
            work=FetchedWork(commands=self.commands),
            report=self.report,
            gateway_uid=GATEWAY,
            clock=self.time,
            random=Random(3),
            times=SyncTimes(interval_s=10),
            sleep=self.time.sleep,
        )

    async def report(self) -> GatewayReport:
        return GatewayReport(name="line 1", version="1.0", uptime_s=5.0, problems=["x" * 1000] * 80)

    async def answer(self, *answers: httpx.Response | Exception | dict[str, Any]) -> float:
        """How long it waits after the last of these."""
        wait_s = 0.0
        for answer in answers:
            self.odoo.answers = [answer]
            wait_s = await self.sync.once()
        return wait_s


@pytest.fixture
async def rig(database: Database, buffer: WatchedBuffer, time: Time) -> AsyncIterator[Rig]:
    one = Rig(database=database, buffer=buffer, time=time)
    await one.standing.begin()
    one.build()
    yield one
    await one.client.aclose()


async def test_nothing_is_sent_before_the_first_answer_and_then_it_names_its_sender(rig: Rig) -> None:
    assert (rig.pump.held is not None, rig.pump.alarm) == (True, False)
    await rig.answer({"limits": {"messages": 50}})
    assert rig.pump.held is None
    assert rig.pump.sender == Sender(start=rig.standing.present.start, database_uuid=DATABASE)
    assert rig.pump.limits == BatchLimits(messages=50)
    assert rig.pump.hurried == 1
    assert rig.sync.state().admitted


async def test_a_report_is_bounded(rig: Rig) -> None:
    await rig.answer({})
    (request,) = rig.odoo.requests
    assert len(request["problems"]) == 50
    assert {len(problem) for problem in request["problems"]} == {300}


async def test_it_asks_in_about_ten_seconds_or_when_odoo_wishes(rig: Rig) -> None:
    assert 9 <= await rig.answer({}) <= 11
    assert 4.5 <= await rig.answer({"interval_s": 5}) <= 5.5
    assert 9 <= await rig.answer({"interval_s": 100_000}) <= 11


async def test_it_asks_at_once_while_there_is_more_and_not_for_ever(rig: Rig) -> None:
    assert await rig.answer({"more": True}) == 0.5
    assert await rig.answer(*[{"more": True}] * MOST_AT_ONCE) >= 9


@pytest.mark.parametrize(
    "failure", [httpx.ConnectError("no"), httpx.ReadTimeout("late"), httpx.Response(502)], ids=repr
)
async def test_while_odoo_does_not_answer_it_asks_every_ten_seconds_at_the_latest(rig: Rig, failure: Any) -> None:
    waits = [await rig.answer(failure) for _ in range(30)]
    assert max(waits) <= 10
    assert max(waits[-10:]) > 2, "it does not ask all the time"
    assert rig.sync.state().reachable is False
    await rig.answer({})
    assert rig.pump.hurried == 1
    assert rig.client.breaker.state == "closed"


async def test_odoos_own_wish_to_be_left_alone_counts(rig: Rig) -> None:
    wait_s = await rig.answer(httpx.Response(429, headers={"Retry-After": "120"}, json={"code": "rate_limited"}))
    assert wait_s == 120


@pytest.mark.parametrize(
    "refusal",
    [
        problem(401, "unauthorized"),
        problem(403, "wrong_gateway"),
        httpx.Response(404),
        httpx.Response(302),
        problem(422, "x"),
    ],
    ids=lambda answer: str(answer.status_code),
)
async def test_a_refusal_is_an_alarm_and_is_asked_about_once_a_minute(rig: Rig, refusal: httpx.Response) -> None:
    assert await rig.answer(refusal) == 60
    assert rig.pump.alarm
    assert rig.sync.state().alarm
    with pytest.raises(OdooUnavailableError):
        await rig.sync.gate.passed()
    await rig.answer({})
    assert rig.pump.held is None
    assert rig.sync.state().alarm is None


async def test_a_sync_that_is_refused_later_for_its_form_does_not_stop_the_messages(rig: Rig) -> None:
    await rig.answer({}, problem(422, "bad_request"))
    assert rig.pump.held is None


async def test_another_database_gets_nothing_and_the_first_one_is_remembered(rig: Rig) -> None:
    await rig.answer({})
    other = "11111111-2222-3333-4444-555555555555"
    assert await rig.answer({"database_uuid": other}) == 60
    assert rig.pump.alarm
    assert DATABASE in str(rig.pump.held)
    assert other in str(rig.pump.held)
    await rig.answer(problem(409, "wrong_database"))
    assert rig.pump.alarm
    assert rig.standing.database_uuid == DATABASE


async def test_only_an_enrolment_binds_anew(rig: Rig, database: Database) -> None:
    await rig.answer({})
    other = "11111111-2222-3333-4444-555555555555"
    for consent, bound in ((None, DATABASE), ("e-1", other), ("e-1", other)):
        standing = Standing(database)
        await standing.begin(consent=consent, database_uuid=other)
        assert standing.database_uuid == bound
    assert len(standing.starts) == 4


async def test_while_it_is_fenced_it_says_so_and_after_an_enrolment_it_takes_over(rig: Rig, database: Database) -> None:
    fenced = problem(409, "fenced", known=[])
    assert await rig.answer({}, fenced) == 60
    assert "another copy" in str(rig.pump.held)
    await rig.standing.begin(consent="e-1", database_uuid=DATABASE)
    before = rig.buffer.epochs()[0].epoch
    assert await rig.answer(fenced) == 0
    assert rig.buffer.epochs()[0].epoch != before
    await rig.answer({})
    assert rig.pump.held is None
    assert rig.standing.may_take_over is False


async def test_an_odoo_that_always_tells_of_another_copy_is_not_believed_for_ever(rig: Rig) -> None:
    for _ in range(MOST_RENEWALS):
        epoch = rig.buffer.epochs()[0].epoch
        foreign = {"epoch": epoch, "last_start": "x", "starts": [{"start": "x", "first_seq": 1}]}
        assert await rig.answer({"known": [foreign]}) == 0
    foreign["epoch"] = rig.buffer.epochs()[0].epoch
    assert await rig.answer({"known": [foreign]}) == 60
    assert rig.pump.alarm


async def test_an_odoo_that_always_forgets_gets_its_messages_again_once_a_minute_at_most(rig: Rig) -> None:
    await rig.answer({})
    await rig.buffer.add(5)
    epoch = rig.buffer.epochs()[0].epoch
    resent = []

    async def resend(epoch: str, from_seq: int, *, below: int | None = None) -> Any:
        resent.append(from_seq)
        return await type(rig.buffer).resend(rig.buffer, epoch, from_seq, below=below)

    rig.buffer.resend = resend  # type: ignore[method-assign]
    known = {"known": [{"epoch": epoch, "highest_seq": 1, "stored": 1, "floor": 1}]}
    for _ in range(3):
        await rig.buffer.settle([1, 2, 3])
        await rig.answer(known)
    assert resent == [1]
    assert rig.pump.alarm
    rig.time.elapsed_s += 61
    await rig.answer(known)
    assert resent == [1, 1]
    assert rig.sync.state().gap is not None


async def test_a_refused_batch_without_a_reason_that_sync_can_find_is_no_endless_circle(rig: Rig) -> None:
    await rig.answer({})
    rig.sync.behind()
    await rig.answer({})
    assert rig.pump.held is None
    rig.sync.behind()
    assert await rig.answer({}) == 60
    assert rig.pump.alarm


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"[]", b"{}", b'{"database_uuid": null}', b"[" * 100_000, b'{"database_uuid": "a\\"b"}', b"\xff"],
)
async def test_what_is_no_answer_counts_as_none(rig: Rig, content: bytes) -> None:
    assert await rig.answer(httpx.Response(200, content=content)) <= 10
    assert rig.sync.state().reachable is False
    assert rig.pump.held is not None


async def test_a_bad_item_is_reported_and_the_rest_is_done(rig: Rig) -> None:
    good = {"command_id": "c-1", "device_id": "press-07", "action": "reset"}
    bad = {"command_id": "c-2", "device_id": "press-07", "action": ["reset"]}
    await rig.answer({"commands": [bad, good, "?"], "cancel_commands": ["c-9", 7], "devices": [{"device_id": "/"}]})
    assert rig.commands.taken == ["c-1"]
    assert rig.commands.refused == [("c-2", "bad_request")]
    assert rig.commands.withdrawn == ["c-9"]
    assert any("c-2" in flaw for flaw in rig.sync.state().flaws)
    assert rig.sync.state().problems(rig.time.now_ms())


async def test_where_a_command_must_wait_those_behind_it_for_the_same_device_wait_too(rig: Rig) -> None:
    rig.commands.full_for = {"press-07"}
    commands = [
        {"command_id": f"c-{number}", "device_id": device, "action": "a"}
        for number, device in enumerate(["press-07", "press-08", "press-07", "press-08"])
    ]
    await rig.answer({"commands": commands})
    assert rig.commands.taken == ["c-1", "c-3"]


async def test_a_cursor_is_kept_only_where_somebody_takes_the_changes(rig: Rig) -> None:
    await rig.answer({"cursor": "7"}, {})
    assert rig.odoo.requests[-1]["cursor"] is None

    class Devices:
        async def apply(self, changes: Any, revoked: Any) -> None:
            raise failure

        async def complete(self) -> None:
            pass

    failure: Exception = OdooUnavailableError("no")
    rig.sync._work._devices = Devices()
    await rig.answer({"cursor": "7", "revoked": ["press-07"]})
    assert rig.standing.cursor is None
    await rig.answer({"cursor": "8"})
    assert rig.standing.cursor == "8"


async def test_work_is_asked_for_at_once_but_not_more_often_than_it_should(rig: Rig) -> None:
    rig.time.frozen = True
    running = asyncio.create_task(rig.sync.run(), name="sync")
    try:
        await until(lambda: len(rig.odoo.requests) == 1)
        assert await rig.time.next_sleep() == pytest.approx(0.5)
        rig.sync.wake()
        rig.time.pass_by(0.5)
        await until(lambda: len(rig.odoo.requests) == 2)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_gap_is_told_to_odoo_as_a_message_and_kept(rig: Rig, database: Database) -> None:
    await rig.buffer.add(5)
    await rig.answer({})
    await rig.buffer.settle([1, 2, 3, 4, 5])
    epoch = rig.buffer.epochs()[0].epoch
    await rig.answer({"known": [{"epoch": epoch, "highest_seq": 2, "stored": 2, "floor": 1}]})
    waiting = (await rig.buffer.take()).messages
    events = [json.loads(message.payload) for message in waiting if message.kind is Kind.GATEWAY_EVENT]
    told = {name: events[0][name] for name in ("event", "confirmed", "known", "sent_again", "missing")}
    assert told == {"event": "odoo_knows_less", "confirmed": 5, "known": 2, "sent_again": 5, "missing": 0}
    again = Standing(database)
    await again.begin()
    assert again.gaps[-1].sent_again == 5


# --- an answer on what Odoo knows that makes no sense ------------------------------------------------------------


def twin_at_work(rig: Rig, **more: Any) -> dict[str, Any]:
    """Another copy has sent the message that this one holds under the same name."""
    own = rig.standing.starts[-1].start
    twin = {"start": "e6e40b06-4de5-4b5a-9c1f-6e4b7e1a3b55", "first_seq": 1, "highest_seq": 1, **more}
    return {
        "epoch": rig.buffer.epochs()[0].epoch,
        "highest_seq": 1,
        "stored": 1,
        "starts": [twin, {"start": own, "first_seq": 1}],
    }


async def test_what_odoo_leaves_unset_hides_no_twin(rig: Rig) -> None:
    """Odoo writes an unset text as ``false``."""
    await rig.buffer.add(1)
    epoch = rig.buffer.epochs()[0].epoch
    await rig.answer({"known": [{**twin_at_work(rig, previous=False), "last_start": False, "below": None}]})
    assert rig.pump.held is not None
    assert rig.buffer.epochs()[0].epoch != epoch
    await rig.answer({})
    assert rig.pump.held is None


async def test_nothing_is_sent_while_what_odoo_knows_cannot_be_read_because_a_twin_may_hide_in_it(rig: Rig) -> None:
    await rig.buffer.add(1)
    for _ in range(2):
        await rig.answer({"known": [{**twin_at_work(rig), "highest_seq": "many"}]})
        assert rig.pump.held is not None
        assert "what it knows" in str(rig.sync.state().alarm)
    await rig.answer({"known": [twin_at_work(rig)]}, {})
    assert (rig.pump.held, len(rig.buffer.epochs())) == (None, 1)
    await rig.answer({"known": "all"})
    assert rig.pump.held is not None


async def test_a_copy_that_may_take_over_waits_until_the_refusal_can_be_read(rig: Rig) -> None:
    await rig.buffer.add(1)
    await rig.standing.begin(consent="a-new-key")
    epoch = rig.buffer.epochs()[0].epoch
    await rig.answer(problem(409, "fenced", known=[{**twin_at_work(rig), "highest_seq": "many"}]))
    assert rig.buffer.epochs()[0].epoch == epoch
    assert "what it knows" in str(rig.sync.state().alarm)
    await rig.answer(problem(409, "fenced", known=[twin_at_work(rig)]))
    assert rig.buffer.epochs()[0].epoch != epoch
