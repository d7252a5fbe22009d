"""Requests of one appliance that come at the same time, into an Odoo with workers: each message takes effect once."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import httpx
import pytest

from tests.contract.real_odoo import RECORDER, TEST_ADDONS, RealSide
from tests.contract.test_odoo_gateways import Box
from tests.contract.test_odoo_side import Gateway
from tests.odoo.cluster import Cluster
from tests.odoo.databases import ADDONS, new_database
from tests.odoo.releases import Odoo
from tests.odoo.server import OdooServer

pytestmark = pytest.mark.xdist_group("odoo-inbox-races")
MESSAGES = 500
AGAIN = (429, 503)


@pytest.fixture(scope="module")
def server(odoo: Odoo, cluster: Cluster) -> Iterator[OdooServer]:
    with new_database(odoo, cluster) as database:
        addons = (*ADDONS, TEST_ADDONS)
        with OdooServer(odoo, cluster, database, addons=addons, options=("-i", RECORDER), workers=3) as server:
            yield server


@pytest.fixture
def side(server: OdooServer) -> Iterator[RealSide]:
    side = RealSide(server.url, server.database)
    yield side
    side.close()


@pytest.fixture
def box(side: RealSide) -> Box:
    box = Box(Gateway(side))
    box.sync()
    box.post()  # the device is at its gateway from now on
    return box


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """What ``count`` calls return that begin together."""
    together = threading.Barrier(count)

    def run(number: int) -> Any:
        together.wait(30)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def statuses(answers: list[httpx.Response]) -> Counter[str]:
    """Of the messages, or of a batch that was not taken."""
    found: Counter[str] = Counter()
    for answer in answers:
        assert answer.status_code in (200, *AGAIN), answer.text
        if answer.status_code == 200:
            found.update(result["status"] for result in answer.json()["results"])
        else:
            found[answer.json()["code"]] += 1
    return found


def test_the_same_batch_posted_many_times_at_once_takes_effect_once(box: Box) -> None:
    seqs = range(1, MESSAGES + 1)
    for _ in range(3):
        found = statuses(at_once(6, lambda _number: box.post(*seqs)))
        assert found["stored"] in (0, MESSAGES)
    assert statuses([box.post(*seqs)]) == {"duplicate": MESSAGES}
    assert sorted(map(int, box.gateway.stored())) == list(seqs)


def test_batches_that_overlap_at_once_take_effect_once(box: Box) -> None:
    parts = [range(first, first + 100) for first in range(1, 400, 50)]

    def post(number: int) -> httpx.Response:
        while (answer := box.post(*parts[number])).status_code in AGAIN:
            pass
        return answer

    found = statuses(at_once(len(parts), post))
    everything = {seq for part in parts for seq in part}
    assert found["stored"] == len(everything)
    assert sorted(map(int, box.gateway.stored())) == sorted(everything)


def post_until_fenced(box: Box, first: int, stored: list[int]) -> None:
    """One message after the other; those that Odoo stored are noted."""
    for seq in range(first, first + 100):
        answer = box.post(seq)
        if answer.status_code == 409:
            assert answer.json()["code"] == "fenced"
            return
        if answer.status_code == 200:
            stored.append(seq)


def test_a_copy_that_syncs_is_told_of_all_that_the_other_one_could_store(box: Box) -> None:
    """What is stored after a twin's sync under a number that the twin will use would be lost."""
    for first in range(1, 1000, 100):
        stored: list[int] = []
        with ThreadPoolExecutor(1) as pool:
            posting = pool.submit(post_until_fenced, box, first, stored)
            while len(stored) < 5 and not posting.done():
                wait([posting], timeout=0.005)
            twin = box.clone(start_seq=1)
            (known,) = twin.sync()["known"]
            posting.result()
        assert known["highest_seq"] == max(stored)
        box = twin


def test_syncs_and_batches_at_once_never_fail(box: Box, side: RealSide) -> None:
    device = box.gateway.device

    def ask(number: int) -> list[int]:
        found = []
        for round_number in range(10):
            if number % 3 == 0:
                found.append(box.ask(cursor=None).status_code)
            elif number % 3 == 1:
                found.append(box.post(1000 * number + round_number).status_code)
            else:
                message = box.gateway.message(1, {"msg_id": f"single-{number}-{round_number}"})
                found.append(
                    side.http.post(f"/iiot/webhook/{device}", json=message | {"gateway": box.gateway.uid}).status_code
                )
        return found

    codes = Counter(code for codes in at_once(6, ask) for code in codes)
    assert set(codes) <= {200, 429}, codes
    assert codes[200] > 20


def test_one_token_claimed_many_times_at_once_pairs_one_request(side: RealSide) -> None:
    for _ in range(5):
        device = side.new_device()
        side.http.post("/iiot/config", json={})  # the key is there before the threads ask for it

        def claim(number: int, device: Any = device) -> httpx.Response:
            body = {"serial": device.serial, "token": device.token, "request_id": f"r-{number}"}
            while (answer := side.http.post("/iiot/config", json=body)).status_code in AGAIN:
                pass
            return answer

        answers = at_once(5, claim)
        assert Counter(answer.status_code for answer in answers) == {200: 1, 410: 4}


def test_one_code_used_many_times_at_once_enrols_one_appliance(side: RealSide) -> None:
    for _ in range(3):
        code = side.new_code()

        def enroll(_number: int, code: str = code) -> httpx.Response:
            body = {"contract": 1, "code": code, "gateway_uid": str(uuid.uuid4()), "name": "line 1", "version": "1"}
            headers = {"Authorization": ""}
            while (answer := side.http.post("/iiot/gateway/enroll", json=body, headers=headers)).status_code in AGAIN:
                pass
            return answer

        assert Counter(answer.status_code for answer in at_once(4, enroll)) == {200: 1, 410: 3}
