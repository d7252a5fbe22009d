"""What the status pages say, what they change, and that nothing from outside becomes markup."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from appliance.contract.odoo import Kind
from appliance.enrolment import Enrolled
from appliance.errors import OdooRefusedError, SettingsError, StoreUnavailableError
from appliance.store.buffer import Rejection
from appliance.web.api import Health
from appliance.web.pages.devices import Rates
from appliance.web.pages.frame import STATIC, WEB
from appliance.web.pages.words import ago, number, rate, size, span, tame, when
from tests.web.browser import Browser, why
from tests.web.conftest import World

PAGES = ("/ui/", "/ui/devices", "/ui/device/press-01", "/ui/messages", "/ui/message/1", "/ui/gateway", "/ui/enrol")
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\u0007'
BUDGET_BYTES = 50_000
BUDGET_S = 0.1


async def park(world: World, *payloads: bytes, device: str = "press-01", message: str = "no rule takes it") -> None:
    first = world.buffer.backlog().last_seq + 1
    for payload in payloads:
        world.buffer.append(device, Kind.TELEMETRY, payload, received_at_ms=1_795_341_600_000)
    await world.buffer.settle([], [Rejection(first + n, "no_rule", message) for n in range(len(payloads))])


@pytest.fixture
async def browser(world: World) -> Any:
    await world.pair("press-01", "SN-1")
    async with Browser(world.app()) as browser:
        await browser.log_in()
        yield browser


# --- what holds for every page --------------------------------------------------------------------------------


async def test_every_page_may_load_from_here_alone_and_be_framed_by_nobody(world: World, browser: Browser) -> None:
    await park(world, b"{}")
    for path in (*PAGES, "/ui/login", "/ui/device/nobody", *(f"/ui/static/{name}" for name in STATIC)):
        answer = await browser.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "frame-ancestors 'none'" in policy, path
        assert "form-action 'self'" in policy, path
        assert "unsafe" not in policy, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        wanted = "no-cache" if "static" in path else "no-store"
        assert answer.headers["cache-control"] == wanted, path
    assert (await browser.get("/ui/static/../pages/frame.py")).status_code == 404


def test_no_template_holds_what_the_policy_forbids() -> None:
    for path in (WEB / "templates").iterdir():
        text = path.read_text()
        assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=|javascript:|\| ?safe", text), path.name
        assert not re.search(r"""(src|href|action)=["'](https?:)?//""", text), path.name


async def test_all_of_it_is_escaped_wherever_it_comes_from(world: World, browser: Browser) -> None:
    await park(world, json.dumps({HOSTILE: [HOSTILE]}).encode(), message=HOSTILE)
    world.buffer.append("press-01", Kind.TELEMETRY, json.dumps(HOSTILE).encode(), received_at_ms=1)
    await world.buffer.wait_for_messages(1)
    world.presence.connected("press-01", HOSTILE)
    world.presence.disconnected("press-01", HOSTILE)
    details = {"uplink": {"configured": True, "reachable": False, "last_error": HOSTILE, "alarm": HOSTILE}}
    world.health = Health(status="degraded", reasons=(HOSTILE,), details=details)
    facts = {**world.services.pages.facts(), "odoo": HOSTILE, "odoo_database": HOSTILE, "names": (HOSTILE,)}
    pages = replace(world.services.pages, facts=lambda: facts, log_lines=lambda: [HOSTILE])
    async with Browser(world.app(name=HOSTILE, pages=pages)) as visitor:
        await visitor.log_in()
        texts = {path: await visitor.open(path) for path in PAGES}
        texts |= {
            path: await visitor.open(path, **{name: HOSTILE})
            for path, name in (("/ui/devices", "search"), ("/ui/messages", "device"), ("/ui/messages", "code"))
        }
        texts["refusal"] = (await visitor.get(f"/ui/device/{quote(HOSTILE, safe='')}")).text
        fields = {"odoo": HOSTILE, "code": "c", "database": HOSTILE}
        texts["enrol"] = (await visitor.submit("/ui/enrol", fields)).text
    for path, text in texts.items():
        assert "alert(1)" in text or "refusal" in path, path
        assert "<script>alert" not in text, path
        assert "<img" not in text, path
        assert not set(text) & set("\u202e\u0007"), f"{path}: nothing turns what stands beside it"


async def test_the_overview_is_small_and_quick_with_all_that_it_loads(world: World, browser: Browser) -> None:
    first = await browser.open("/ui/")
    files = re.findall(r'(?:src|href)="(/ui/static/[^"]+)"', first)
    assert len(files) == len(STATIC)
    bytes_in_all = len(first.encode()) + sum([len((await browser.get(path)).content) for path in files])
    assert bytes_in_all < BUDGET_BYTES
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        await browser.open("/ui/")
        times.append(time.perf_counter() - begun)
    assert min(times) < BUDGET_S


