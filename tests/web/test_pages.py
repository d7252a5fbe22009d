"""The status page: who sees it, what it says, and that nothing from a device becomes markup."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from appliance.web.api import Health
from appliance.web.page_access import COOKIE, LIFETIME_S, MOST_SESSIONS
from tests.web.conftest import KEY, World, problem

BOX = "http://127.0.0.1:8000"
STRANGER = "10.0.0.9"


def browser(world: World, *, address: str = STRANGER, url: str = "http://gw1.factory.lan", **changes: object):  # type: ignore[no-untyped-def]
    transport = httpx.ASGITransport(world.app(**changes), client=(address, 50_000))
    return httpx.AsyncClient(transport=transport, base_url=url)


async def log_in(client: httpx.AsyncClient, key: str = KEY, **headers: str) -> httpx.Response:
    content = f"key={key}"
    return await client.post(
        "/ui/login", content=content, headers={"Content-Type": "application/x-www-form-urlencoded", **headers}
    )


async def test_a_browser_at_the_box_sees_the_page_without_a_key(world: World) -> None:
    async with browser(world, address="127.0.0.1", url=BOX) as client:
        page = await client.get("/ui/")
        data = await client.get("/ui/data")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "gateway-1" in page.text
    assert data.json()["name"] == "gateway-1"


@pytest.mark.parametrize(
    ("address", "url", "headers"),
    [
        (STRANGER, "http://gw1.factory.lan", {}),
        (STRANGER, BOX, {}),
        ("127.0.0.1", "http://evil.example", {}),  # a name that somebody lets point here (DNS rebinding)
        ("127.0.0.1", BOX, {"X-Forwarded-For": STRANGER}),
        ("127.0.0.1", BOX, {"Forwarded": "for=10.0.0.9"}),
    ],
    ids=["from elsewhere", "with a forged host", "through a rebound name", "through a proxy", "through another proxy"],
)
async def test_whoever_is_not_at_the_box_must_log_in(
    world: World, address: str, url: str, headers: dict[str, str]
) -> None:
    async with browser(world, address=address, url=url) as client:
        page = await client.get("/ui/", headers=headers)
        data = await client.get("/ui/data", headers=headers)
    assert (page.status_code, page.headers["location"]) == (303, "/ui/login")
    assert problem(data)["code"] == "unauthorized"


async def test_the_box_needs_a_key_too_where_that_is_set(world: World) -> None:
    world.services = replace(world.services, page_at_the_box=False)
    async with browser(world, address="127.0.0.1", url=BOX) as client:
        assert (await client.get("/ui/")).status_code == 303


async def test_a_key_opens_the_page_until_the_session_ends(world: World) -> None:
    async with browser(world) as client:
        answer = await log_in(client)
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert KEY not in cookie
        assert (await client.get("/ui/")).status_code == 200
        world.clock.ahead += LIFETIME_S
        assert (await client.get("/ui/")).status_code == 303


async def test_logging_out_ends_the_session_at_the_appliance(world: World) -> None:
    async with browser(world) as client:
        await log_in(client)
        cookie = client.cookies[COOKIE]
        await client.post("/ui/logout")
        client.cookies.clear()
        answer = await client.get("/ui/", headers={"Cookie": f"{COOKIE}={cookie}"})
    assert answer.status_code == 303


async def test_a_session_ends_with_its_key(world: World) -> None:
    key, text = await world.services.api_keys.create("page", "read")
    async with browser(world) as client:
        await log_in(client, text)
        assert (await client.get("/ui/")).status_code == 200
        await world.services.api_keys.revoke(key.key_id)
        assert (await client.get("/ui/")).status_code == 303


async def test_a_key_for_metrics_does_not_open_the_page(world: World) -> None:
    _, text = await world.services.api_keys.create("prometheus", "metrics")
    async with browser(world) as client:
        answer = await log_in(client, text)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_over_https_the_cookie_never_leaves_it(world: World) -> None:
    async with browser(world, url="https://gw1.factory.lan") as client:
        assert "Secure" in (await log_in(client)).headers["set-cookie"]


async def test_a_wrong_key_is_said_and_too_many_of_them_lock_nobody_out_who_has_a_right_one(world: World) -> None:
    async with browser(world) as client:
        first = await log_in(client, "wrong")
        for _ in range(30):
            last = await log_in(client, "wrong")
        right = await log_in(client)
    assert first.status_code == last.status_code == 403
    assert "not valid" in first.text
    assert "Too many" in last.text
    assert "set-cookie" not in last.headers
    assert (right.status_code, "set-cookie" in right.headers) == (303, True)


async def test_another_site_logs_nobody_in(world: World) -> None:
    async with browser(world) as client:
        answer = await log_in(client, KEY, **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_a_form_that_is_no_form_is_no_key(world: World) -> None:
    async with browser(world) as client:
        answers = [
            await client.post("/ui/login", content=content)
            for content in (b"", b"\xff\xfe", b"key=" + b"x" * 10_000, b"&" * 4000, b"key=&key=" + KEY.encode())
        ]
    assert {answer.status_code for answer in answers[:4]} == {403}
    assert not any("set-cookie" in answer.headers for answer in answers[:4])


async def test_sessions_are_bounded_and_the_oldest_one_ends(world: World) -> None:
    app = world.app()
    transport = httpx.ASGITransport(app, client=(STRANGER, 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://gw") as client:
        first = (await log_in(client)).cookies[COOKIE]
        for _ in range(MOST_SESSIONS):
            client.cookies.clear()
            newest = (await log_in(client)).cookies[COOKIE]
        client.cookies.clear()
        old = await client.get("/ui/", headers={"Cookie": f"{COOKIE}={first}"})
        new = await client.get("/ui/", headers={"Cookie": f"{COOKIE}={newest}"})
    assert (old.status_code, new.status_code) == (303, 200)


async def test_names_from_outside_never_become_markup(world: World) -> None:
    await world.pair("press-01", "SN-1")
    world.presence.connected("press-01", "10.0.0.1")
    world.presence.disconnected("press-01", "<script>alert(1)</script>")
    world.health = Health(status="degraded", reasons=("Odoo says <b>no</b>",), details=world.health.details)
    async with browser(world, address="127.0.0.1", url=BOX) as client:
        page = await client.get("/ui/", params={"search": '"><script>'})
        all_of_it = await client.get("/ui/")
    assert "<script>alert" not in all_of_it.text
    assert "<b>no</b>" not in all_of_it.text
    assert "Odoo says" in all_of_it.text
    assert '"><script>' not in page.text


async def test_the_page_of_a_device_says_why_it_is_offline_without_markup_from_outside(
    world: World,
) -> None:
    await world.pair("press-01", "SN-1")
    world.presence.connected("press-01", "10.0.0.1")
    world.presence.disconnected("press-01", "<b>unplugged</b>")
    async with browser(world, address="127.0.0.1", url=BOX) as client:
        page = await client.get("/ui/device/press-01")
        nobody = await client.get("/ui/device/press-99")
    assert page.status_code == 200
    assert "Why it is not online" in page.text
    assert "SN-1" in page.text
    assert "<b>unplugged" not in page.text
    assert problem(nobody)["status"] == 404
    async with browser(world) as stranger:
        assert (await stranger.get("/ui/device/press-01")).status_code == 303


async def test_the_page_may_load_nothing_from_elsewhere_and_be_framed_by_nobody(world: World) -> None:
    async with browser(world, address="127.0.0.1", url=BOX) as client:
        page = await client.get("/ui/")
        for path in ("/ui/static/status.js", "/ui/static/style.css", "/ui/static/icon.svg"):
            assert path in page.text
            assert (await client.get(path)).status_code == 200
        missing = await client.get("/ui/static/../pages.py")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert missing.status_code == 404


async def test_more_devices_than_fit_are_on_the_next_page_and_the_filter_stays(world: World) -> None:
    for number in range(3):
        await world.pair(f"press-{number}", f"SN-{number}")
    async with browser(world, address="127.0.0.1", url=BOX) as client:
        first = (await client.get("/ui/data", params={"limit": 2, "search": "press"})).json()
        page = await client.get("/ui/", params={"limit": 2, "search": "press", "status": ""})
        second = (await client.get("/ui/data", params={"after": first["next"], "search": "press"})).json()
        wrong = await client.get("/ui/data", params={"limit": "many"})
    assert [device["device_id"] for device in first["devices"]] == ["press-0", "press-1"]
    assert [device["device_id"] for device in second["devices"]] == ["press-2"]
    assert "after=press-1&amp;search=press" in page.text
    assert problem(wrong)["status"] == 422
