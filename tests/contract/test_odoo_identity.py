"""What every Odoo side must do for a box that is replaced: keep its identity, and hand it to the one that follows."""

from __future__ import annotations

import json
import uuid
from base64 import b64encode
from typing import Any

import httpx
import pytest

from tests.contract.test_odoo_gateways import Box, new
from tests.contract.test_odoo_side import Gateway, OdooSide, gateway, odoo, outcome

__all__ = ["gateway", "odoo"]

SEALED = b64encode(b"what only the appliance can read").decode()
OTHER = b64encode(b"what it put later").decode()


def enroll(odoo: OdooSide, code: str, uid: str, **more: Any) -> httpx.Response:
    body = {"contract": 1, "code": code, "gateway_uid": uid, "name": "line 1", "version": "1.0", **more}
    return odoo.http.post("/iiot/gateway/enroll", json=body, headers={"Authorization": ""})


class Enrolled:
    """A gateway that came with a code, with its own key."""

    def __init__(self, odoo: OdooSide) -> None:
        self.odoo = odoo
        self.uid = new()
        answer = enroll(odoo, odoo.new_code(), self.uid).raise_for_status().json()
        self.database: str = answer["database_uuid"]
        self.headers = {"Authorization": f"Bearer {answer['api_key']}"}

    def put(self, identity: str | None = SEALED, **more: Any) -> httpx.Response:
        body = {"contract": 1, "gateway": self.uid, "identity": identity, **more}
        return self.odoo.http.put("/iiot/gateway/identity", json=body, headers=self.headers)


@pytest.fixture
def enrolled(odoo: OdooSide) -> Enrolled:
    return Enrolled(odoo)


def sync_of(odoo: OdooSide, uid: str, key: str) -> httpx.Response:
    start = new()
    body = {
        "contract": 1,
        "gateway": uid,
        "name": "line 1",
        "version": "1.0",
        "time": "2026-11-22T10:00:00.000Z",
        "uptime_s": 5.0,
        "start": start,
        "starts": [{"start": start, "first_seq": 1}],
        "epochs": [{"epoch": new(), "last_seq": 0, "floor": 1, "settled": 0, "stored": 0}],
    }
    return odoo.http.post("/iiot/gateway/sync", json=body, headers={"Authorization": f"Bearer {key}"})


def test_a_gateway_that_is_new_has_no_earlier_uid_and_no_identity(odoo: OdooSide) -> None:
    answer = enroll(odoo, odoo.new_code(), new()).raise_for_status().json()
    assert (answer.get("gateway_uid") or None, answer.get("identity") or None) == (None, None)


def test_a_replacement_gets_the_newest_identity_and_a_key_for_the_gateway_that_it_becomes(enrolled: Enrolled) -> None:
    odoo = enrolled.odoo
    for identity in (SEALED, OTHER):
        answer = enrolled.put(identity)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    replacement = new()
    answer = enroll(odoo, odoo.new_code(enrolled.uid), replacement, recover=True).raise_for_status().json()
    assert (answer["identity"], answer["gateway_uid"]) == (OTHER, enrolled.uid)
    assert answer["database_uuid"] == enrolled.database
    assert outcome(sync_of(odoo, replacement, answer["api_key"])) == (403, "wrong_gateway")
    assert sync_of(odoo, enrolled.uid, answer["api_key"]).status_code == 200


def test_a_replacement_of_a_gateway_of_which_nothing_is_kept_is_refused_and_its_code_stays_good(
    enrolled: Enrolled,
) -> None:
    odoo = enrolled.odoo
    code = odoo.new_code(enrolled.uid)
    assert outcome(enroll(odoo, code, new(), recover=True)) == (404, "no_identity")
    enrolled.put()
    assert enroll(odoo, code, new(), recover=True).raise_for_status().json()["identity"] == SEALED
    assert outcome(enroll(odoo, code, new(), recover=True)) == (410, "code_used")


def test_a_code_of_a_gateway_that_was_never_enrolled_recovers_nothing(odoo: OdooSide) -> None:
    assert outcome(enroll(odoo, odoo.new_code(), new(), recover=True)) == (404, "no_identity")


