"""Every menu, view, filter and button of the add-on in a real Chromium, at a desk and on a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.odoo.screens import DESKTOP, PHONE, WebClient, buttons_of, menu_actions, sample_records, search_filters
from tests.odoo.states import every_state

MODULE = "industrial_iot"
LONG = bool(os.environ.get("IIOT_TEST_LONG"))
MOST_STATES = 20
"""Records of each model whose buttons are pressed, each in another state."""


@pytest.fixture
def all_states(web: WebClient) -> None:
    """Beside the demonstration factory: what has buttons that nothing in it has."""
    every_state(web.person)


class Round:
    """What was wrong, with the place where it was."""

    def __init__(self, web: WebClient) -> None:
        self.web = web
        self.found: list[str] = []
        self.seen = 0

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """What goes wrong inside is noted, and the round goes on."""
        try:
            yield
        except AssertionError as error:
            self.found.append(f"{place}: {error}")
        self.web.picture(place)
        self.found += [f"{place}: {problem}" for problem in self.web.problems()]
        if self.web.phone and self.web.too_wide():
            self.found.append(f"{place}: wider than the screen")
        self.seen += 1

    def end(self) -> None:
        assert not self.found, "\n".join(self.found)
        assert self.seen


def views(action: dict[str, Any]) -> list[str]:
    return [view for view in action["view_mode"].split(",") if view != "form"]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_every_menu_and_view_opens_and_every_page_of_a_form(web: WebClient, size: tuple[int, int]) -> None:
    web.home(size)
    web.enter(MODULE)
    walk = Round(web)
    for action in menu_actions(web.person, MODULE):
        name = action["menu"].partition("/")[2] or action["menu"]
        if action["type"] != "ir.actions.act_window":
            with walk.at(name):
                web.do(action["id"])
            for other in range(1, len(web.seen(".o_switch_view"))):  # where it led to a window with several views
                with walk.at(f"{name} view {other}"):
                    web.press(web.seen(".o_switch_view")[other])
            continue
        for view in views(action):
            with walk.at(f"{name} {view}"):
                # on a phone Odoo itself shows cards where there are any
                web.do(action["id"], ".o_view_controller" if web.phone else f".o_{view}_view", viewType=view)
        if "form" in action["view_mode"]:
            transient = action["res_model"] == "res.config.settings"
            for record in [False] if transient else sample_records(web.person, action["res_model"], 2):
                with walk.at(f"{name} form {record}"):
                    web.do(action["id"], ".o_form_view", viewType="form", props={"resId": record})
                if not transient:
                    turn_pages(walk, f"{name} form {record}")
    walk.end()


def turn_pages(walk: Round, place: str) -> None:
    for number in range(1, len(walk.web.seen(".o_notebook .nav-link"))):
        with walk.at(f"{place} page {number}"):
            walk.web.press(walk.web.seen(".o_notebook .nav-link")[number])
            walk.web.settle(f".o_notebook .nav-item:nth-child({number + 1}) .nav-link.active")


def test_every_filter_and_grouping_of_every_search_can_be_used(web: WebClient) -> None:
    web.home()
    web.enter(MODULE)
    walk = Round(web)
    for action in menu_actions(web.person, MODULE):
        if action["type"] == "ir.actions.act_window" and views(action):
            view = views(action)[0]
            for name in search_filters(web.person, action):
                with walk.at(f"filter {action['res_model']} {name}"):
                    context = {f"search_default_{name}": 1}
                    web.do(action["id"], f".o_{view}_view", viewType=view, additionalContext=context)
                    assert web.seen(".o_facet_values, .o_searchview_facet"), "the search does not show it"
    walk.end()


def test_times_in_tables_are_those_of_the_browser(web: WebClient) -> None:
    zone = ZoneInfo("Asia/Tokyo")
    (action,) = [each for each in menu_actions(web.person, MODULE) if each.get("res_model") == "iiot.update"]
    (update,) = web.person.find("iiot.update", [("state", "=", "installed")], "started_at", limit=1)
    began = datetime.fromisoformat(update["started_at"]).replace(tzinfo=UTC).astimezone(zone)
    web.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": zone.key})
    try:
        web.home()
        web.do(action["id"], ".o_form_view", viewType="form", props={"resId": update["id"]})
        hour = f"{began:%H}" if web.name == "17" else f"{began.hour % 12 or 12}"
        web.until("[name='history_table']", f"{hour}:{began:%M:%S}")
    finally:
        web.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_every_button_of_every_form_does_something_without_an_error(
    web: WebClient, all_states: None, size: tuple[int, int]
) -> None:
    """Where a question is asked first it is answered with no; dialogs are closed; everything else happens."""
    web.home(size)
    web.enter(MODULE)
    walk = Round(web)
    for action in menu_actions(web.person, MODULE):
        if action["type"] != "ir.actions.act_window" or "form" not in action["view_mode"] or not views(action):
            continue
        model = action["res_model"]
        there = buttons_of(web.person, model, "form")
        pressed: set[str] = set()
        for record in sample_records(web.person, model, MOST_STATES):
            if LONG or there - pressed:
                press_buttons(walk, action, record, there if LONG else there - pressed, pressed)
        if there - pressed:
            walk.found.append(f"{model}: nowhere to be seen: {', '.join(sorted(there - pressed))}")
    walk.end()


def press_buttons(walk: Round, action: dict[str, Any], record: int, there: set[str], pressed: set[str]) -> None:
    """Those of ``there`` in the head and on each page; which were is added to ``pressed``."""
    web, left = walk.web, set(there)
    page, pages = 0, 1
    while page < pages and left:
        pages = open_page(web, action, record, page)
        for name in web.buttons():
            if name not in left:
                continue
            open_page(web, action, record, page)
            with walk.at(f"button {action['res_model']} {record} {name}"):
                if web.press_button(name):  # or what was pressed before it has led to another state
                    left.discard(name)
                    pressed.add(name)
            web.close_dialogs()
        page += 1


def open_page(web: WebClient, action: dict[str, Any], record: int, page: int) -> int:
    """A page of a record's form; how many there are."""
    web.do(action["id"], ".o_form_view", viewType="form", props={"resId": record})
    tabs = web.seen(".o_notebook .nav-link")
    if tabs:
        web.press(tabs[page])
    return len(tabs)


