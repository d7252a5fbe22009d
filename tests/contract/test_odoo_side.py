"""What every Odoo side of the contract must do; the stand-in passes this, and the add-on in a real Odoo."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.contract.sides import NewDevice, OdooSide
from tests.firmware_sim.stand_in import API_KEY, stand_in


class StandInSide:
    """The stand-in as a process."""

    def __init__(self, url: str, control_url: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {API_KEY}"}, trust_env=False)
        self._control = httpx.Client(base_url=control_url, trust_env=False)

    def new_device(self, **config: Any) -> NewDevice:
        name = f"press-{uuid.uuid4().hex[:12]}"
        answer = self._control.post("/sim/devices", json={"device_id": name, **config})
        return NewDevice(**answer.raise_for_status().json()["devices"][0])

    def disable(self, device_id: str) -> None:
        self._control.patch(f"/sim/devices/{device_id}", json={"enabled": False}).raise_for_status()

    def effects(self, device_id: str) -> list[dict[str, Any]]:
        answer = self._control.get("/sim/effects", params={"device": device_id, "payload": "1"})
        return [json.loads(line) for line in answer.raise_for_status().text.splitlines()]

    def new_code(self, gateway_uid: str | None = None) -> str:
        body = {} if gateway_uid is None else {"gateway": gateway_uid}
        return str(self._control.post("/sim/codes", json=body).raise_for_status().json()["code"])

    def close(self) -> None:
        self.http.close()
        self._control.close()


def _real(major: int) -> Any:
    return pytest.param(f"odoo-{major}", marks=pytest.mark.xdist_group(f"contract-odoo-{major}"))


@pytest.fixture(scope="module", params=["stand-in", _real(19), _real(17)])
def odoo(request: pytest.FixtureRequest, real_odoo: Callable[[int], OdooSide]) -> Iterator[OdooSide]:
    if request.param != "stand-in":
        yield real_odoo(int(request.param.partition("-")[2]))
        return
    with stand_in() as addresses:
        side = StandInSide(addresses["url"], addresses["control_url"])
        yield side
        side.close()


class Gateway:
    """An appliance as Odoo sees it."""

    def __init__(self, odoo: OdooSide) -> None:
        self.odoo = odoo
        self.device = odoo.new_device().device_id
        self.uid = str(uuid.uuid4())
        self.epoch = str(uuid.uuid4())

    def message(self, seq: int, payload: Any = None, **members: Any) -> dict[str, Any]:
        at = "2026-11-22T10:00:00.000Z"
        message = {"seq": seq, "device": self.device, "kind": "telemetry", "at": at, "received_at": at, "lane": "live"}
        return message | {"payload": payload or {"msg_id": str(seq)}} | members

    def post(self, messages: list[dict[str, Any]], *, floor: int = 1, settled: int = 0, **more: Any) -> httpx.Response:
        body = {"contract": 1, "gateway": self.uid, "epoch": self.epoch, "floor": floor, "settled": settled}
        return self.odoo.http.post("/iiot/webhook", json=body | {"messages": messages} | more)

    def send(self, *seqs: int, floor: int = 1, settled: int = 0) -> list[str]:
        answer = self.post([self.message(seq) for seq in seqs], floor=floor, settled=settled)
        results = answer.raise_for_status().json()["results"]
        assert [result["seq"] for result in results] == list(seqs)
        return [result["status"] for result in results]

    def stored(self) -> list[str]:
        return [effect["payload"]["msg_id"] for effect in self.odoo.effects(self.device)]


@pytest.fixture
def gateway(odoo: OdooSide) -> Gateway:
    return Gateway(odoo)


def claim(odoo: OdooSide, device: NewDevice, request_id: str | None = "r-1", **changed: Any) -> httpx.Response:
    body = {"serial": device.serial, "token": device.token, "request_id": request_id, **changed}
    return odoo.http.post("/iiot/config", json={name: value for name, value in body.items() if value is not None})


def outcome(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_token_turns_a_serial_number_into_a_device_with_its_configuration(odoo: OdooSide) -> None:
    device = odoo.new_device(settings={"telemetry_interval_s": 3}, topics={"telemetry": "line1/{device}/t"})
    answer = claim(odoo, device).raise_for_status().json()
    assert answer["device_id"] == device.device_id
    assert answer["settings"]["telemetry_interval_s"] == 3
    assert answer["topics"]["telemetry"] == "line1/{device}/t"
    assert isinstance(answer["config_version"], int)
    assert "params" in answer["command_template"]


def test_a_claim_repeated_with_its_request_id_gets_the_same_answer(odoo: OdooSide) -> None:
    device = odoo.new_device()
    assert claim(odoo, device).json() == claim(odoo, device).raise_for_status().json()


@pytest.mark.parametrize("other", ["r-2", None], ids=["another request id", "no request id"])
def test_a_used_token_is_refused_to_another_request(odoo: OdooSide, other: str | None) -> None:
    device = odoo.new_device()
    claim(odoo, device).raise_for_status()
    assert outcome(claim(odoo, device, other)) == (410, "token_used")


def test_a_claim_without_request_id_may_be_repeated_until_the_device_is_heard_of(gateway: Gateway) -> None:
    device = gateway.odoo.new_device()
    claim(gateway.odoo, device, None).raise_for_status()
    claim(gateway.odoo, device, None).raise_for_status()
    gateway.device = device.device_id
    assert gateway.send(1) == ["stored"]
    assert outcome(claim(gateway.odoo, device, None)) == (410, "token_used")


@pytest.mark.parametrize("changed", [{"token": "WRONG"}, {"serial": "SN-nobody"}], ids=["token", "serial"])
def test_a_wrong_token_and_an_unknown_serial_number_are_refused_alike(odoo: OdooSide, changed: dict[str, str]) -> None:
    assert outcome(claim(odoo, odoo.new_device(), **changed)) == (403, "invalid_token")


def test_a_token_of_another_device_is_refused(odoo: OdooSide) -> None:
    first, second = odoo.new_device(), odoo.new_device()
    assert outcome(claim(odoo, first, token=second.token)) == (403, "invalid_token")


def test_an_expired_token_is_refused(odoo: OdooSide) -> None:
    assert outcome(claim(odoo, odoo.new_device(token_valid_s=0))) == (410, "token_expired")


def test_a_disabled_device_is_refused(odoo: OdooSide) -> None:
    device = odoo.new_device()
    odoo.disable(device.device_id)
    assert outcome(claim(odoo, device)) == (403, "device_disabled")


@pytest.mark.parametrize("path", ["/iiot/config", "/iiot/webhook", "/iiot/webhook/press-07"])
@pytest.mark.parametrize("header", ["Bearer wrong", "Basic abc", ""])
def test_a_request_without_the_right_key_is_refused(odoo: OdooSide, path: str, header: str) -> None:
    answer = odoo.http.post(path, json={}, headers={"Authorization": header})
    assert outcome(answer) == (401, "unauthorized")


def test_every_message_of_a_batch_gets_its_result_and_takes_effect_once(gateway: Gateway) -> None:
    assert gateway.send(1, 2, 3) == ["stored"] * 3
    assert gateway.send(1, 2, 3) == ["duplicate"] * 3
    assert gateway.stored() == ["1", "2", "3"]


def test_order_and_rebatching_do_not_matter(gateway: Gateway) -> None:
    assert gateway.send(5, 2) == ["stored", "stored"]
    assert gateway.send(1, 2, 3) == ["stored", "duplicate", "stored"]
    assert gateway.send(4, 5, 5) == ["stored", "duplicate", "duplicate"]
    assert sorted(gateway.stored()) == ["1", "2", "3", "4", "5"]


def test_a_message_twice_in_one_batch_takes_effect_once(gateway: Gateway) -> None:
    assert gateway.send(7, 7) == ["stored", "duplicate"]
    assert gateway.stored() == ["7"]


def test_what_lies_below_the_floor_is_a_duplicate_also_if_it_never_came(gateway: Gateway) -> None:
    assert gateway.send(10, floor=10) == ["stored"]
    assert gateway.send(9, 10) == ["duplicate", "duplicate"]
    assert gateway.stored() == ["10"]


def test_a_floor_never_sinks(gateway: Gateway) -> None:
    gateway.send(20, floor=20)
    gateway.send(21, floor=1)
    assert gateway.send(19) == ["duplicate"]


def test_epochs_and_gateways_are_told_apart(gateway: Gateway) -> None:
    gateway.send(1)
    gateway.epoch = str(uuid.uuid4())
    assert gateway.send(1) == ["stored"]
    gateway.uid = str(uuid.uuid4())
    assert gateway.send(1) == ["stored"]


def test_an_odoo_that_knows_less_than_it_once_confirmed_says_behind_and_stores_nothing(gateway: Gateway) -> None:
    gateway.send(1, 2)
    answer = gateway.post([gateway.message(51)], floor=51, settled=50)
    assert outcome(answer) == (409, "behind")
    assert answer.json()["highest"] == 2
    assert gateway.stored() == ["1", "2"]
    assert gateway.send(3, floor=1, settled=2) == ["stored"], "the floor was moved by a refused batch"


def test_settled_may_be_all_that_was_confirmed(gateway: Gateway) -> None:
    gateway.send(1, 2)
    assert gateway.send(2, 3, floor=3, settled=2) == ["duplicate", "stored"]


def test_a_rejected_message_leaves_the_rest_of_its_batch_stored_and_no_receipt(gateway: Gateway) -> None:
    bad = gateway.message(2, device="nobody-knows-me")
    for expected in ("stored", "duplicate"):
        results = gateway.post([gateway.message(1), bad, gateway.message(3)]).json()["results"]
        assert [result["status"] for result in results] == [expected, "rejected", expected]
        assert results[1]["code"] == "unknown_device"
        assert results[1]["message"]
    assert gateway.stored() == ["1", "3"]


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "gossip"}, {"at": "yesterday"}, {"at": None}, {"lane": "fast"}, {"device": 7}, {"received_at": 1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_message_that_makes_no_sense_is_rejected_with_a_reason(gateway: Gateway, wrong: dict[str, Any]) -> None:
    (result,) = gateway.post([gateway.message(1, **wrong)]).raise_for_status().json()["results"]
    assert (result["status"], result["code"]) == ("rejected", "invalid")
    assert gateway.stored() == []


def test_a_rejected_message_is_stored_once_its_reason_is_gone(gateway: Gateway) -> None:
    late = f"late-{uuid.uuid4().hex[:8]}"
    message = gateway.message(1, device=late)
    assert gateway.post([message]).json()["results"][0]["status"] == "rejected"
    gateway.odoo.new_device(device_id=late)
    assert gateway.post([message]).json()["results"][0]["status"] == "stored"


@pytest.mark.parametrize(
    "kind", ["telemetry", "command_response", "command_state", "ota_status", "presence", "gateway_event"]
)
def test_every_kind_of_message_is_taken(gateway: Gateway, kind: str) -> None:
    assert gateway.post([gateway.message(1, kind=kind)]).json()["results"][0]["status"] == "stored"
    assert [effect["kind"] for effect in gateway.odoo.effects(gateway.device)] == [kind]


@pytest.mark.parametrize("payload", [71.3, "text", [1, 2], True, {"deep": {"er": [None]}}], ids=repr)
def test_any_json_is_a_payload_and_arrives_as_it_was(gateway: Gateway, payload: Any) -> None:
    gateway.post([gateway.message(1, payload)]).raise_for_status()
    assert [effect["payload"] for effect in gateway.odoo.effects(gateway.device)] == [payload]


def test_an_empty_batch_is_answered(gateway: Gateway) -> None:
    answer = gateway.post([])
    assert answer.status_code == 200
    assert answer.json()["results"] == []
    assert isinstance(answer.json()["work"], bool)


@pytest.mark.parametrize(
    "changed",
    [{"contract": 2}, {"gateway": ""}, {"epoch": 5}, {"floor": -1}, {"settled": "1"}, {"messages": {}}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_batch_that_makes_no_sense_is_refused_with_a_code(gateway: Gateway, changed: dict[str, Any]) -> None:
    answer = gateway.post(**{"messages": [gateway.message(1)], **changed})
    assert outcome(answer) == (422, "bad_request")
    assert gateway.stored() == []


def test_a_message_without_a_number_refuses_its_batch(gateway: Gateway) -> None:
    answer = gateway.post([gateway.message(1), gateway.message(2) | {"seq": "two"}])
    assert outcome(answer) == (422, "bad_request")
    assert gateway.stored() == []


@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": NaN}', b""], ids=["torn", "no text", "deep", "NaN", "empty"]
)
def test_a_body_that_is_no_json_is_refused_with_a_code(odoo: OdooSide, body: bytes) -> None:
    answer = odoo.http.post("/iiot/webhook", content=body, headers={"Content-Type": "application/json"})
    assert outcome(answer) == (400, "bad_request")


def test_a_body_that_is_not_declared_as_json_is_refused(odoo: OdooSide) -> None:
    answer = odoo.http.post("/iiot/webhook", data={"contract": "1"})
    assert outcome(answer) == (415, "unsupported_media_type")


def test_a_single_message_takes_effect(gateway: Gateway) -> None:
    message = gateway.message(1, {"msg_id": "alone"})
    answer = gateway.odoo.http.post(f"/iiot/webhook/{gateway.device}", json=message)
    assert answer.status_code == 200
    assert gateway.stored() == ["alone"]


def test_a_single_message_of_an_unknown_device_is_refused(gateway: Gateway) -> None:
    answer = gateway.odoo.http.post("/iiot/webhook/nobody-knows-me", json=gateway.message(1))
    assert outcome(answer) == (404, "unknown_device")