async def test_who_types_the_address_alone_gets_to_the_pages_and_a_program_gets_json(world: World) -> None:
    async with Browser(world.app()) as browser:
        shown = await browser.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert (shown.status_code, shown.headers["location"]) == (303, "/ui/")
        assert (await browser.get("/")).json()["name"] == "gateway-1"


async def test_pages_say_so_where_the_store_cannot_be_asked(world: World, browser: Browser) -> None:
    async def fails(*_: object, **__: object) -> Any:
        raise StoreUnavailableError("disk full at /secret/place")

    world.database.run = fails  # type: ignore[method-assign]
    for path in ("/ui/messages", "/ui/message/1"):
        answer = await browser.get(path)
        assert (answer.status_code, "Nothing can be stored" in why(answer)) == (503, True)
        assert "/secret/place" not in answer.text
    assert "press-01" in await browser.open("/ui/devices"), "what is in memory is shown"


# --- overview and devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uplink", "word", "note"),
    [
        ({}, "not set up", "everything is kept here"),
        ({"configured": True, "reachable": None}, "not asked yet", "has taken nothing"),
        ({"configured": True, "reachable": True, "last_success_at_ms": 1}, "answers", "took messages"),
        ({"configured": True, "reachable": False}, "does not answer", "has taken nothing"),
        ({"configured": True, "reachable": True, "alarm": "wrong key"}, "refuses", "has taken nothing"),
    ],
)
async def test_the_overview_says_how_it_stands_with_odoo(
    world: World, browser: Browser, uplink: dict[str, Any], word: str, note: str
) -> None:
    reasons = ("the disk is full",)
    world.health = Health(status="degraded", reasons=reasons, details={"uplink": {**uplink, "drain_s": 600.0}})
    world.buffer.append("press-01", Kind.TELEMETRY, b"{}", received_at_ms=world.clock.now_ms() - 7200_000)
    await world.buffer.wait_for_messages(0)
    page = await browser.open("/ui/")
    assert f">{word}<" in page
    assert "the oldest from 2 h ago" in page
    assert note in page
    assert "Somebody should look" in page
    assert "<li>the disk is full</li>" in page
    assert "about 10 min to go" in page


async def test_devices_are_filtered_and_paged(world: World, browser: Browser) -> None:
    for count in range(3):
        await world.pair(f"lathe-{count}", f"S-{count}")
    world.presence.connected("lathe-1", "10.0.0.1")
    page = await browser.open("/ui/devices", search="lathe", limit=2)
    assert re.findall(r'href="/ui/device/([\w-]+)"', page) == ["lathe-0", "lathe-1"]
    assert "/ui/devices?after=lathe-1&amp;search=lathe&amp;status=" in page
    page = await browser.open("/ui/devices", search="lathe", after="lathe-1", status="")
    assert re.findall(r'href="/ui/device/([\w-]+)"', page) == ["lathe-2"]
    page = await browser.open("/ui/devices", status="online")
    assert re.findall(r'href="/ui/device/([\w-]+)"', page) == ["lathe-1"]
    assert "No device fits" in await browser.open("/ui/devices", search="nothing")
    wrong = await browser.get("/ui/devices", params={"limit": "many"})
    assert (wrong.status_code, "limit:" in why(wrong).lower()) == (422, True)


async def test_ten_thousand_devices_are_a_page_of_fifty(world: World, browser: Browser) -> None:
    device = world.registry.get("press-01")
    assert device is not None
    many = [replace(device, device_id=f"d-{count:05d}") for count in range(10_000)]
    world.registry.all = lambda: many  # type: ignore[method-assign]
    begun = time.perf_counter()
    page = await browser.open("/ui/devices", after="d-04999")
    assert time.perf_counter() - begun < 1
    assert re.findall(r'href="/ui/device/([\w-]+)"', page)[::49] == ["d-05000", "d-05049"]
    assert len(page) < 60_000


async def test_a_device_says_why_it_is_offline_what_it_sent_and_what_it_was_told(
    world: World, browser: Browser
) -> None:
    await park(world, b'{"n":1}')
    for count in (2, 3):
        world.buffer.append("press-01", Kind.TELEMETRY, b'{"n":%d}' % count, received_at_ms=1_795_341_600_000)
    await world.buffer.settle([2])
    world.presence.connected("press-01", "10.0.0.1")
    world.presence.disconnected("press-01", "unplugged")
    page = await browser.open("/ui/device/press-01")
    assert "Why it is not online:" in page
    assert "unplugged" in page
    rows = re.findall(r"<code>(.*?)</code></td><td[^>]*>(.*?)</td>", page)
    assert rows == [
        ("{&#34;n&#34;:3}", "waits for Odoo"),
        ("{&#34;n&#34;:2}", "in Odoo"),
        ("{&#34;n&#34;:1}", "parked"),
    ]
    assert "1 refused, topic: the last on else/&lt;b&gt;where&lt;/b&gt;" in page
    nobody = await browser.get("/ui/device/press-99")
    assert (nobody.status_code, why(nobody)) == (404, "No such device is paired here.")


