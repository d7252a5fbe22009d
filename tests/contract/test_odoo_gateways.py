"""What every Odoo side must do for gateways beside their messages: sync, fencing, other databases, restores."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from tests.contract.test_odoo_side import Gateway, NewDevice, OdooSide, claim, gateway, odoo, outcome

__all__ = ["gateway", "odoo"]


def new() -> str:
    return str(uuid.uuid4())


class Box:
    """An appliance with its own memory of what it has; ``clone`` makes its twin."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.start = new()
        self.start_seq = 1
        self.admission = ""
        self.epochs = [gateway.epoch]
        self.database: str | None = None
        self.settled = 0
        self.stored = 0

    def clone(self, *, start_seq: int) -> Box:
        twin = Box(self.gateway)
        twin.epochs, twin.database = list(self.epochs), self.database
        twin.settled, twin.stored, twin.start_seq = self.settled, self.stored, start_seq
        return twin

    def ask(self, **more: Any) -> httpx.Response:
        epochs = [
            {"epoch": epoch, "last_seq": 100, "floor": 1, "settled": self.settled, "stored": self.stored}
            for epoch in self.epochs
        ]
        body = {
            "contract": 1,
            "gateway": self.gateway.uid,
            "name": "line 1",
            "version": "1.0",
            "time": "2026-11-22T10:00:00.000Z",
            "uptime_s": 5.0,
            "start": self.start,
            "starts": [{"start": self.start, "first_seq": self.start_seq}],
            "database_uuid": self.database,
            "epochs": epochs,
            **more,
        }
        return self.gateway.odoo.http.post("/iiot/gateway/sync", json=body)

    def sync(self, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask(**more).raise_for_status().json()
        self.database = self.database or answer["database_uuid"]
        self.admission = answer["admission"]
        return answer

    def post(self, *seqs: int, epoch: int = 0, **more: Any) -> httpx.Response:
        messages = [self.gateway.message(seq) for seq in seqs]
        named = {"start": self.admission, "database_uuid": self.database, "epoch": self.epochs[epoch]}
        return self.gateway.post(messages, **{**named, **more})

    def send(self, *seqs: int, **more: Any) -> list[str]:
        return [result["status"] for result in self.post(*seqs, **more).raise_for_status().json()["results"]]


@pytest.fixture
def box(gateway: Gateway) -> Box:
    return Box(gateway)


def known(answer: dict[str, Any], epoch: str) -> dict[str, Any] | None:
    found = [known for known in answer["known"] if known["epoch"] == epoch]
    return found[0] if found else None


def test_the_first_sync_tells_the_database_and_knows_nothing(box: Box) -> None:
    answer = box.sync()
    assert len(answer["database_uuid"]) == 36
    assert answer["known"] == []
    assert answer["commands"] == answer["updates"] == answer["revoked"] == []


def test_sync_tells_what_is_known_of_an_epoch(box: Box) -> None:
    box.sync()
    box.send(1, 2, 7, floor=1)
    box.send(7, 9, floor=7)
    assert known(box.sync(), box.epochs[0]) == {
        "epoch": box.epochs[0],
        "highest_seq": 9,
        "floor": 7,
        "stored": 4,
        "below": 2,
        "behind": False,
        "last_start": box.start,
        "starts": [{"start": box.start, "first_seq": 1, "previous": None, "highest_seq": 9}],
    }


def test_starts_are_told_in_their_order_without_the_one_that_asks_for_the_first_time(box: Box) -> None:
    box.sync()
    first, box.start, box.start_seq = box.start, new(), 12
    assert [start["start"] for start in (known(box.sync(), box.epochs[0]) or {})["starts"]] == [first]
    told = known(box.sync(), box.epochs[0]) or {}
    assert [start["start"] for start in told["starts"]] == [first, box.start]
    assert [start["first_seq"] for start in told["starts"]] == [1, 12]
    assert told["last_start"] == box.start


def test_a_batch_of_another_start_than_the_last_one_that_synced_is_fenced_and_not_stored(box: Box) -> None:
    box.sync()
    twin = box.clone(start_seq=1)
    twin.sync()
    assert outcome(box.post(1)) == (409, "fenced")
    assert twin.send(1) == ["stored"]
    assert box.gateway.stored() == ["1"]


def test_a_start_that_has_not_seen_the_answer_to_its_last_sync_may_not_send_once_another_one_has(box: Box) -> None:
    """It could be the active one again without knowing of its twin."""
    box.sync()
    twin = box.clone(start_seq=1)
    twin.sync()
    box.ask()  # the answer is lost
    assert outcome(box.post(1)) == (409, "fenced")
    assert outcome(twin.post(1)) == (409, "fenced")
    box.sync()
    assert box.send(1) == ["stored"]


def test_who_takes_a_new_epoch_is_the_active_one_and_the_twin_that_keeps_the_old_one_is_fenced(box: Box) -> None:
    box.sync()
    box.send(1, 2)
    twin = box.clone(start_seq=3)
    twin.sync()
    box.epochs.insert(0, new())
    assert known(box.sync(), box.epochs[0]) is None
    refusal = twin.ask()
    assert outcome(refusal) == (409, "fenced")
    assert refusal.json()["known"][0]["stored"] == 2, "what is known goes with it, for one that is to take over"
    assert outcome(twin.post(3)) == (409, "fenced")
    assert box.send(3) == ["stored"]
    assert box.send(2, epoch=1) == ["duplicate"], "rows that existed before the fork keep their epoch"
    assert box.send(3, epoch=1) == ["stored"]


def test_a_fenced_twin_that_takes_a_new_epoch_fences_the_other(box: Box) -> None:
    box.sync()
    twin = box.clone(start_seq=1)
    twin.epochs.insert(0, new())
    twin.sync()
    assert outcome(box.ask()) == (409, "fenced")
    box.epochs.insert(0, new())
    box.sync()
    assert outcome(twin.ask()) == (409, "fenced")
    assert box.send(1) == ["stored"]


def test_other_gateways_are_not_fenced(box: Box, odoo: OdooSide) -> None:
    other = Box(Gateway(odoo))
    box.sync()
    other.sync()
    assert (box.send(1), other.send(1)) == (["stored"], ["stored"])


def test_an_appliance_bound_to_another_database_is_refused(box: Box) -> None:
    own = box.sync()["database_uuid"]
    box.database = new()
    answer = box.ask()
    assert outcome(answer) == (409, "wrong_database")
    assert answer.json()["database_uuid"] == own
    assert outcome(box.post(1)) == (409, "wrong_database")
    assert box.gateway.stored() == []


def test_a_batch_that_tells_of_more_stored_messages_than_there_are_is_behind(box: Box) -> None:
    """With two lanes the highest number alone does not show a restore."""
    box.sync()
    box.send(1, 2, 90)
    assert outcome(box.post(91, floor=91, settled=90, stored=90)) == (409, "behind")
    assert box.send(3, floor=1, settled=90, stored=3) == ["stored"], "the floor was moved by a refused batch"


def test_what_it_has_above_the_floor_does_not_make_up_for_what_it_has_not_below(box: Box) -> None:
    """As many as it confirmed, but others: it was restored to where an answer was on its way that was lost."""
    box.sync()
    assert box.send(6, 7, 8) == ["stored"] * 3
    assert outcome(box.post(6, floor=6, settled=3, stored=3, below=3)) == (409, "behind")
    told = {"epoch": box.epochs[0], "last_seq": 8, "floor": 6, "settled": 3, "stored": 3, "below": 3}
    found = known(box.sync(epochs=[told]), box.epochs[0])
    assert found is not None
    assert (found["behind"], found["floor"], found["below"]) == (True, 1, 0)
    assert box.send(1, 2, 3) == ["stored"] * 3, "the floor was moved by a refused batch"
    assert box.send(6, floor=6, settled=3, stored=3, below=3) == ["duplicate"]
    assert box.send(9, floor=9, settled=8, stored=6, below=6) == ["stored"]
    assert box.send(10, floor=10, settled=9, stored=7, below=7) == ["stored"]


@pytest.mark.parametrize(
    "wrong", [{"start": "x"}, {"epochs": []}, {"epochs": "all"}, {"contract": 2}, {"gateway": None}], ids=str
)
def test_a_sync_that_makes_no_sense_is_refused_with_a_code(box: Box, wrong: dict[str, Any]) -> None:
    assert outcome(box.ask(**wrong)) == (422, "bad_request")


def test_a_sync_without_the_right_key_is_refused(odoo: OdooSide) -> None:
    answer = odoo.http.post("/iiot/gateway/sync", json={}, headers={"Authorization": "Bearer wrong"})
    assert outcome(answer) == (401, "unauthorized")


def test_an_enrolment_with_a_code_nobody_made_is_refused(odoo: OdooSide) -> None:
    body = {"contract": 1, "code": "AAAA-BBBB", "gateway_uid": new(), "name": "line 1", "version": "1.0"}
    assert outcome(odoo.http.post("/iiot/gateway/enroll", json=body)) == (403, "invalid_code")


def paired(odoo: OdooSide) -> NewDevice:
    device = odoo.new_device(settings={"telemetry_interval_s": 3})
    claim(odoo, device).raise_for_status()
    return device


def changes(box: Box, cursor: str | None) -> tuple[dict[str, dict[str, Any]], str]:
    """All that is told from a cursor on, and the next cursor."""
    devices: dict[str, dict[str, Any]] = {}
    while True:
        answer = box.sync(cursor=cursor)
        devices |= {device["device_id"]: device for device in answer["devices"]}
        cursor = answer["cursor"]
        assert cursor is not None
        if not answer["more"]:
            return devices, cursor


def test_a_gateway_that_knows_nothing_is_told_every_paired_device_and_then_only_what_changes(
    box: Box, odoo: OdooSide
) -> None:
    first, second = paired(odoo), paired(odoo)
    devices, cursor = changes(box, None)
    assert {first.device_id, second.device_id} <= devices.keys()
    assert devices[first.device_id]["serial"] == first.serial, "a box that takes another's place needs it"
    assert devices[first.device_id]["config"]["settings"] == {"telemetry_interval_s": 3}
    assert changes(box, cursor)[0] == {}
    odoo.disable(second.device_id)
    devices, after = changes(box, cursor)
    assert {name: device["enabled"] for name, device in devices.items()} == {second.device_id: False}
    assert after != cursor


def test_a_cursor_that_is_not_known_any_more_starts_again_with_all(box: Box, odoo: OdooSide) -> None:
    device = paired(odoo)
    assert device.device_id in changes(box, "4711-of-another-life")[0]
