"""Odoo's web client in a real Chromium: what is opened, waited for, pressed, counted and looked at."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from tests.odoo.people import Person

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
DESKTOP, PHONE = (1400, 900), (390, 844)
PATIENCE_S = 40
"""For what has no promised time, on a busy machine."""
SCREENSHOTS = os.environ.get("IIOT_SCREENSHOTS")
"""A folder for pictures of all that was opened."""
HARMLESS = (
    # the live channel of Odoo's messages is cut whenever a page is left
    "WebSocket connection to",
    # Chromium on a machine without sound or a service worker's scope: of Odoo's call features, not of a screen
    "service-worker",
)
"""What the console may hold all the same."""

WATCH = """(() => {
  let open = 0, last = performance.now();
  const change = (by) => { open += by; last = performance.now(); };
  const fetch = window.fetch;
  window.fetch = (...given) => { change(1); return fetch(...given).finally(() => change(-1)); };
  const send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.send = function (...given) {
    change(1);
    this.addEventListener("loadend", () => change(-1), { once: true });
    return send.apply(this, given);
  };
  document.addEventListener("click", () => change(0), true);
  document.addEventListener("input", () => change(0), true);
  window.iiotQuietMs = () => (open > 0 ? 0 : performance.now() - last);
})()"""
"""Counts the requests of a page that have no answer yet."""
QUIET = """
const [selector, patience, done] = arguments, start = performance.now();
(function look() {
  const there = !selector || [...document.querySelectorAll(selector)].some((each) => each.getClientRects().length);
  if (there && window.iiotQuietMs && window.iiotQuietMs() > 150 && !document.querySelector(".o_blockUI")) done(true);
  else if (performance.now() - start > patience) done(false);
  else setTimeout(look, 30);
})()"""
MORE = ".o_form_view .o_statusbar_buttons .dropdown-toggle, .o_form_view .o_button_more"
"""What opens the buttons for which a form has no room."""
MORE_ON_18 = f"{MORE}, .o_form_view .o_cp_action_menus .dropdown-toggle"
"""There they join the menu with the cog on a phone."""
BUTTONS = """
const all = '.o_form_view button[name], .o-dropdown--menu button[name], .o_bottom_sheet button[name]';
return [...document.querySelectorAll(all)]
  .filter((each) => each.getClientRects().length && !each.disabled)
  .filter((each) => !each.closest('.modal, .o-mail-Chatter, .o-mail-Form-chatter'))"""
DO_ACTION = """
const [action, options, done] = arguments;
odoo.__WOWL_DEBUG__.root.env.services.action.doAction(action, options).then(() => done(""), (e) => done(String(e)))"""


def start_browser(folder: Path) -> webdriver.Chrome:
    """A fresh one."""
    options = Options()
    options.binary_location = BROWSER or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={folder}", f"--window-size={DESKTOP[0]},{DESKTOP[1]}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE_S * 2)
    driver.set_script_timeout(PATIENCE_S * 2)
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    return driver


class WebClient:
    """The page of somebody who is logged in. ``clicks`` counts what was pressed since the last :meth:`home`."""

    def __init__(self, driver: webdriver.Chrome, person: Person, name: str) -> None:
        self.driver = driver
        self.person = person
        self.name = name
        self.clicks = 0
        self.phone = False
        self.more = MORE_ON_18 if name == "18" else MORE
        self._pictures = 0

    # --- where one is ------------------------------------------------------------------------------------------

    def home(self, size: tuple[int, int] = DESKTOP) -> None:
        """The first page after the login, at that size; a narrow one is a phone, with touch."""
        self.phone = size[0] < 500
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": self.phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": self.phone})
        still = {"name": "prefers-reduced-motion", "value": "reduce"}  # pictures show what is, not what fades in
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [still]})
        cookie = {"name": "session_id", "value": self.person.session, "url": self.person.url, "httpOnly": True}
        self.driver.execute_cdp_cmd("Network.setCookie", cookie)
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(f"{self.person.url}/web")
        self.settle(".o_main_navbar")
        self.clicks = 0

    def enter(self, app: str) -> None:
        """Let the menus of that application (the name of its module) stand above what is opened."""
        script = """const menus = odoo.__WOWL_DEBUG__.root.env.services.menu;
        menus.setCurrentMenu(menus.getApps().find((each) => each.xmlid.startsWith(arguments[0] + '.')))"""
        self.driver.execute_script(script, app)
        self.settle()

    def settle(self, selector: str = "") -> None:
        """Until that is to be seen and no request is without its answer."""
        there = self.driver.execute_async_script(QUIET, selector, PATIENCE_S * 1000)
        assert there, f"{self.name}: no {selector or 'rest'} within {PATIENCE_S} s\n{self.text()[:2000]}"

    def do(self, action: Any, shows: str = ".o_action_manager > *", **options: Any) -> None:
        """What a menu or button does, without looking for it: open an action."""
        options = {"clearBreadcrumbs": True, **options}
        problem = self.driver.execute_async_script(DO_ACTION, action, options)
        assert not problem, f"{action}: {problem}"
        self.settle(shows)

    # --- what is there -----------------------------------------------------------------------------------------

    def text(self, selector: str = "body") -> str:
        """In one step: an element that is found first may have been replaced when it is read."""
        return str(self.driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def seen(self, selector: str) -> list[WebElement]:
        """All that can be seen, of the dialog on top where there is one."""
        script = """
        const dialogs = [...document.querySelectorAll('.modal')].filter((each) => each.getClientRects().length);
        const root = arguments[0].startsWith('body') || !dialogs.length ? document : dialogs[dialogs.length - 1];
        return [...root.querySelectorAll(arguments[0])].filter((each) => each.getClientRects().length)"""
        return list(self.driver.execute_script(script, selector))

    def dialog(self) -> bool:
        return bool(self.driver.execute_script("return document.querySelectorAll('.modal').length"))

    def problems(self) -> list[str]:
        """Error dialogs, red notifications, and what the console holds since the last time."""
        script = """return [...document.querySelectorAll('.o_error_dialog, .o_notification_bar.bg-danger,'
            + ' .o_notification.border-danger')].map((each) => (each.closest('.o_notification') ?? each).innerText)"""
        found = list(self.driver.execute_script(script))
        for line in self.driver.get_log("browser"):
            if line["level"] == "SEVERE" and not any(words in line["message"] for words in HARMLESS):
                found.append(line["message"])
        return found

    def too_wide(self) -> bool:
        """Whether the page itself has to be pushed sideways."""
        return bool(self.driver.execute_script("return document.documentElement.scrollWidth > innerWidth + 1"))

    def picture(self, name: str) -> None:
        """Of what is to be seen now, if somebody wants pictures."""
        if SCREENSHOTS:
            folder = Path(SCREENSHOTS)
            folder.mkdir(parents=True, exist_ok=True)
            slug = re.sub(r"\W+", "-", name.lower()).strip("-")
            self.driver.save_screenshot(str(folder / f"{self.name}-{'phone' if self.phone else 'desktop'}-{slug}.png"))

    # --- what somebody does ------------------------------------------------------------------------------------

    def press(self, element: WebElement, *, counts: bool = True) -> None:
        """A click by mouse or finger, and what comes of it."""
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'nearest'})", element)
        try:
            element.click()
        except ElementClickInterceptedException:  # a notification lies above it for a moment
            self.driver.execute_script("document.querySelectorAll('.o_notification_close').forEach((e) => e.click())")
            self.settle()
            element.click()
        self.clicks += counts
        self.settle()

    def press_text(
        self, *words: str, within: str = "button, a, [role=menuitem], .dropdown-item, td, th, label"
    ) -> None:
        """What says exactly that; or, of several words, the first that is there."""
        found = self.find_text(*words, within=within)
        assert found is not None, f"nothing says {' or '.join(words)}:\n{self.text()[:3000]}"
        self.press(found)

    def find_text(self, *words: str, within: str) -> WebElement | None:
        elements = self.seen(within)
        for word in words:
            for element in elements:
                try:
                    told = " ".join((element.get_attribute("innerText") or "").split())
                except StaleElementReferenceException:
                    continue
                if told == word:
                    return element
        return None

    def buttons(self) -> list[str]:
        """The names of what can be pressed on a form, also where a menu has to be opened first."""
        found = [each.get_attribute("name") for each in self.driver.execute_script(BUTTONS)]
        for menu in self.seen(self.more):
            self.press(menu, counts=False)
            found += [each.get_attribute("name") for each in self.driver.execute_script(BUTTONS)]
            self.escape()
        return list(dict.fromkeys(str(name) for name in found))

    def press_button(self, name: str) -> bool:
        """A button of a form, in the menu that it is in if there is no room; ``False`` where there is none."""
        for menu in (None, *range(len(self.seen(self.more)))):
            if menu is not None:
                self.press(self.seen(self.more)[menu])
            for button in self.driver.execute_script(BUTTONS):
                if button.get_attribute("name") == name:
                    self.press(button)
                    return True
            if menu is not None:
                self.escape()
        return False

    def close_dialogs(self) -> None:
        """As somebody does who does not want to go on."""
        for _ in range(4):
            if not self.dialog():
                return
            found = self.seen("header [aria-label=Close], .btn-close") or self.seen("footer button")
            assert found, f"a dialog without a way out: {self.text('.modal')}"
            self.press(found[-1], counts=False)
        raise AssertionError(f"dialogs without end: {self.text('.modal')}")

    def until(self, selector: str, text: str) -> None:
        """Until it is to be seen there, by itself."""
        script = """
        const [selector, text, patience, done] = arguments, start = performance.now();
        (function look() {
          const told = [...document.querySelectorAll(selector)].map((each) => each.innerText).join(' ');
          if (told.includes(text) || performance.now() - start > patience) done(told);
          else setTimeout(look, 50);
        })()"""
        told = self.driver.execute_async_script(script, selector, text, PATIENCE_S * 1000)
        assert text in told, f"not {text} but {told}"
        self.settle()

    def escape(self) -> None:
        """The key, or the way back of a phone, that closes a menu."""
        ActionChains(self.driver).send_keys(Keys.ESCAPE).perform()
        self.settle()

    def choose(self, field: str, text: str) -> None:
        """A record by its name: typed, and the first proposal that begins so pressed."""
        element = self.seen(f"[name='{field}'] input")[-1]
        self.press(element)
        element.send_keys(text)
        item = ".o-autocomplete--dropdown-item"
        self.until(f"{item}:not(.o_m2o_dropdown_option)", text)
        for _ in range(5):  # the proposals are drawn anew as they come
            with suppress(StaleElementReferenceException):
                for proposal in self.seen(f"body {item}"):
                    if (proposal.get_attribute("innerText") or "").strip().startswith(text):
                        self.press(proposal)
                        return
        raise AssertionError(f"{field}: no {text} among the proposals: {self.text('.o-autocomplete--dropdown-menu')}")

    def choose_kind(self, field: str, text: str) -> None:
        """The kind of record that a reference leads to, by the list before it."""
        Select(self.seen(f"[name='{field}'] select")[0]).select_by_visible_text(text)
        self.clicks += 1
        self.settle()

    def upload(self, field: str, file: Path) -> None:
        """The button for it, and the file in the window of the operating system."""
        script = "return document.querySelector(`[name='${arguments[0]}'] input[type=file]`)"
        self.driver.execute_script(script, field).send_keys(str(file))
        self.clicks += 1
        self.settle()

    def type(self, field: str, text: str) -> None:
        """Into a field of the form; counts as no click, as hands stay on the keyboard."""
        element = self.seen(f"[name='{field}'] input, [name='{field}'] textarea, [name='{field}'] .ace_text-input")[0]
        element.clear()
        element.send_keys(text)
        self.settle()


# --- what there is to open ---------------------------------------------------------------------------------------


def menu_actions(person: Person, module: str) -> list[dict[str, Any]]:
    """What the menus of a module open, in their order: ``menu`` (its whole name) and what the action says."""
    known = person.find("ir.model.data", [("module", "=", module), ("model", "=", "ir.ui.menu")], "res_id")
    menus = person.find(
        "ir.ui.menu", [("id", "in", [each["res_id"] for each in known])], "complete_name", "action", order="id"
    )
    opened = []
    for menu in menus:
        if menu["action"]:
            kind, _, number = menu["action"].partition(",")
            fields = ["name", "type"]
            if kind == "ir.actions.act_window":
                fields += ["res_model", "view_mode", "search_view_id"]
            if kind == "ir.actions.client":
                fields.append("tag")
            (action,) = person.call(kind, "read", [int(number)], fields)
            opened.append({"menu": menu["complete_name"], **action})
    return opened


def search_filters(person: Person, action: dict[str, Any]) -> list[str]:
    """The filters and groupings that the search of that action offers."""
    view = action["search_view_id"][0] if action["search_view_id"] else False
    arch = person.call(action["res_model"], "get_views", [[view, "search"]])["views"]["search"]["arch"]
    return [
        name
        for tag in re.findall(r"<filter\b[^>]*>", arch)
        if 'invisible="1"' not in tag and 'invisible="True"' not in tag
        for name in re.findall(r'\bname="([^"]+)"', tag)
    ]


def sample_records(person: Person, model: str, most: int) -> list[int]:
    """One record of each state there is, else the first."""
    fields = person.call(model, "fields_get", [], ["type", "store"])
    telling = ("state", "connection_status", "condition", "needs_attention", "last_error")
    by = [name for name in telling if name in fields]
    rows = person.find(model, [], *by, limit=200)
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(json.dumps([row[name] if name != "last_error" else bool(row[name]) for name in by]), row["id"])
    return list(first.values())[:most]


def buttons_of(person: Person, model: str, view: str) -> set[str]:
    """The names of all buttons that the view of that kind (``form`` or ``list``) may show, with lists inside it."""
    arch = person.call(model, "get_views", [[False, view]])["views"][view]["arch"]
    buttons = [dict(re.findall(r'\b(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<button\b[^>]*>", arch)]
    return {button["name"] for button in buttons if button.get("type") == "object"}