def test_every_button_of_every_list_does_something_without_an_error(web: WebClient, all_states: None) -> None:
    """Those of a row, and those above for the rows that are ticked; questions are answered with no."""
    web.home()
    web.enter(MODULE)
    walk = Round(web)
    pressed = set()
    for action in menu_actions(web.person, MODULE):
        if action["type"] != "ir.actions.act_window" or "list" not in action["view_mode"]:
            continue
        model = action["res_model"]
        for name in sorted(buttons_of(web.person, model, "list")):
            with walk.at(f"list {model} {name}"):
                web.do(action["id"], ".o_list_view", viewType="list")
                if not web.seen(f".o_list_view button[name='{name}']"):
                    web.press(web.seen(".o_list_view .o_data_row .o_list_record_selector input")[0])
                web.press(web.seen(f".o_list_view button[name='{name}']")[0])
            web.close_dialogs()
            pressed.add((model, name))
    assert {("iiot.device", "action_update_firmware"), ("iiot.update", "action_retry")} <= pressed
    walk.end()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_what_the_first_page_and_the_chart_of_a_device_offer_can_be_pressed(
    web: WebClient, size: tuple[int, int]
) -> None:
    web.home(size)
    walk = Round(web)
    web.do("industrial_iot.iiot_dashboard_action")
    for kind in (".o_iiot_tile", ".o_iiot_dashboard a"):
        for number in range(len(web.seen(kind))):
            with walk.at(f"first page {kind} {number}"):
                web.press(web.seen(kind)[number])
                assert web.seen(".o_list_view, .o_kanban_view, .o_form_view"), "it leads nowhere"
            web.do("industrial_iot.iiot_dashboard_action")
    (press,) = web.person.find("iiot.device", [("device_id", "=", "press-1")], "id")
    web.do("industrial_iot.iiot_device_action", ".o_iiot_live", viewType="form", props={"resId": press["id"]})
    assert len(web.seen(".o_iiot_live button")) > 4
    for number, button in enumerate(web.seen(".o_iiot_live button")):
        with walk.at(f"chart {number}"):
            web.press(button)
            assert "active" in (button.get_attribute("class") or ""), "it does not show what is chosen"
    walk.end()


def test_the_actions_of_a_selection_open_and_close(web: WebClient) -> None:
    web.home()
    web.enter(MODULE)
    walk = Round(web)
    bound = web.person.find(
        "ir.actions.act_window", [("binding_model_id.model", "like", "iiot.")], "res_model", "binding_model_id"
    )
    assert bound
    for action in bound:
        (model,) = web.person.call("ir.model", "read", [action["binding_model_id"][0]], ["model"])
        ids = web.person.call(model["model"], "search", [], limit=3)
        with walk.at(f"selection {action['res_model']}"):
            context = {"active_model": model["model"], "active_ids": ids, "active_id": ids[0]}
            web.do(action["id"], ".modal .o_form_view", additionalContext=context, clearBreadcrumbs=False)
        web.close_dialogs()
    walk.end()


def test_the_way_to_a_new_record_leads_to_an_empty_form_and_back(web: WebClient) -> None:
    web.home()
    web.enter(MODULE)
    walk = Round(web)
    for action in menu_actions(web.person, MODULE):
        if action["type"] == "ir.actions.act_window" and "form" in action["view_mode"] and views(action):
            with walk.at(f"new {action['res_model']}"):
                web.do(action["id"], f".o_{views(action)[0]}_view", viewType=views(action)[0])
                new = web.seen(".o_list_button_add, .o-kanban-button-new")
                if new:
                    web.press(new[0])
                    web.settle(".o_form_view")
            if new:
                web.press(web.seen(".o_form_button_cancel")[0])
    walk.end()