# --- messages -------------------------------------------------------------------------------------------------


async def test_what_waits_and_what_was_parked_is_shown_filtered_and_looked_into(world: World, browser: Browser) -> None:
    await park(world, b'{"n":1}', b'{"n":2}')
    await park(world, b'{"n":3}', device="lathe-1")
    world.buffer.append("press-01", Kind.TELEMETRY, b'{"waits":true}', received_at_ms=1_795_341_600_000)
    await world.buffer.wait_for_messages(3)
    page = await browser.open("/ui/messages")
    assert "Parked: 3" in page
    assert "{&#34;waits&#34;:true}" in page
    assert re.findall(r'href="/ui/message/(\d+)"', page) == ["1", "2", "3"]
    page = await browser.open("/ui/messages", device="lathe-1", kind="", code="no_rule")
    assert re.findall(r'href="/ui/message/(\d+)"', page) == ["3"]
    page = await browser.open("/ui/message/1")
    assert "{\n  &#34;n&#34;: 1\n}" in page
    for missing in ("/ui/message/99", "/ui/message/x"):
        assert (await browser.get(missing)).status_code == 404
    assert (await browser.get("/ui/messages", params={"kind": "nonsense"})).status_code == 422
    lines = (await browser.get("/ui/messages/export", params={"device": "press-01", "kind": ""})).text.splitlines()
    assert [json.loads(line)["payload"] for line in lines] == [{"n": 1}, {"n": 2}]


async def test_one_is_sent_again_or_removed(world: World, browser: Browser) -> None:
    await park(world, b'{"n":1}', b'{"n":2}')
    await browser.open("/ui/message/1")
    answer = await browser.submit("/ui/messages/retry", {"id": "1"})
    assert answer.headers["location"] == "/ui/messages?retried=1"
    assert "1 message is sent to Odoo again." in await browser.open(answer.headers["location"])
    unsure = await browser.submit("/ui/messages/remove", {"id": "2"})
    assert (unsure.status_code, "say that you are sure" in why(unsure)) == (422, True)
    assert (await world.services.dead_letters.stock()).rows == 1
    answer = await browser.submit("/ui/messages/remove", {"id": "2", "sure": "yes"})
    assert answer.headers["location"] == "/ui/messages?removed=1"
    again = await browser.submit("/ui/messages/retry", {"id": "2"})
    assert again.status_code == 404
    for wrong in ("x", "-1", "9" * 30):
        assert (await browser.submit("/ui/messages/retry", {"id": wrong})).status_code == 422
    assert (await world.services.dead_letters.stock()).rows == 0


async def test_those_of_a_filter_are_sent_again_or_removed_and_never_all_by_mistake(
    world: World, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await park(world, *(b'{"n":%d}' % count for count in range(5)))
    await park(world, b'{"n":9}', device="lathe-1")
    await browser.open("/ui/messages")
    for path in ("/ui/messages/retry", "/ui/messages/remove"):
        nothing = await browser.submit(path, {"sure": "yes", "device": "", "kind": "", "code": ""})
        assert (nothing.status_code, (await world.services.dead_letters.stock()).rows) == (422, 6)
    answer = await browser.submit("/ui/messages/retry", {"device": "press-01", "all": "true"})
    assert answer.headers["location"] == "/ui/messages?device=press-01&retried=5&skipped=0&more=0"
    answer = await browser.submit("/ui/messages/remove", {"all": "true", "sure": "yes"})
    assert answer.headers["location"] == "/ui/messages?removed=1&more=0"
    assert "by the API key 'built-in'" in caplog.text


async def test_an_address_that_somebody_sent_puts_no_words_on_the_page(browser: Browser) -> None:
    for query in ("retried=5<b>", "removed=" + "9" * 12, "retried=x", "retried=1&skipped=<b>"):
        page = await browser.open(f"/ui/messages?{query}")
        assert "<b>" not in page
        assert "9" * 12 not in page


# --- gateway and enrolment ------------------------------------------------------------------------------------


async def test_the_gateway_shows_versions_certificate_disk_and_log(browser: Browser) -> None:
    page = await browser.open("/ui/gateway")
    for text in ("1.2.3", "3.11.2", f"{number(8394)} days", "2049-11-22", "AA:BB", "3.0 GiB of 64.0 GiB", "a line"):
        assert text in page, text


class Enrolling:
    """Remembers, and answers as it is told."""

    def __init__(self, answer: Callable[[], Enrolled]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, str | None]] = []

    async def __call__(self, odoo_url: str, code: str, database: str | None) -> Enrolled:
        self.asked.append((odoo_url, code, database))
        return self.answer()


