"""The status pages in a real browser: every page at both widths, what they do, and that they follow what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from tests.e2e.devices import RecordingDevice
from tests.e2e.harness import API_KEY, OdooStandIn
from tests.e2e.pages import BROWSER, DESKTOP, DRIVER, HOSTILE, PHONE, BoxWithAPast, Visitor, shown, start_browser

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromium-driver")
SHOWN_WITHIN_S = 5
PAGES = {
    "overview": "/ui/",
    "devices": "/ui/devices",
    "device": "/ui/device/press-002",
    "messages": "/ui/messages",
    "message": "/ui/message/1",
    "gateway": "/ui/gateway",
    "enrol": "/ui/enrol",
}


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    driver = start_browser(tmp_path)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[BoxWithAPast]:
    box = BoxWithAPast(tmp_path / "box")
    await box.remember()
    async with box:
        yield box


@pytest.fixture
async def visitor(browser: WebDriver, box: BoxWithAPast) -> Visitor:
    visitor = Visitor(browser, box)
    await visitor.log_in(first_password(box))
    return visitor


def first_password(box: BoxWithAPast) -> str:
    return (box.data_folder / "page_password").read_text().strip()


async def test_every_page_fits_phone_and_desktop_and_keeps_nobody_out(visitor: Visitor, box: BoxWithAPast) -> None:
    device = RecordingDevice(box.devices[0], port=box.mqtt_port)
    running = asyncio.create_task(device.run())
    device.publish()
    await device.idle.wait()
    try:
        for size, name in ((DESKTOP, "desktop"), (PHONE, "phone")):
            for dark in (False, True):
                visitor.size(size, dark=dark)
                for page, path in PAGES.items():
                    await visitor.open(path)
                    where = f"{page}, {name}{', dark' if dark else ''}"
                    assert visitor.driver.current_url.endswith(path), where
                    for details in visitor.driver.find_elements(By.TAG_NAME, "summary"):
                        details.click()
                    assert visitor.overflow() == [], where
                    assert await asyncio.to_thread(visitor.barriers) == [], where
                    visitor.picture(f"{page}-{name}{'-dark' if dark else ''}")
        assert visitor.complaints() == []
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_the_login_fits_too_and_says_what_is_wrong(browser: WebDriver, box: BoxWithAPast) -> None:
    visitor = Visitor(browser, box)
    for size, name in ((DESKTOP, "desktop"), (PHONE, "phone")):
        visitor.size(size)
        await visitor.open("/ui/devices")
        assert browser.current_url.endswith("/ui/login")
        assert visitor.overflow() == []
        assert await asyncio.to_thread(visitor.barriers) == []
        visitor.picture(f"login-{name}")
    browser.find_element(By.ID, "password").send_keys("a wrong one", Keys.ENTER)
    await shown(lambda: "neither the password" in visitor.text("#message"))
    assert await asyncio.to_thread(visitor.barriers) == []
    browser.find_element(By.ID, "password").send_keys(API_KEY, Keys.ENTER)
    await shown(lambda: browser.current_url.endswith("/ui/"))
    (cookie,) = browser.get_cookies()
    assert (cookie["name"], cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
        *("__Host-iiot_page", True, True),
        *("Strict", "/"),
    )
    assert [line for line in visitor.complaints() if "403" not in line] == []


async def test_what_devices_say_stays_text(visitor: Visitor) -> None:
    await visitor.open("/ui/message/1")
    shown_text = visitor.text("main")
    assert HOSTILE[:-1] in shown_text.replace('\\"', '"')
    assert "\u202e" not in shown_text, "nothing turns what stands beside it"
    for path in ("/ui/messages", "/ui/device/press-002"):
        await visitor.open(path)
        for summary in visitor.driver.find_elements(By.TAG_NAME, "summary"):
            summary.click()
        assert "onerror=alert" in visitor.text("main")
        assert visitor.driver.find_elements(By.CSS_SELECTOR, "main img, main script") == []
    assert visitor.complaints() == []


async def test_a_parked_message_is_sent_again_and_all_are_removed_only_when_that_is_meant(visitor: Visitor) -> None:
    await visitor.open("/ui/messages")
    assert visitor.text("#parked") == "Parked: 60"
    await visitor.press("tbody form button")
    await shown(lambda: visitor.text("#done") == "1 message is sent to Odoo again.")
    assert visitor.text("#parked") == "Parked: 59"
    await visitor.press("#remove-all")
    assert visitor.text("#parked") == "Parked: 59", "the browser asks for the tick"
    await visitor.press("[name=sure]")
    await visitor.press("#remove-all")
    await shown(lambda: visitor.text("#none") == "Nothing is parked.")
    assert visitor.text("#done") == "59 messages are removed for good."
    assert visitor.complaints() == []


async def test_devices_are_found_paged_and_followed_by_keyboard(visitor: Visitor, box: BoxWithAPast) -> None:
    await visitor.open("/ui/devices")
    assert len(visitor.driver.find_elements(By.CSS_SELECTOR, "tbody tr")) == 50
    await visitor.press("#next")
    await shown(lambda: len(visitor.driver.find_elements(By.CSS_SELECTOR, "tbody tr")) == 10)
    await visitor.open("/ui/devices?search=press-002")
    row = visitor.text("tbody tr")
    assert "offline" in row
    assert "one and a half times its keep-alive" in row
    script = "document.querySelector('tbody a').focus(); window.old = document.querySelector('tbody a'); return 1"
    visitor.driver.execute_script(script)
    replaced = "return window.old !== document.querySelector('tbody a')"
    await shown(lambda: bool(visitor.driver.execute_script(replaced)))
    focused = "return document.activeElement === document.querySelector('tbody a')"
    assert visitor.driver.execute_script(focused), "who is on a link stays there"
    device = RecordingDevice(box.devices[1], port=box.mqtt_port)
    running = asyncio.create_task(device.run())
    await shown(lambda: "online" in visitor.text("tbody tr"))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert visitor.complaints() == []


async def test_a_stopped_odoo_is_shown_within_five_seconds_and_its_return_too(
    browser: WebDriver, tmp_path: Path
) -> None:
    async with OdooStandIn(tmp_path / "odoo") as odoo, BoxWithAPast(tmp_path / "box", odoo.settings) as box:
        await odoo.know(2)
        visitor = Visitor(browser, box)
        await visitor.log_in(API_KEY)
        await shown(lambda: visitor.text("[data-text=odoo]") == "answers")
        browser.execute_script("window.never_reloaded = true")
        assert await odoo.stop() == 0
        away = "does not answer"
        await shown(lambda: visitor.text("[data-text=odoo]") == away, within_s=SHOWN_WITHIN_S)
        assert "Odoo does not answer" in visitor.text("#reasons")
        assert visitor.text("[data-status]") == "degraded"
        assert visitor.text("[data-text=verdict]") == "Somebody should look"
        await odoo.start()
        await shown(lambda: visitor.text("[data-text=odoo]") == "answers")
        assert browser.execute_script("return window.never_reloaded") is True


async def test_a_stopped_appliance_is_shown_and_who_comes_back_is_asked_to_log_in(
    visitor: Visitor, box: BoxWithAPast
) -> None:
    lost = visitor.driver.find_element(By.ID, "lost")
    assert not lost.is_displayed()
    box.kill()
    await shown(lost.is_displayed, within_s=2 * SHOWN_WITHIN_S)
    await box.start()
    # sessions are in memory: a restart forgets them
    await shown(lambda: visitor.driver.current_url.endswith("/ui/login"))


async def test_a_code_typed_into_the_page_enrols_the_appliance_which_restarts_by_itself(
    visitor: Visitor, box: BoxWithAPast, tmp_path: Path
) -> None:
    async with OdooStandIn(tmp_path / "odoo") as odoo:
        async with odoo.client() as client:
            code = (await client.post("/sim/codes")).json()["code"]
        await visitor.open("/ui/enrol")
        for name, text in (("odoo", odoo.url), ("code", "not-" + code)):
            visitor.driver.find_element(By.NAME, name).send_keys(text)
        await visitor.press("main form button")
        await shown(lambda: "Not enrolled" in visitor.text("#wrong"))
        assert visitor.driver.find_element(By.NAME, "odoo").get_attribute("value") == odoo.url
        pid = box.pid
        visitor.driver.find_element(By.NAME, "code").send_keys(code)
        await visitor.press("main form button")
        await shown(lambda: "knows this appliance" in visitor.text("#restarting"))
        visitor.picture("enrolled-desktop")
        await shown(lambda: visitor.driver.current_url.endswith("/ui/login"))
        assert (box.running, box.pid) == (True, pid), "in place, as systemd or a terminal has started it"
        visitor.driver.find_element(By.ID, "password").send_keys(API_KEY, Keys.ENTER)
        await shown(lambda: visitor.text("[data-text=odoo]") == "answers")
        await shown(lambda: visitor.text("[data-text=waiting]") == "0")
        await visitor.open("/ui/gateway")
        assert odoo.url in visitor.text("main")
        async with box.client(verify=False) as api:
            keys = [key["name"] for key in (await api.get("/api/v1/api-keys")).json()["api_keys"]]
        assert keys == ["built-in", "odoo"]
        assert code not in box.log
