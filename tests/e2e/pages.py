"""What the tests of the status pages stand on: a box with a past, and a real browser (Debian's Chromium) before it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import axe_core_python
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from appliance.contract.odoo import Kind
from appliance.store.buffer import Buffer, Rejection
from appliance.store.database import Database
from tests.bench.devices import PairedDevice, device_names, pair_devices
from tests.e2e.harness import Appliance
from tests.e2e.test_readme import SecureAppliance

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()
PHONE, DESKTOP = (360, 740), (1200, 900)
PATIENCE_S = 30
"""For what has no promised time, on a busy machine."""
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202e"
"""What a device may put into its messages."""
SCREENSHOTS = os.environ.get("IIOT_SCREENSHOTS")
"""A folder for pictures of all pages, at both widths, light and dark."""


class BoxWithAPast(SecureAppliance):
    """Over HTTPS, without an Odoo: devices, waiting and parked messages, a day of history."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        super().__init__(folder, {"MQTT_CLIENT_ID": "hall-3", **(environment or {})})
        self.devices: list[PairedDevice] = []

    async def remember(self, count: int = 60) -> None:
        """Fill the data folder; before the start."""
        self.data_folder.mkdir(parents=True)
        self.devices = await pair_devices(self.data_folder, device_names(count))
        database = await Database.open(self.data_folder)
        buffer = Buffer(database)
        await buffer.load()
        now_ms = time.time_ns() // 1_000_000
        for number in range(1, 121):
            reading = {"temperature": 60 + number % 17, "pressure_kPa": 101.3, "n": number}
            if number in (1, 100, 118):
                reading["note"] = HOSTILE  # type: ignore[assignment]
            buffer.append(
                f"press-{number % 3 + 1:03d}",
                Kind.TELEMETRY,
                json.dumps(reading).encode(),
                received_at_ms=now_ms - (200 - number) * 1000,
            )
        reasons = [Rejection(1, "no_rule", f"no rule takes {HOSTILE}")]
        reasons += [Rejection(seq, "no_rule", "no rule takes this reading") for seq in range(2, 61)]
        await buffer.settle(list(range(61, 100)), reasons)
        await database.close()
        connection = sqlite3.connect(self.data_folder / "appliance.db")
        with connection:
            connection.execute(
                "INSERT INTO presence (device, online, since_ms, code, detail, address, connects, takeovers,"
                " last_seen_ms, last_telemetry_ms, told_connects, told_takeovers)"
                " VALUES ('press-002', 0, ?, 'keep_alive', '', '10.1.7.22', 4, 0, ?, ?, 0, 0)",
                (now_ms - 5_400_000, now_ms - 5_460_000, now_ms - 5_460_000),
            )
        connection.close()
        (self.data_folder / "trends.json").write_text(json.dumps(history(now_ms)))


def history(now_ms: int) -> dict[str, list[list[Any]]]:
    """An hour and a day in which Odoo was away once."""

    def points(count: int, step_ms: int) -> list[list[Any]]:
        found = []
        for number in range(count):
            away = 0.5 < number / count < 0.65
            since = number / count - 0.5
            waiting = since * 40_000 if away else max(6000 - max(since - 0.15, 0) * 60_000, 0) if since > 0 else 0
            at_ms = (now_ms // step_ms - count + number) * step_ms
            found.append([at_ms, 40 + 9 * (number % 5), 0 if away else 42 + waiting / 90, int(waiting), 57, away])
        return found

    return {"hour": points(60, 60_000), "day": points(144, 600_000)}


def start_browser(folder: Path) -> WebDriver:
    """A fresh one, which takes the box's certificate."""
    options = Options()
    options.binary_location = BROWSER or ""
    options.accept_insecure_certs = True
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={folder / 'browser'}", "--window-size=1200,900", "--hide-scrollbars"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE_S)
    return driver


class Visitor:
    """Somebody who looks at the pages of a box."""

    def __init__(self, driver: WebDriver, box: Appliance) -> None:
        self.driver = driver
        self.box = box

    async def open(self, path: str) -> None:
        """Go there."""
        await asyncio.to_thread(self.driver.get, f"{self.box.url}{path}")

    async def log_in(self, secret: str) -> None:
        """With a password or key."""
        await self.open("/ui/login")
        self.driver.find_element(By.ID, "password").send_keys(secret)
        await self.press("form button")
        await shown(lambda: self.driver.current_url.endswith("/ui/"))

    async def press(self, selector: str) -> None:
        """A button or a link."""
        await asyncio.to_thread(self.driver.find_element(By.CSS_SELECTOR, selector).click)

    def text(self, selector: str) -> str:
        """In one step: an element that is found first may have been replaced when it is read."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.driver.execute_script(script, selector))

    def size(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """The window's, as a phone where it is narrow; light or dark."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def complaints(self) -> list[str]:
        """What the browser's console holds since the last time."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]

    def barriers(self) -> list[str]:
        """What axe finds that keeps people out."""
        self.driver.execute_script(AXE)
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations))"
        )
        return [f"{each['id']}: {node['html']}: {node['failureSummary']}" for each in found for node in each["nodes"]]

    def overflow(self) -> list[str]:
        """What does not fit the width of the window."""
        return list(
            self.driver.execute_script(
                "const width = innerWidth;"
                "const wide = document.documentElement.scrollWidth > width ? ['the page itself'] : [];"
                "return [...wide, ...[...document.querySelectorAll('body *')].filter(e => e.offsetParent"
                " && !e.closest('thead, .unseen, .skip') && e.getBoundingClientRect().right > width + 1)"
                ".map(e => e.outerHTML.slice(0, 200))]"
            )
        )

    def picture(self, name: str) -> None:
        """A screenshot of the whole page, if somebody wants some."""
        if SCREENSHOTS:
            folder = Path(SCREENSHOTS)
            folder.mkdir(parents=True, exist_ok=True)
            size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
            clip = {**size, "height": min(size["height"], 2200), "scale": 1}
            shot = self.driver.execute_cdp_cmd(
                "Page.captureScreenshot",
                {"captureBeyondViewport": True, "clip": clip, "format": "webp", "quality": 75},
            )
            (folder / f"{name}.webp").write_bytes(base64.b64decode(shot["data"]))


async def shown(condition: Callable[[], bool], *, within_s: float = PATIENCE_S) -> float:
    """Wait until a page shows it; after how many seconds it did."""
    start = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - start < within_s, f"not shown within {within_s:g} s"
        await asyncio.sleep(0.1)
    return time.monotonic() - start