async def test_an_enrolment_is_done_once_said_and_followed_by_a_restart(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    restarts: list[int] = []
    enrol = Enrolling(lambda: Enrolled("https://odoo.example.com", "u", world.database.path, overruled=True))
    pages = replace(world.services.pages, enrol=enrol, restart=lambda: restarts.append(1))
    async with Browser(world.app(pages=pages)) as browser:
        await browser.log_in()
        await browser.open("/ui/enrol")
        fields = {"odoo": " https://odoo.example.com ", "code": "SECRET-CODE", "database": ""}
        answer = await browser.submit("/ui/enrol", fields)
    assert "https://odoo.example.com" in answer.text
    assert "It restarts now" in answer.text
    assert "ODOO_BASE_URL and ODOO_API_KEY are set to something else" in answer.text
    assert (enrol.asked, restarts) == ([("https://odoo.example.com", "SECRET-CODE", None)], [1])
    assert "SECRET-CODE" not in answer.text + caplog.text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OdooRefusedError("the code has been used", status=409, code="code_used"), "Not enrolled: the code has been"),
        (SettingsError(["ODOO_BASE_URL must look like https://x"]), "The address must look like https://x."),
    ],
)
async def test_an_enrolment_that_fails_says_why_and_restarts_nothing(world: World, error: Exception, said: str) -> None:
    def fail() -> Enrolled:
        raise error

    restarts: list[int] = []
    pages = replace(world.services.pages, enrol=Enrolling(fail), restart=lambda: restarts.append(1))
    async with Browser(world.app(pages=pages)) as browser:
        await browser.log_in()
        await browser.open("/ui/enrol")
        answer = await browser.submit("/ui/enrol", {"odoo": "https://x", "code": "CODE-1", "database": "db"})
        missing = await browser.submit("/ui/enrol", {"odoo": "https://x"})
    assert (answer.status_code, said in answer.text, restarts) == (422, True, [])
    assert 'value="https://x"' in answer.text, "nobody types it twice"
    assert "CODE-1" not in answer.text
    assert (missing.status_code, "both needed" in missing.text) == (422, True)


# --- words ----------------------------------------------------------------------------------------------------


def test_numbers_and_times_read_well() -> None:
    thin = "\u202f"
    assert (number(None), number(1234567), number(0)) == ("–", f"1{thin}234{thin}567", "0")
    assert [rate(each) for each in (None, 0, 0.0001, 0.01, 0.5, 2.345, 1500)] == [
        *("–", "0/s", "0.4/h", "36/h", "30/min", "2.3/s", f"1{thin}500/s")
    ]
    assert [span(each) for each in (None, 3, 89, 600, 7200, 300_000)] == ["–", "3 s", "89 s", "10 min", "2 h", "3 days"]
    assert [size(each) for each in (None, 12, 2048, 3 << 30, 5 << 40)] == ["–", "12 B", "2.0 KiB", "3.0 GiB", "5.0 TiB"]
    assert (ago(None, 5), ago(9000, 5000), ago(1000, 61_000)) == ("–", "0 s ago", "60 s ago")
    assert (when(None), when("2026-11-29T10:41:33.123Z")) == ("–", "2026-11-29 10:41:33")
    assert tame("a\u202eb\x1b[31m\n\tc\u200dd") == "a\ufffdb\ufffd[31m\n\tc\u200dd"


def test_how_fast_readings_come_is_told_from_one_look_to_the_next(world: World) -> None:
    rates = Rates(world.clock)
    assert rates.note("press-01", 100) is None
    world.clock.ahead += 10
    assert rates.note("press-01", 150) == pytest.approx(5, rel=0.01)
    world.clock.ahead += 10
    assert rates.note("press-01", 150) == pytest.approx(2.5, rel=0.01)
    world.clock.ahead += 400
    rates.note("press-01", 150)
    world.clock.ahead += 10
    assert rates.note("press-01", 250) == pytest.approx(10, rel=0.01), "of a while ago, not of for ever"
    assert rates.note("press-01", 3) is None, "a device that was paired anew"
    for count in range(3000):
        rates.note(f"d-{count}", 1)
    assert len(rates._seen) == 2000
