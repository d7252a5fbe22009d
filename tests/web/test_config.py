"""The configuration download."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from appliance.errors import OdooRefusedError, OdooUnavailableError
from appliance.web.config import MOST_PER_DEVICE
from tests.web.conftest import CA_PEM, KEY, World, problem

PATH = "/api/v1/config/download"


@pytest.fixture(autouse=True)
def token(world: World) -> None:
    world.odoo.issue("config_token", "device_serial", "device001", config_version=7)


async def test_the_seed_documents_request_gets_a_configuration(world: World, client: httpx.AsyncClient) -> None:
    body = b'{\n  "serial": "device_serial",\n  "token": "config_token"\n}'
    response = await client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    answer = response.json()
    assert (answer["status"], answer["device_id"]) == ("ok", "device001")
    assert answer["mqtt"]["password"] == world.credentials.password("device001", 1)
    assert answer["mqtt"]["ca_pem"] == CA_PEM
    # the seed's body has no request_id: it may be repeated
    assert (await client.post(PATH, content=body)).json()["mqtt"] == answer["mqtt"]


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ("invalid_token", 403, "invalid_token"),
        ("unknown_serial", 403, "invalid_token"),
        ("token_used", 410, "token_used"),
        ("token_expired", 410, "token_expired"),
        ("device_disabled", 403, "device_disabled"),
        ("rate_limited", 429, "rate_limited"),
    ],
)
async def test_each_refusal_has_its_status_and_code(
    world: World, client: httpx.AsyncClient, said: str, status: int, code: str
) -> None:
    world.odoo.fail = OdooRefusedError("no", status=403, code=said)
    response = await client.post(PATH, json={"serial": "device_serial", "token": "x", "request_id": "r9"})
    document = problem(response)
    assert (response.status_code, document["code"], document["request_id"]) == (status, code, "r9")
    assert ("retry-after" in response.headers) is (status == 429)


async def test_pending_is_503_with_retry_after(world: World, client: httpx.AsyncClient) -> None:
    world.odoo.fail = OdooUnavailableError("away")
    response = await client.post(PATH, json={"serial": "device_serial", "token": "config_token"})
    assert (response.status_code, problem(response)["code"]) == (503, "pending")
    assert response.headers["retry-after"] == "30"


@pytest.mark.parametrize(
    "body", [{}, {"serial": "x"}, {"serial": 7, "token": "t"}, {"serial": "a/b", "token": "t"}, {"token": "t" * 300}]
)
async def test_a_bad_request_names_the_field_and_repeats_no_value(
    world: World, client: httpx.AsyncClient, body: dict[str, object]
) -> None:
    response = await client.post(PATH, json=body)
    document = problem(response)
    assert response.status_code in (400, 422)
    assert document["code"] == "bad_request"
    assert "t" * 300 not in response.text
    assert not world.odoo.calls


async def test_guesses_from_one_address_end_in_429(world: World) -> None:
    app = world.app()
    async with world.client(app, address="10.6.6.6") as stranger, world.client(app) as device:
        codes = []
        for number in range(25):
            response = await stranger.post(PATH, json={"serial": f"S-{number}", "token": f"guess-{number}"})
            codes.append(response.status_code)
        assert codes == [403] * 20 + [429] * 5
        assert int(response.headers["retry-after"]) > 0
        response = await device.post(PATH, json={"serial": "device_serial", "token": "config_token"})
        assert response.status_code == 200


async def test_a_paired_device_gets_its_configuration_with_its_secret_and_without_odoo(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.pair("press-07", "SN-1", config_version=9)
    world.odoo.fail = OdooUnavailableError("away")
    changed = asyncio.Event()
    world.registry.changed.append(lambda _: changed.set())
    secret = world.credentials.password("press-07", 1)
    for body in (b"", b"{}", b'{"serial": "SN-1", "request_id": "x"}'):
        response = await client.post(PATH, content=body, auth=("press-07", secret))
        answer = response.json()
        assert (response.status_code, answer["config_version"]) == (200, 9)
        assert "password" not in answer["mqtt"]
        assert answer["mqtt"]["ca_pem"] == CA_PEM
    # it has proved that it has its secret: that is a login
    await asyncio.wait_for(changed.wait(), 5)
    device = world.registry.get("press-07")
    assert device is not None
    assert device.login_generation == 1


@pytest.mark.parametrize(
    ("name", "secret"), [("press-07", "wrong"), ("press-07", ""), ("nobody", "x"), ("press-08", None), ("", "")]
)
async def test_another_secret_or_another_name_is_401(
    world: World, client: httpx.AsyncClient, name: str, secret: str | None
) -> None:
    await world.pair("press-07", "SN-1")
    await world.pair("press-08", "SN-2")
    if secret is None:
        secret = world.credentials.password("press-07", 1)
    response = await client.post(PATH, auth=(name, secret))
    assert (response.status_code, problem(response)["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic /w==", "Basic cHJlc3MtMDc="])
async def test_a_malformed_basic_header_is_401(world: World, client: httpx.AsyncClient, header: str) -> None:
    await world.pair("press-07", "SN-1")
    response = await client.post(PATH, headers={"Authorization": header})
    assert (response.status_code, problem(response)["code"]) == (401, "unauthorized")


async def test_a_paired_device_cannot_speak_for_another_serial_number(world: World, client: httpx.AsyncClient) -> None:
    await world.pair("press-07", "SN-1")
    auth = ("press-07", world.credentials.password("press-07", 1))
    response = await client.post(PATH, auth=auth, json={"serial": "device_serial", "token": "config_token"})
    assert (response.status_code, problem(response)["code"]) == (400, "bad_request")
    assert world.registry.get("device001") is None


async def test_a_paired_device_with_a_new_token_gets_its_next_secret(world: World, client: httpx.AsyncClient) -> None:
    await world.pair("press-07", "SN-1")
    world.odoo.issue("T-2", "SN-1", "press-07")
    auth = ("press-07", world.credentials.password("press-07", 1))
    answer = (await client.post(PATH, auth=auth, json={"token": "T-2", "request_id": "r2"})).json()
    assert answer["mqtt"]["password"] == world.credentials.password("press-07", 2)


async def test_a_disabled_device_is_told_so(world: World, client: httpx.AsyncClient) -> None:
    await world.pair("press-07", "SN-1")
    await world.registry.set_enabled("press-07", False)
    response = await client.post(PATH, auth=("press-07", world.credentials.password("press-07", 1)))
    assert (response.status_code, problem(response)["code"]) == (403, "device_disabled")


async def test_an_answer_is_the_configuration_even_where_an_api_key_is_sent(client: httpx.AsyncClient) -> None:
    body = {"serial": "device_serial", "token": "config_token", "request_id": "r", "ca_pem": False}
    response = await client.post(PATH, json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert response.status_code == 200
    assert "ca_pem" not in json.loads(response.content)["mqtt"]


async def test_strangers_may_not_make_it_read_more_than_a_request_is_long(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, content=b'{"serial": "' + b"x" * 16_384 + b'"}')
    assert (response.status_code, problem(response)["code"]) == (413, "too_large")


async def test_a_paired_device_is_told_a_rotated_secret_when_it_shows_the_one_before_and_only_then(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.pair("press-07", "SN-1")
    await world.services.changes.rotate("press-07")
    first, second = (world.credentials.password("press-07", generation) for generation in (1, 2))
    response = await client.post(PATH, auth=("press-07", first))
    assert response.json()["mqtt"]["password"] == second
    # the answer may have got lost
    assert (await client.post(PATH, auth=("press-07", first))).json()["mqtt"]["password"] == second
    changed = asyncio.Event()
    world.registry.changed.append(lambda device: changed.set() if device.login_generation == 2 else None)
    response = await client.post(PATH, auth=("press-07", second))
    assert (response.status_code, "password" in response.json()["mqtt"]) == (200, False)
    await asyncio.wait_for(changed.wait(), 5)
    assert (await client.post(PATH, auth=("press-07", first))).status_code == 401


async def test_a_device_that_asks_again_and_again_with_its_secret_is_slowed_down_and_no_other(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.pair("press-07", "SN-1")
    await world.pair("press-08", "SN-2")
    login = ("press-07", world.credentials.password("press-07", 1))
    answers = [(await client.post(PATH, auth=login)) for _ in range(MOST_PER_DEVICE + 1)]
    assert {answer.status_code for answer in answers[:-1]} == {200}
    assert (answers[-1].status_code, problem(answers[-1])["code"]) == (429, "rate_limited")
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    other = ("press-08", world.credentials.password("press-08", 1))
    assert (await client.post(PATH, auth=other)).status_code == 200
    world.clock.ahead += 61
    assert (await client.post(PATH, auth=login)).status_code == 200


async def test_guesses_at_a_device_do_not_lock_it_out(world: World) -> None:
    await world.pair("press-07", "SN-1")
    app = world.app()
    async with world.client(app) as stranger:
        for _ in range(25):
            response = await stranger.post(PATH, auth=("press-07", "guess"))
        assert response.status_code == 429
        # behind a proxy it has the same address
        login = ("press-07", world.credentials.password("press-07", 1))
        assert (await stranger.post(PATH, auth=login)).status_code == 200
