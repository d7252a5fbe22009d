"""The status page in a real browser (Debian's Chromium): it follows what happens, and it can be read on a phone."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from tests.bench.devices import device_names, pair_devices
from tests.e2e.harness import API_KEY, Appliance, OdooStandIn

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromium-driver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SHOWN_WITHIN_S = 5
PATIENCE_S = 30
"""For what has no promised time, on a busy machine."""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    options = Options()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'browser'}", "--window-size=1200,900"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE_S)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
async def odoo(tmp_path: Path) -> AsyncIterator[OdooStandIn]:
    async with OdooStandIn(tmp_path / "odoo") as odoo:
        yield odoo


@pytest.fixture
async def appliance(tmp_path: Path, odoo: OdooStandIn) -> AsyncIterator[Appliance]:
    async with Appliance(tmp_path / "box", environment=odoo.settings) as appliance:
        yield appliance


async def shown(condition: Callable[[], bool], *, within_s: float = PATIENCE_S) -> float:
    """Wait until the page shows it; after how many seconds it did."""
    start = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - start < within_s, f"not shown within {within_s:g} s"
        await asyncio.sleep(0.1)
    return time.monotonic() - start


def text_of(browser: WebDriver, element: str) -> str:
    # in one step: an element that is found first may have been replaced when it is read
    return str(browser.execute_script("return document.getElementById(arguments[0]).innerText", element))


async def test_a_stopped_odoo_is_shown_within_five_seconds_and_its_return_too(
    browser: WebDriver, appliance: Appliance, odoo: OdooStandIn
) -> None:
    await odoo.know(2)
    await asyncio.to_thread(browser.get, f"{appliance.url}/ui/")
    await shown(lambda: text_of(browser, "odoo") == "answers")
    browser.execute_script("window.never_reloaded = true")
    assert await odoo.stop() == 0
    await shown(lambda: text_of(browser, "odoo") == "does not answer", within_s=SHOWN_WITHIN_S)
    assert "Odoo does not answer" in text_of(browser, "reasons")
    assert text_of(browser, "status") == "degraded"
    await odoo.start()
    await shown(lambda: text_of(browser, "odoo") == "answers")
    assert browser.execute_script("return window.never_reloaded") is True


async def test_a_stopped_appliance_is_shown_and_its_return_needs_no_reload(
    browser: WebDriver, appliance: Appliance
) -> None:
    await asyncio.to_thread(browser.get, f"{appliance.url}/ui/")
    assert not browser.find_element(By.ID, "lost").is_displayed()
    appliance.kill()
    await shown(browser.find_element(By.ID, "lost").is_displayed, within_s=SHOWN_WITHIN_S)
    await appliance.start()
    await shown(lambda: not browser.find_element(By.ID, "lost").is_displayed())


async def test_on_a_phone_nothing_is_cut_off_and_nothing_scrolls_sideways(browser: WebDriver, tmp_path: Path) -> None:
    appliance = Appliance(tmp_path / "box")
    appliance.data_folder.mkdir(parents=True)
    await pair_devices(appliance.data_folder, device_names(3))
    async with appliance:
        await on_a_phone(browser, appliance)


async def on_a_phone(browser: WebDriver, appliance: Appliance) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    await asyncio.to_thread(browser.get, f"{appliance.url}/ui/")
    await shown(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#devices tr")) == 3)
    assert browser.execute_script("return innerWidth") == 360
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    cut_off = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => e.offsetParent && !e.closest('thead')"
        " && e.getBoundingClientRect().right > 361).map(e => e.outerHTML)"
    )
    assert cut_off == []
    await asyncio.to_thread(browser.get, f"{appliance.url}/ui/device/press-001")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    as_of = "return document.querySelector('#live > p:last-child').textContent"
    before = browser.execute_script(as_of)
    await shown(lambda: browser.execute_script(as_of) != before)
    await asyncio.to_thread(browser.get, f"{appliance.url}/ui/")
    heads = "const head = document.querySelector('thead').getBoundingClientRect(); return head.width * head.height"
    assert browser.execute_script(heads) <= 1  # each value carries its own label there


async def test_from_elsewhere_a_key_opens_the_page(browser: WebDriver, tmp_path: Path) -> None:
    environment = {"IIOT_PAGE_AT_THE_BOX": "False"}
    async with Appliance(tmp_path / "box", environment=environment) as appliance:
        await asyncio.to_thread(browser.get, f"{appliance.url}/ui/")
        assert browser.current_url.endswith("/ui/login")
        browser.find_element(By.ID, "key").send_keys("a wrong key")
        browser.find_element(By.TAG_NAME, "button").click()
        await shown(lambda: "not valid" in browser.page_source)
        browser.find_element(By.ID, "key").send_keys(API_KEY)
        browser.find_element(By.TAG_NAME, "button").click()
        await shown(lambda: browser.current_url.endswith("/ui/"))
        assert text_of(browser, "odoo") == "not set up"
        errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
        assert [line for line in errors if "403" not in line["message"]] == []
