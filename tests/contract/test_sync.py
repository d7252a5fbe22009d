"""Reading what Odoo answers to ``sync``: what cannot be used is told apart, and the rest is used."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from appliance.contract.odoo import Sender, encode_batch
from appliance.contract.sync import MOST_WORK, EnrollRequest, SyncAnswer
from appliance.contract.sync_answer import TOO_MANY, Flaw, read_answer

DATABASE = "9c1de5ae-4d22-4f09-8d43-6c8f2b1d5f10"


def read(**fields: Any) -> tuple[SyncAnswer, list[Flaw]]:
    return read_answer(json.dumps({"database_uuid": DATABASE, **fields}).encode())


def command(command_id: Any = "c-1", **more: Any) -> dict[str, Any]:
    return {"command_id": command_id, "device_id": "press-07", "action": "reset", **more}


def test_an_answer_needs_no_more_than_its_database() -> None:
    answer, flaws = read()
    assert (answer.database_uuid, answer.commands, answer.cursor, flaws) == (DATABASE, [], None, [])


def test_a_bad_item_is_told_apart_with_its_name_and_the_others_are_used_in_their_order() -> None:
    answer, flaws = read(commands=[command("c-1"), command("c-2", expires_in_s=-1), 7, command("c-3")])
    assert [item.command_id for item in answer.commands] == ["c-1", "c-3"]
    assert [(flaw.list_name, flaw.item_id, flaw.device_id) for flaw in flaws] == [
        ("commands", "c-2", "press-07"),
        ("commands", None, None),
    ]
    assert "expires_in_s" in flaws[0].text


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("known", {"epoch": "e", "highest_seq": 10**30}, {"epoch": "e", "highest_seq": 5}),
        ("known", {"epoch": "e", "starts": [{"start": "s", "first_seq": 0}]}, {"epoch": "e"}),
        ("cancel_commands", "no spaces", "c-1"),
        ("updates", {"update_id": "u", "device_id": "press-07", "action": "explode"}, None),
        ("devices", {"device_id": "../etc"}, {"device_id": "press-07"}),
        ("devices", {"device_id": "press-07", "secret_version": -1}, {"device_id": "press-08", "enabled": False}),
        ("revoked", {"device_id": "press-07"}, "press-07"),
    ],
)
def test_each_list_is_read_item_by_item(name: str, bad: Any, good: Any) -> None:
    answer, flaws = read(**{name: [bad, good] if good is not None else [bad]})
    assert len(getattr(answer, name)) == (good is not None)
    assert [flaw.list_name for flaw in flaws] == [name]


@pytest.mark.parametrize("wrong", [{"interval_s": 0}, {"limits": {"messages": 0}}, {"cursor": "x" * 201}, {"more": 7}])
def test_what_only_helps_is_left_out_when_it_makes_no_sense(wrong: dict[str, Any]) -> None:
    answer, flaws = read(**wrong, revoked=["press-07"])
    assert answer.revoked == ["press-07"]
    assert (answer.interval_s, answer.cursor, answer.more) == (None, None, False)
    assert [flaw.list_name for flaw in flaws] == list(wrong)


def test_null_and_false_mean_not_set() -> None:
    answer, flaws = read(commands=False, cursor=False, interval_s=None, limits=False, known=None)
    assert (answer.commands, answer.cursor, answer.interval_s, answer.known, flaws) == ([], None, None, [], [])


def test_a_list_that_is_too_long_is_read_in_part_and_its_cursor_is_not_believed() -> None:
    answer, flaws = read(revoked=[f"press-{number}" for number in range(MOST_WORK + 1)], cursor="9")
    assert len(answer.revoked) == MOST_WORK
    assert answer.cursor is None
    assert [flaw.item_id for flaw in flaws] == [TOO_MANY]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"database_uuid": 5}', b'{"database_uuid": "a\\"b"}', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_answer_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the texts are those of a library
        read_answer(content)


def test_a_batch_names_its_sender_and_what_is_stored() -> None:
    sender = Sender(start="s-1", database_uuid=DATABASE)
    body = encode_batch(gateway="g", epoch="e", floor=3, settled=9, stored=7, below=2, messages=[b"1"], sender=sender)
    assert json.loads(body) == {
        "contract": 1,
        "gateway": "g",
        "start": "s-1",
        "database_uuid": DATABASE,
        "epoch": "e",
        "floor": 3,
        "settled": 9,
        "stored": 7,
        "below": 2,
        "messages": [1],
    }


def test_a_code_and_a_key_are_not_in_what_an_enrolment_shows_of_itself() -> None:
    request = EnrollRequest(code="K7QF-CODE", gateway_uid=str(UUID(int=7)), name="x", version="1", api_key="the-key")
    assert "K7QF" not in repr(request)
    assert "the-key" not in repr(request)
