"""The rows of commands: what each change does to each state, and that nothing is half done."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.device import CommandResponse
from appliance.contract.odoo import Kind
from appliance.store import command_rules as rules
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.outbox import Change, ClockState, Moment, NewCommand, Outbox, Outcome, Work, note_clock

START = Moment(wall_ms=1_795_341_600_000, steady_ms=5_000_000)
LATER = Moment(wall_ms=1_795_341_700_000, steady_ms=5_100_000)


class Store:
    def __init__(self, database: Database, buffer: Buffer) -> None:
        self.database = database
        self.buffer = buffer
        self.outbox = Outbox(database)

    async def make(self, change: Callable[..., Outcome], **arguments: Any) -> Outcome:
        [outcome] = await self.outbox.submit([partial(change, **arguments)])
        return outcome

    async def add(self, command_id: str = "c1", device: str = "d1", **fields: Any) -> Outcome:
        return await self.make(rules.add, new=new_command(command_id, device, **fields), moment=START, send_now=False)

    async def count(self, table: str) -> int:
        query = {"outbox": "SELECT count(*) FROM outbox", "messages": "SELECT count(*) FROM messages"}[table]
        return int(await self.database.run(lambda connection: connection.execute(query).fetchone()[0]))

    async def messages(self) -> list[dict[str, Any]]:
        return [json.loads(message.payload) for message in (await self.buffer.take(limit=5000)).messages]


def new_command(command_id: str, device: str = "d1", *, at_most_once: bool = False) -> NewCommand:
    return NewCommand(
        command_id=command_id,
        device=device,
        action="reset",
        digest=b"digest",
        payload=b'{"action":"reset"}',
        at_most_once=at_most_once,
        expires_in_ms=60_000,
        response_limit_ms=30_000,
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    database = await Database.open(tmp_path)
    buffer = Buffer(database)
    await buffer.load()
    yield Store(database, buffer)
    await database.close()


CLAIM = partial(rules.claim, position=1, moment=START)
UNCLAIM = partial(rules.unclaim, position=1, moment=START)
ACK = partial(rules.acknowledge, position=1, moment=START)
GIVE_UP = partial(rules.give_up, position=1, moment=START)
DEADLINE = partial(rules.pass_deadline, position=1, moment=LATER)
UNSURE = partial(rules.expire_unsure, position=1, moment=START)
CANCEL = partial(rules.cancel, command_id="c1", moment=START)


def _answer(status: str) -> Change:
    body = {"command_id": "c1", "status": status}
    return partial(
        rules.answer,
        device="d1",
        response=CommandResponse.model_validate(body),
        payload=json.dumps(body).encode(),
        received_at_ms=START.wall_ms,
        moment=START,
    )


OK, ERROR, IN_PROGRESS = _answer("ok"), _answer("error"), _answer("in_progress")
CHANGES = {
    "claim": CLAIM,
    "unclaim": UNCLAIM,
    "ack": ACK,
    "give_up": GIVE_UP,
    "deadline": DEADLINE,
    "unsure": UNSURE,
    "cancel": CANCEL,
    "ok": OK,
    "error": ERROR,
    "in_progress": IN_PROGRESS,
}
WAYS: dict[str, list[Change]] = {
    "queued": [],
    "sent": [CLAIM],
    "sent three times": [CLAIM, CLAIM, CLAIM],
    "delivered": [CLAIM, ACK],
    "settled": [CLAIM, ACK, DEADLINE],
    "done": [CLAIM, ACK, OK],
    "refused": [CLAIM, ACK, ERROR],
    "given up": [CLAIM, CLAIM, CLAIM, GIVE_UP],
    "expired": [DEADLINE],
    "expired in flight": [CLAIM, DEADLINE],
    "cancelled": [CANCEL],
}
# state/reason, a star where it is settled, ! where it is late news; what is not named changes nothing
TABLE: dict[str, dict[str, str]] = {
    "queued": {
        "claim": "sent",
        "deadline": "expired*",
        "unsure": "expired/clock_behind*",
        "cancel": "cancelled*",
    },
    "sent": {
        "claim": "sent",
        "unclaim": "queued/not_connected",
        "ack": "delivered",
        "deadline": "expired*",
        "unsure": "expired/clock_behind*",
        "ok": "done*",
        "error": "failed/device*",
        "in_progress": "delivered",
    },
    "sent three times": {
        "claim": "failed/no_ack*",
        "unclaim": "sent/not_connected",
        "ack": "delivered",
        "give_up": "failed/no_ack*",
        "deadline": "expired*",
        "unsure": "expired/clock_behind*",
        "ok": "done*",
        "error": "failed/device*",
        "in_progress": "delivered",
    },
    "delivered": {"deadline": "delivered*", "ok": "done*", "error": "failed/device*", "in_progress": "delivered"},
    "settled": {"ok": "done*!", "error": "failed/device*!", "in_progress": "delivered*"},
    "done": {},
    "refused": {},
    "given up": {"ack": "delivered!", "ok": "done*!", "error": "failed/device*!", "in_progress": "delivered*!"},
    "expired": {},
    "expired in flight": {
        "ack": "delivered!",
        "ok": "done*!",
        "error": "failed/device*!",
        "in_progress": "delivered*!",
    },
    "cancelled": {},
}


async def _described(store: Store) -> str:
    stored = await store.outbox.find("c1")
    assert stored is not None
    last = json.loads(f"[{stored.history}]")[-1]
    assert last["state"] == stored.state
    reason = f"/{stored.reason}" if stored.reason else ""
    return stored.state + reason + ("*" if stored.settled_ms is not None else "") + ("!" if "late" in last else "")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", WAYS)
async def test_each_change_does_to_each_state_what_the_table_says(store: Store, state: str, change: str) -> None:
    await store.add()
    for step in WAYS[state]:
        await store.make(step)
    before = await _described(store)
    told = len([message for message in await store.messages() if "state" in message])
    outcome = await store.make(CHANGES[change])
    after = await _described(store)
    assert after == TABLE[state].get(change, before)
    history = (await store.outbox.find("c1")).history  # type: ignore[union-attr]
    told_now = [message for message in await store.messages() if "state" in message]
    assert [message["state"] for message in told_now] == [event["state"] for event in json.loads(f"[{history}]")]
    if change not in TABLE[state]:
        assert len(told_now) == told
        assert not outcome.changed


async def test_at_most_once_can_be_claimed_a_single_time(store: Store) -> None:
    await store.add(at_most_once=True)
    assert (await store.make(CLAIM)).payload == b'{"action":"reset"}'
    outcome = await store.make(CLAIM)
    assert (outcome.changed, outcome.payload) == (False, b"")
    assert await _described(store) == "failed/no_ack*"


async def test_a_job_that_fails_leaves_neither_state_nor_message(store: Store) -> None:
    await store.add()

    def fail(work: Work) -> Outcome:
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        await store.outbox.submit([CLAIM, fail])
    assert await _described(store) == "queued"
    assert [message["state"] for message in await store.messages()] == ["queued"]


async def test_a_known_id_is_not_stored_twice_whatever_comes_with_it(store: Store) -> None:
    first = await store.add()
    outcome = await store.add(device="d2")
    assert first.changed
    assert not outcome.changed
    assert outcome.row == first.row
    assert await store.count("outbox") == await store.count("messages") == 1


async def test_a_settled_command_keeps_no_payload(store: Store) -> None:
    await store.add("c1")
    await store.add("c2")
    await store.make(CANCEL)
    rows = await store.database.run(lambda connection: connection.execute("SELECT payload FROM outbox").fetchall())
    assert rows == [(b"",), (b'{"action":"reset"}',)]


@pytest.mark.parametrize(
    ("payload", "recorded"),
    [
        (b'{"status":"ok"}', b'{"status":"ok","command_id":"c1"}'),
        (b'\n{"status": "ok" , "result": 1.0 }\r\n', b'\n{"status": "ok" , "result": 1.0 ,"command_id":"c1"}'),
        (b'{"command_id":null,"status":"ok"}', b'{"command_id":"c1","status":"ok"}'),
    ],
)
async def test_the_id_is_filled_in_and_the_rest_stays_as_the_device_wrote_it(
    store: Store, payload: bytes, recorded: bytes
) -> None:
    await store.add()
    await store.make(CLAIM)
    response = CommandResponse(status="ok")
    await store.make(
        rules.answer, device="d1", response=response, payload=payload, received_at_ms=START.wall_ms, moment=START
    )
    messages = (await store.buffer.take()).messages
    assert [message.payload for message in messages if message.kind is Kind.COMMAND_RESPONSE] == [recorded]


async def test_more_open_commands_than_one_chunk_are_loaded_in_their_order(store: Store) -> None:
    new = [new_command(f"c{number}", f"d{number % 3}") for number in range(1203)]
    await store.outbox.submit([partial(rules.add, new=each, moment=START, send_now=True) for each in new])
    await store.make(partial(rules.cancel, command_id="c7", moment=START))  # was sent: stays
    await store.make(partial(rules.acknowledge, position=9, moment=LATER))
    await store.make(partial(note_clock, state=ClockState(1, -2, 3)))
    rows, state, latest_ms = await store.outbox.load()
    assert [row.command_id for row in rows] == [each.command_id for each in new]
    assert (state, latest_ms) == (ClockState(1, -2, 3), LATER.steady_ms)
    assert (rows[8].state, rows[8].deadline_ms) == ("delivered", LATER.steady_ms + 30_000)


async def test_pruning_goes_in_chunks_by_age_and_by_number_and_never_takes_an_open_command(store: Store) -> None:
    new = [new_command(f"c{number}") for number in range(1300)]
    await store.outbox.submit([partial(rules.add, new=each, moment=START, send_now=False) for each in new])
    moments = [Moment(START.wall_ms, START.steady_ms + number) for number in range(1200)]
    await store.outbox.submit(
        [partial(rules.cancel, command_id=f"c{number}", moment=moment) for number, moment in enumerate(moments)]
    )
    young = START.steady_ms + 600
    assert await store.outbox.prune(settled_before_ms=young, keep_rows=10_000)
    assert await store.count("outbox") == 800
    assert not await store.outbox.prune(settled_before_ms=young, keep_rows=10_000)
    assert await store.count("outbox") == 700
    assert await store.outbox.find("c599") is None
    assert await store.outbox.find("c600") is not None
    assert await store.outbox.prune(settled_before_ms=0, keep_rows=5)
    assert not await store.outbox.prune(settled_before_ms=0, keep_rows=5)
    assert await store.count("outbox") == 105
    assert await store.outbox.find("c1195") is not None
    assert await store.outbox.find("c1194") is None