def test_a_box_that_takes_over_without_recovering_is_told_whose_place_it_takes_and_the_identity_stays(
    enrolled: Enrolled,
) -> None:
    odoo = enrolled.odoo
    enrolled.put()
    other = new()
    answer = enroll(odoo, odoo.new_code(enrolled.uid), other).raise_for_status().json()
    assert (answer["gateway_uid"], answer.get("identity") or None) == (enrolled.uid, None)
    assert sync_of(odoo, other, answer["api_key"]).status_code == 200
    answer = enroll(odoo, odoo.new_code(other), new(), recover=True).raise_for_status().json()
    assert (answer["identity"], answer["gateway_uid"]) == (SEALED, other)


def test_the_same_box_may_enrol_again_and_stays_itself(enrolled: Enrolled) -> None:
    odoo = enrolled.odoo
    enrolled.put()
    answer = enroll(odoo, odoo.new_code(enrolled.uid), enrolled.uid).raise_for_status().json()
    assert answer["gateway_uid"] == enrolled.uid
    assert sync_of(odoo, enrolled.uid, answer["api_key"]).status_code == 200


def test_an_identity_can_be_taken_away_again(enrolled: Enrolled) -> None:
    enrolled.put()
    assert enrolled.put(None).status_code == 200
    odoo = enrolled.odoo
    assert outcome(enroll(odoo, odoo.new_code(enrolled.uid), new(), recover=True)) == (404, "no_identity")


def test_an_identity_of_the_largest_size_comes_back_as_it_was(enrolled: Enrolled) -> None:
    largest = b64encode(bytes(range(256)) * 192).decode()
    assert len(largest) == 64 << 10
    assert enrolled.put(largest).status_code == 200
    odoo = enrolled.odoo
    answer = enroll(odoo, odoo.new_code(enrolled.uid), new(), recover=True).raise_for_status().json()
    assert answer["identity"] == largest


@pytest.mark.parametrize(
    "wrong",
    [{"identity": "no base64!"}, {"identity": ""}, {"identity": 7}, {"gateway": "x"}, {"contract": 2}],
    ids=json.dumps,
)
def test_an_identity_that_makes_no_sense_is_refused_and_the_one_before_it_stays(
    odoo: OdooSide, wrong: dict[str, Any]
) -> None:
    known = Enrolled(odoo)
    known.put()
    body = {"contract": 1, "gateway": known.uid, "identity": OTHER, **wrong}
    answer = odoo.http.put("/iiot/gateway/identity", json=body, headers=known.headers)
    assert outcome(answer) in ((422, "bad_request"), (403, "wrong_gateway"))
    recovered = enroll(odoo, odoo.new_code(known.uid), new(), recover=True).raise_for_status().json()
    assert recovered["identity"] == SEALED


def test_an_identity_that_is_too_long_is_refused(enrolled: Enrolled) -> None:
    assert outcome(enrolled.put("A" * ((64 << 10) + 4))) in ((422, "bad_request"), (413, "too_large"))


def test_an_identity_is_taken_with_the_gateways_own_key_alone(enrolled: Enrolled) -> None:
    odoo, other = enrolled.odoo, Enrolled(enrolled.odoo)
    body = {"contract": 1, "gateway": enrolled.uid, "identity": SEALED}
    path = "/iiot/gateway/identity"
    assert outcome(odoo.http.put(path, json=body, headers={"Authorization": ""})) == (401, "unauthorized")
    assert outcome(odoo.http.put(path, json=body, headers=other.headers)) == (403, "wrong_gateway")


def test_an_identity_of_a_copy_that_was_left_behind_or_of_another_database_is_refused(gateway: Gateway) -> None:
    box = Box(gateway)
    box.sync()
    left_behind = box.admission

    def put(**more: Any) -> httpx.Response:
        body = {"contract": 1, "gateway": gateway.uid, "identity": SEALED, **more}
        return gateway.odoo.http.put("/iiot/gateway/identity", json=body)

    assert put(start=left_behind, database_uuid=box.database).status_code == 200
    box.clone(start_seq=1).sync()
    assert outcome(put(start=left_behind)) == (409, "fenced")
    assert outcome(put(database_uuid=str(uuid.uuid4()))) == (409, "wrong_database")


def test_the_box_that_died_is_fenced_when_it_comes_back(gateway: Gateway) -> None:
    box = Box(gateway)
    box.sync()
    box.send(1)
    replacement = Box(gateway)
    replacement.epochs = [new()]
    answer = replacement.sync()
    assert answer["known"] == []
    assert outcome(box.ask()) == (409, "fenced")
    assert outcome(box.post(2)) == (409, "fenced")
    assert replacement.send(1) == ["stored"], "a new box counts from one again, in an epoch of its own"
