"""Who gets in at the status pages, for how long, and what only they can change."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from appliance.errors import BusyError, DataFolderError, PasswordRefusedError
from appliance.page_password import FIRST_FILE, HASH_FILE, MOST_WAITING, PagePassword, generate
from appliance.store.buffer import Rejection
from appliance.web.pages.access import COOKIE, SECURE_COOKIE
from appliance.web.pages.sessions import IDLE_S, LONGEST_S, MOST_SESSIONS
from tests.conftest import ROOT
from tests.web.browser import Browser, why
from tests.web.conftest import AUTHORIZED, KEY, World, problem

PLAIN = "http://gw1.factory.lan:8000"
PAGES = ("/ui/", "/ui/devices", "/ui/device/press-01", "/ui/messages", "/ui/message/1", "/ui/gateway", "/ui/enrol")
CHANGES = ("/ui/messages/retry", "/ui/messages/remove", "/ui/password", "/ui/enrol", "/ui/logout")


@pytest.fixture
def password(world: World, tmp_path: Path) -> str:
    return (tmp_path / FIRST_FILE).read_text().strip()


async def parked(world: World, count: int = 1) -> None:
    for number in range(count):
        world.buffer.append("press-01", 1, b'{"n":%d}' % number, received_at_ms=1_700_000_000_000)
    await world.buffer.settle([], [Rejection(seq, "no_rule", "no rule") for seq in range(1, count + 1)])


# --- the login ------------------------------------------------------------------------------------------------


async def test_nobody_sees_a_page_without_a_login(world: World) -> None:
    await world.pair("press-01", "SN-1")
    for address in ("10.0.0.9", "127.0.0.1"):
        async with Browser(world.app(), address=address) as browser:
            for path in (*PAGES, "/ui/messages/export"):
                answer = await browser.get(path)
                assert (answer.status_code, answer.headers["location"], answer.text) == (303, "/ui/login", ""), path
            for path in CHANGES:
                answer = await browser.post(path, data={"csrf": "x"})
                assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login"), path
            assert problem(await browser.get("/ui/live"))["code"] == "unauthorized"
            assert "Password" in await browser.open("/ui/login")


async def test_an_api_key_in_a_header_is_no_login_and_a_cookie_is_no_api_key(world: World) -> None:
    async with Browser(world.app()) as browser:
        assert (await browser.get("/ui/", headers=AUTHORIZED)).status_code == 303
        await browser.log_in()
        assert (await browser.get("/api/v1/devices/status")).status_code == 401


async def test_the_first_password_opens_the_pages_and_its_file_goes(
    world: World, password: str, tmp_path: Path
) -> None:
    assert stat.S_IMODE((tmp_path / FIRST_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / HASH_FILE).stat().st_mode) == 0o600
    assert (tmp_path / HASH_FILE).read_text().startswith("$argon2id$")
    async with Browser(world.app()) as browser:
        answer = await browser.log_in(password)
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")
        assert "All is well" in await browser.open("/ui/")
    assert not (tmp_path / FIRST_FILE).exists()
    again = await asyncio.to_thread(PagePassword.open, tmp_path)
    assert await again.verify(password), "a restart keeps the password"


async def test_the_cookie_is_for_this_host_over_https_and_for_no_script(world: World, password: str) -> None:
    async with Browser(world.app()) as browser:
        cookie = (await browser.log_in(password)).headers["set-cookie"]
    name, _, rest = cookie.partition("=")
    value, *attributes = rest.split("; ")
    assert name == SECURE_COOKIE == "__Host-iiot_page"
    assert len(value) == 43
    assert password not in cookie
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/", f"Max-Age={LONGEST_S}"} == set(attributes)
    async with Browser(world.app(), url=PLAIN) as browser:
        cookie = (await browser.log_in()).headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "Secure" not in cookie


async def test_a_session_ends_when_it_is_old_or_idle_and_at_the_logout(world: World, password: str) -> None:
    app = world.app()
    async with Browser(app) as browser:
        await browser.log_in(password)
        for _ in range(int(LONGEST_S / IDLE_S * 1.25) - 1):
            world.clock.ahead += IDLE_S * 0.8
            assert (await browser.get("/ui/")).status_code == 200
        world.clock.ahead += IDLE_S * 0.8
        assert (await browser.get("/ui/")).status_code == 303, "old"
        await browser.log_in(password)
        world.clock.ahead += IDLE_S
        assert (await browser.get("/ui/")).status_code == 303, "idle"
        await browser.log_in(password)
        await browser.open("/ui/")
        stolen = dict(browser.cookies)
        assert (await browser.submit("/ui/logout", {})).headers["location"] == "/ui/login"
        assert not dict(browser.cookies)
    async with Browser(app) as thief:
        thief.cookies.update(stolen)
        assert (await thief.get("/ui/")).status_code == 303, "logged out at the appliance, not in the browser alone"


async def test_an_invented_cookie_opens_nothing(world: World) -> None:
    app = world.app()
    for cookie in ("", "x", "x" * 43, "x" * 4000):
        async with Browser(app) as browser:
            browser.cookies.set(SECURE_COOKIE, cookie)
            assert (await browser.get("/ui/")).status_code == 303
    async with Browser(app) as browser:
        await browser.log_in()
        browser.cookies.set(COOKIE, browser.cookies[SECURE_COOKIE])
        del browser.cookies[SECURE_COOKIE]
        assert (await browser.get("/ui/")).status_code == 303, "a cookie that could be planted from outside HTTPS"


async def test_sessions_are_bounded_and_the_one_used_longest_ago_ends(world: World) -> None:
    app = world.app()
    async with Browser(app) as first, Browser(app) as second:
        await first.log_in()
        await second.log_in()
        assert (await first.get("/ui/enrol")).status_code == 200
        async with Browser(app) as others:
            for _ in range(MOST_SESSIONS - 1):
                others.cookies.clear()
                await others.log_in()
        assert (await second.get("/ui/enrol")).status_code == 303
        assert (await first.get("/ui/enrol")).status_code == 200


async def test_a_login_ends_the_session_that_the_browser_had(world: World) -> None:
    app = world.app()
    async with Browser(app) as browser:
        await browser.log_in()
        before = browser.cookies[SECURE_COOKIE]
        await browser.log_in()
        browser.cookies.set(SECURE_COOKIE, before, domain="gw1.factory.lan", path="/")
        assert (await browser.get("/ui/enrol")).status_code == 303


async def test_a_session_ends_with_its_key_and_a_key_for_metrics_opens_none(world: World) -> None:
    key, text = await world.services.api_keys.create("page", "read")
    _, metrics = await world.services.api_keys.create("prometheus", "metrics")
    async with Browser(world.app()) as browser:
        refused = await browser.log_in(metrics)
        assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
        await browser.log_in(text)
        assert (await browser.get("/ui/")).status_code == 200
        await world.services.api_keys.revoke(key.key_id)
        assert (await browser.get("/ui/")).status_code == 303


async def test_wrong_ones_are_limited_by_address_and_lock_out_nobody_for_long(world: World, password: str) -> None:
    app = world.app()
    async with Browser(app) as browser, Browser(app, address="10.0.0.10") as neighbour:
        first = await browser.log_in("wrong")
        for _ in range(25):
            last = await browser.log_in("wrong")
        assert (first.status_code, "neither the password" in first.text) == (403, True)
        assert (last.status_code, "Too many failed attempts" in last.text) == (403, True)
        assert "Too many failed attempts" in (await browser.log_in(password)).text
        assert (await neighbour.log_in(password)).status_code == 303, "another address"
        assert (await browser.log_in(KEY)).status_code == 303, "a valid key always passes"
        world.clock.ahead += 61
        assert (await browser.log_in(password)).status_code == 303, "after the minute"


async def test_many_at_once_are_not_all_tried(world: World) -> None:
    async with Browser(world.app()) as browser:
        answers = await asyncio.gather(*(browser.log_in(f"wrong {number}") for number in range(60)))
    tried = [answer for answer in answers if "neither the password" in answer.text]
    assert len(tried) <= 20
    assert all(answer.status_code == 403 for answer in answers)


async def test_right_ones_do_not_count_as_failures(world: World, password: str) -> None:
    async with Browser(world.app()) as browser:
        for _ in range(25):
            assert (await browser.log_in(password)).status_code == 303


async def test_a_form_that_is_no_form_opens_nothing(world: World) -> None:
    async with Browser(world.app()) as browser:
        answers = [
            await browser.post("/ui/login", content=content)
            for content in (b"", b"\xff\xfe", b"password=" + b"x" * 8000, b"password=%00", b"password=" + b"%FF" * 99)
        ]
        assert {answer.status_code for answer in answers} == {403}
        assert (await browser.post("/ui/login", content=b"password=" + b"x" * 10_000)).status_code == 413
        assert (await browser.post("/ui/login", content=b"&".join([b"a=1"] * 99))).status_code == 400
        assert not browser.cookies


# --- changes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("token", [None, "", "wrong", "ü"])
async def test_a_change_without_the_session_s_own_token_is_refused(world: World, path: str, token: str | None) -> None:
    await parked(world)
    async with Browser(world.app()) as browser:
        await browser.log_in()
        fields = {"id": "1", "sure": "yes", "odoo": "https://o", "code": "c", "new": "n" * 12, "again": "n" * 12}
        answer = await browser.post(path, data=fields if token is None else {**fields, "csrf": token})
        assert answer.status_code == 403
        assert why(answer) == "This form does not come from a page of this session."
        assert (await browser.get("/ui/")).status_code == 200, "still logged in"
    assert (await world.services.dead_letters.stock()).rows == 1
    assert world.services.pages.password.generation == 0


async def test_the_token_of_another_session_is_no_good(world: World) -> None:
    await parked(world)
    app = world.app()
    async with Browser(app) as mine, Browser(app) as theirs:
        await mine.log_in()
        await theirs.log_in()
        await theirs.open("/ui/messages")
        mine.csrf = theirs.csrf
        assert (await mine.submit("/ui/messages/retry", {"id": "1"})).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
    ids=["another site", "a neighbour", "an old browser", "a sandbox"],
)
async def test_a_form_of_another_site_changes_nothing_even_with_the_token(
    world: World, headers: dict[str, str]
) -> None:
    await parked(world)
    async with Browser(world.app()) as browser:
        refused = await browser.log_in(KEY, **headers)
        assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
        await browser.log_in()
        await browser.open("/ui/messages")
        assert (await browser.submit("/ui/messages/retry", {"id": "1"}, **headers)).status_code == 403
        own = {"Origin": "https://gw1.factory.lan:8000", "Sec-Fetch-Site": "same-origin"}
        assert (await browser.submit("/ui/messages/retry", {"id": "1"}, **own)).status_code == 303


@pytest.mark.parametrize(("scope", "may"), [("read", ()), ("operate", CHANGES[:2]), ("full", CHANGES[:4])])
async def test_who_came_with_a_key_changes_only_what_its_scope_opens(
    world: World, scope: str, may: tuple[str, ...]
) -> None:
    await parked(world, 2)
    _, text = await world.services.api_keys.create("page", scope)  # type: ignore[arg-type]
    fields = {"id": "1", "sure": "yes", "odoo": "https://o", "code": "c", "new": "n" * 12, "again": "n" * 12}
    async with Browser(world.app()) as browser:
        await browser.log_in(text)
        for number, path in enumerate(CHANGES[:4], 1):
            await browser.open("/ui/")
            answer = await browser.submit(path, {**fields, "id": str(number)})
            assert (answer.status_code != 403) == (path in may), path
        page = await browser.open("/ui/messages")
        assert ("/ui/messages/remove" in page) == bool(may and (await world.services.dead_letters.stock()).rows)


# --- changing the password ------------------------------------------------------------------------------------


async def change(browser: Browser, current: str, new: str, again: str | None = None) -> httpx.Response:
    await browser.open("/ui/gateway")
    return await browser.submit(
        "/ui/password", {"current": current, "new": new, "again": new if again is None else again}
    )


async def test_a_changed_password_ends_all_sessions_of_the_old_one(world: World, password: str) -> None:
    app = world.app()
    async with Browser(app) as browser, Browser(app) as other, Browser(app) as with_key:
        await with_key.log_in()
        for each in (browser, other):
            await each.log_in(password)
        for current, new, again, said in (
            (password, "short", None, "at least 10"),
            (password, "long enough", "long enougg", "twice"),
            ("wrong", "long enough", None, "neither the password"),
            (password, "x" * 300, None, "at most 256"),
        ):
            answer = await change(browser, current, new, again)
            assert (answer.status_code, said in answer.text) == (422, True), said
        answer = await change(browser, password, "pässword, a long one")
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login?changed=1")
        assert (await browser.get("/ui/")).status_code == (await other.get("/ui/")).status_code == 303
        assert (await with_key.get("/ui/")).status_code == 200
        assert (await browser.log_in(password)).status_code == 403
        assert (await browser.log_in("pässword, a long one")).status_code == 303


async def test_over_the_api_a_password_is_set_or_made(world: World, client: httpx.AsyncClient, password: str) -> None:
    path = "/api/v1/page-password"
    made = (await client.post(path, json={"password": None}, headers=AUTHORIZED)).json()["password"]
    assert await world.services.pages.password.verify(made)
    assert (await client.post(path, json={"password": "of my own choice"}, headers=AUTHORIZED)).json() == {
        "password": None
    }
    assert not await world.services.pages.password.verify(made)
    short = await client.post(path, json={"password": "short"}, headers=AUTHORIZED)
    assert "at least 10 characters" in problem(short)["detail"]
    _, operate = await world.services.api_keys.create("odoo", "operate")
    refused = await client.post(path, json={"password": None}, headers={"X-API-Key": operate})
    assert problem(refused)["code"] == "insufficient_scope"
    assert await world.services.pages.password.verify("of my own choice")


# --- the password itself --------------------------------------------------------------------------------------


async def test_the_same_letters_from_another_keyboard_are_the_same_password(tmp_path: Path) -> None:
    password = PagePassword.open(tmp_path)
    await password.change("Stra\u00dfe f\u00fcnf")
    assert await password.verify(" Stra\u00dfe fu\u0308nf ")
    for wrong in ("", "Strasse fünf", "x" * 300, "\x00", "\udcff"):
        assert not await password.verify(wrong)


async def test_a_first_start_that_was_cut_off_goes_on_with_the_password_it_had_written(tmp_path: Path) -> None:
    PagePassword.open(tmp_path)
    first = (tmp_path / FIRST_FILE).read_text().strip()
    (tmp_path / HASH_FILE).unlink()
    assert await PagePassword.open(tmp_path).verify(first)


def test_a_damaged_hash_is_said_and_never_replaced(tmp_path: Path) -> None:
    PagePassword.open(tmp_path)
    (tmp_path / HASH_FILE).write_text("nothing")
    with pytest.raises(DataFolderError, match="damaged"):
        PagePassword.open(tmp_path)
    assert (tmp_path / HASH_FILE).read_text() == "nothing"


async def test_those_who_wait_for_their_turn_are_few(tmp_path: Path) -> None:
    password = PagePassword.open(tmp_path)
    answers = await asyncio.gather(*(password.verify("wrong") for _ in range(MOST_WAITING + 5)), return_exceptions=True)
    assert sum(isinstance(each, BusyError) for each in answers) == 5
    assert answers.count(False) == MOST_WAITING
    assert await password.verify((tmp_path / FIRST_FILE).read_text().strip()), "afterwards there is room again"


async def test_a_password_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    password = PagePassword.open(tmp_path)
    await password.change("the one before")
    (tmp_path / HASH_FILE).unlink()
    (tmp_path / HASH_FILE).mkdir()
    with pytest.raises(DataFolderError):
        await password.change("the one after it")
    with pytest.raises(PasswordRefusedError):
        await password.change("short")
    assert password.generation == 1
    assert await password.verify("the one before")


def test_generated_passwords_can_be_read_out() -> None:
    made = {generate() for _ in range(100)}
    assert len(made) == 100
    assert all(len(each) == 19 and not set(each) & set("01oilaeu") for each in made)


def test_the_memory_of_a_hash_is_given_back(tmp_path: Path) -> None:
    code = f"""
import asyncio, pathlib
from appliance.page_password import PagePassword
def memory(): return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
async def main():
    password = PagePassword.open(pathlib.Path({str(tmp_path)!r}))
    before = memory()
    for _ in range(3):
        assert not await password.verify("wrong")
    print(memory() - before)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4_000_000
