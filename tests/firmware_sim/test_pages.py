"""The stand-in's page: what it shows, that nothing a device says becomes markup, and how it looks on a phone."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from firmware_sim.odoo import StandIn
from firmware_sim.standin.faults import KINDS
from firmware_sim.standin.overview import MOST_CHARACTERS, MOST_DEVICES, MOST_ROWS, shown
from tests.firmware_sim.stand_in import API_KEY, stand_in
from tests.firmware_sim.test_stand_in import Side, opened, report


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    async with opened() as one:
        await one.sim("POST", "devices", {"prefix": "press", "count": 2})
        yield one


async def page(side: Side, path: str = "/", **headers: str) -> str:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await side.http.get(path, headers={**names})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    return answer.text


async def test_an_empty_stand_in_has_a_page(side: Side) -> None:
    text = await page(side)
    for words in ("press-001", "press-002", "not paired", "nothing yet", "none in force", "0 / 2"):
        assert words in text
    assert all(f'data-kind="{kind}"' in text for kind in KINDS)


async def test_everything_that_happened_is_shown(side: Side) -> None:
    await side.send(1, 2, 2)
    await report(side, 3, "command_response", {"command_id": "c-1", "status": "ok", "result": {"angle": 7}})
    await report(side, 4, "command_state", {"command_id": "c-1", "state": "done"})
    update = await side.sim("POST", "updates", {"device_id": "press-001", "params": {"version": "2.5.1"}})
    progress = {"update_id": update["update_id"], "state": "downloading", "progress": 40.0}
    await report(side, 5, "ota_status", progress)
    failure = {"update_id": update["update_id"], "state": "failed", "error": "no power"}
    await report(side, 6, "ota_status", failure)
    await side.sim("POST", "firmware", {"version": "9.9.9", "bad": "boot"})
    await side.fault("reject", share=0.25, device="press-002")
    text = " ".join((await page(side)).split())
    for words in ("2.5.1", "downloading 40 % → failed (no power)", "done", "angle", "9.9.9 (bad: boot)"):
        assert words in text, words
    assert "reject, device press-002, share 0.25" in text
    assert "<b>1</b>duplicate since the start" in text
    assert "<b>2</b>telemetry" in text


async def test_nothing_that_a_device_says_becomes_markup(side: Side) -> None:
    evil = "<script>alert(1)</script>\"'"
    for seq, kind in enumerate(("telemetry", "command_state", "ota_status", "presence", "gateway_event"), 1):
        payload = {"command_id": evil, "update_id": evil, "state": evil, "error": evil, evil: evil}
        await report(side, seq, kind, payload)
    await side.sim("POST", "updates", {"device_id": evil, "params": {"version": evil}})
    text = await page(side)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


async def test_a_page_stays_small_however_much_there_is(side: Side) -> None:
    await side.sim("POST", "devices", {"prefix": "many", "count": 3000})
    for first in range(1, 400, 100):
        await side.send(*range(first, first + 100))
    assert len(shown('{"a": "' + "x" * 10_000 + '"}')) < MOST_CHARACTERS + 10
    text = await page(side, "/sim/live")
    assert text.count("SN-") == MOST_DEVICES
    assert text.count("msg_id") == 0
    assert "… and 2952 more" in text
    assert text.count("<tr>") < MOST_DEVICES + 4 * MOST_ROWS + 10
    assert len(text) < 60_000


def test_a_payload_is_shown_for_people() -> None:
    assert shown('{"ts": 1, "msg_id": "a", "t": 71.3, "state": "running"}') == "t 71.3, state running"
    assert shown("[1, 2]") == "[1, 2]"
    assert shown('"text"') == '"text"'


async def test_a_log_that_was_pruned_says_so(side: Side) -> None:
    assert "oldest part is gone" not in await page(side)
    side.stand_in.state.set_meta("pruned", "1")
    assert "oldest part is gone" in await page(side)


async def test_the_page_loads_nothing_from_anywhere_else(side: Side) -> None:
    answer = await side.http.get("/")
    assert "http://" not in answer.text.replace("http-equiv", "")
    assert "https://" not in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_another_site_cannot_use_the_routes_through_a_browser(side: Side) -> None:
    own: dict[str, Any] = {"Host": "127.0.0.1:8069", "Sec-Fetch-Site": "same-origin"}
    for changed, status in (
        ({}, 200),
        ({"Host": "localhost:8069"}, 200),
        ({"Host": "[::1]:8069"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "evil.example"}, 403),
    ):
        for path in ("/", "/sim/state"):
            assert (await side.http.get(path, headers=own | changed)).status_code == status, changed


async def test_the_page_answers_to_this_machine_only() -> None:
    stand = StandIn(api_key=API_KEY)
    transport = httpx.ASGITransport(stand.app, client=("192.0.2.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://odoo") as http:
        for path in ("/", "/sim/live"):
            assert (await http.get(path)).status_code == 403
    await stand.close()


# --- in a browser --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"):
        options.add_argument(flag)
    for flag in ("--disable-background-networking", "--disable-component-update", "--disable-sync"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def press(browser: Any, selector: str) -> None:
    """In one step: the page renews itself meanwhile."""
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def test_a_browser_shows_news_by_itself_and_switches_faults_at_360_pixels(browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    with stand_in() as addresses, httpx.Client(base_url=addresses["control_url"], trust_env=False) as http:
        http.post("/sim/devices", json={"prefix": "press", "count": 3}).raise_for_status()
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        )
        browser.get(addresses["url"] + "/")
        wait = WebDriverWait(browser, 15)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        one = {"kind": "telemetry", "at": "2026-11-22T10:00:00.000Z", "payload": {"temperature": 71.25, "w": "w" * 250}}
        headers = {"Authorization": f"Bearer {API_KEY}"}
        httpx.post(f"{addresses['url']}/iiot/webhook/press-002", json=one, headers=headers, trust_env=False)
        wait.until(lambda driver: "temperature 71.25" in driver.find_element("id", "live").text)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        press(browser, "[data-kind=unavailable]")
        wait.until(lambda driver: "unavailable is in force" in driver.find_element("id", "said").text)
        assert [fault["kind"] for fault in http.get("/sim/faults").json()["faults"]] == ["unavailable"]
        pressed = "return document.querySelector('[data-kind=unavailable]').getAttribute('aria-pressed')"
        wait.until(lambda driver: driver.execute_script(pressed) == "true")
        press(browser, "[data-kind=unavailable]")
        wait.until(lambda driver: "unavailable has ended" in driver.find_element("id", "said").text)
        assert http.get("/sim/faults").json()["faults"] == []
        browser.find_element("css selector", "#update [name=device_id]").send_keys("press-001")
        press(browser, "#update button")
        wait.until(lambda driver: "Update of press-001" in driver.find_element("id", "said").text)
        (update,) = http.get("/sim/updates").json()["updates"]
        assert (update["device_id"], update["params"]["version"]) == ("press-001", "2.0.0")
    WebDriverWait(browser, 15).until(lambda driver: "does not answer" in driver.find_element("id", "live").text)
    errors = [entry for entry in browser.get_log("browser") if "ERR_CONNECTION_REFUSED" not in entry["message"]]
    assert errors == []
