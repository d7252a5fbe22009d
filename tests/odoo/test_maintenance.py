"""A machine in Maintenance and its device in a real Chromium: the way there and back, at a desk and on a phone."""

from __future__ import annotations

import pytest

from tests.odoo.box import HandBox
from tests.odoo.screens import DESKTOP, PHONE, WebClient
from tests.odoo.states import paired_device, serial

EQUIPMENT = "maintenance.equipment"
STAT_BUTTON = ".o_form_view button[name='{}']"
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])


def machine(web: WebClient, name: str) -> int:
    (found,) = web.person.find(EQUIPMENT, [("name", "=", name)], "id")
    return int(found["id"])


def action(web: WebClient) -> int:
    place = [("module", "=", "maintenance"), ("name", "=", "hr_equipment_action")]
    (found,) = web.person.find("ir.model.data", place, "res_id")
    return int(found["res_id"])


def open_machine(web: WebClient, name: str) -> None:
    web.do(action(web), ".o_form_view", viewType="form", props={"resId": machine(web, name)})


def press_button(web: WebClient, name: str) -> None:
    """One of those above the form: on a phone, and where there are many, they are behind *More*."""
    if not web.seen(STAT_BUTTON.format(name)):
        web.press(web.seen(".o-form-buttonbox .o_button_more")[0])
    web.press(web.seen(f"button[name='{name}']")[0])


def press_request(web: WebClient) -> None:
    if not web.seen(STAT_BUTTON.format("action_new_maintenance_request")):
        web.press(web.seen(".o_cp_action_menus button, .o_statusbar_buttons .dropdown-toggle")[-1])
    web.press(web.seen("button[name='action_new_maintenance_request']")[0])


def quiet(web: WebClient, place: str) -> None:
    web.picture(place)
    assert web.problems() == [], place
    assert not (web.phone and web.too_wide()), place


@SIZES
def test_a_machine_says_that_its_device_is_away_how_old_its_values_are_and_leads_there(
    web: WebClient, size: tuple[int, int]
) -> None:
    web.home(size)
    web.enter("maintenance")
    open_machine(web, "Conveyor 2")
    web.settle(".o_iiot_live_values")
    assert "Offline for " in web.text(STAT_BUTTON.format("action_open_iiot_devices")) or web.phone
    assert "the machine may have others by now" in web.text("[name='iiot_warning'].alert")
    assert "the machine may have other values by now" in web.text(".o_iiot_live_old")
    assert "motor.temperature" in web.text(".o_iiot_live_values")
    quiet(web, "machine offline")
    press_button(web, "action_open_iiot_devices")
    web.settle(".o_form_view .o_widget_iiot_device_live")
    assert "SN-24" in web.text(".o_form_view") or web.seen("[name='serial_number'] input")
    quiet(web, "its device")
    press_request(web)
    web.settle(".o_form_view [name='equipment_id']")
    assert web.seen("[name='name'] textarea, [name='name'] input")[0].get_attribute("value") == (
        "Conveyor 2 is offline: it stopped answering (keep-alive timed out)"
    )
    assert "motor.temperature: " in web.text(".o_form_view [name='description']")
    quiet(web, "its request")
    web.press(web.seen(".o_form_button_cancel")[0])


@SIZES
def test_a_machine_with_two_devices_shows_one_after_the_other(web: WebClient, size: tuple[int, int]) -> None:
    (first,) = web.person.find("iiot.device", [("device_id", "=", "press-1")], "name", "profile_id")
    reference = f"{EQUIPMENT},{machine(web, 'Press 1')}"
    values = {"name": "Press 1 oil", "serial_number": f"SN-OIL-{size[0]}", "business_ref": reference}
    second = web.person.create("iiot.device", profile_id=first["profile_id"][0], **values)
    try:
        web.home(size)
        web.enter("maintenance")
        open_machine(web, "Press 1")
        web.until(".o_iiot_equipment_readings", "Online for ")
        quiet(web, "machine of two devices")
        web.press_text("Press 1 oil", within=".o_iiot_equipment_readings button")
        web.until(".o_iiot_equipment_readings", "Not paired yet")
        quiet(web, "machine of two devices the second")
        web.press_text(first["name"], within=".o_iiot_equipment_readings button")
        web.until(".o_iiot_equipment_readings", "Online for ")
        press_button(web, "action_open_iiot_devices")
        web.settle(".o_kanban_view" if web.phone else ".o_list_view")
        assert "Press 1 oil" in web.text(".o_content")
        quiet(web, "devices of the machine")
    finally:
        web.person.call("iiot.device", "unlink", [second])


def test_an_open_machine_warns_as_soon_as_its_device_has_gone(web: WebClient) -> None:
    name, person = serial("Mill"), web.person
    box = HandBox(person, serial("Hall"))
    profile = person.create("iiot.device.profile", name=serial("Kind"))
    device = paired_device(person, box, profile, name)
    person.call(
        "iiot.device",
        "write",
        [device],
        {"business_ref": f"{EQUIPMENT},{person.create(EQUIPMENT, name=name)}"},
    )
    (row,) = person.find("iiot.device", [("id", "=", device)], "device_id")
    box.tell(row["device_id"], "telemetry", {"strokes": 17})
    web.home()
    open_machine(web, name)
    web.until(".o_iiot_live_values", "17")
    assert not web.seen("[name='iiot_warning'].alert")
    box.tell(row["device_id"], "presence", {"status": "offline", "reason_code": "keep_alive", "reason": "no packet"})
    web.until(".o_form_view", "the machine may have others by now")
    web.until(STAT_BUTTON.format("action_open_iiot_devices"), "Offline for ")
    quiet(web, "machine whose device has just gone")
    box.close()


@SIZES
def test_a_machine_without_a_device_offers_to_connect_one(web: WebClient, size: tuple[int, int]) -> None:
    name = f"Lathe {size[0]}"
    web.person.create(EQUIPMENT, name=name)
    web.home(size)
    web.enter("maintenance")
    open_machine(web, name)
    assert not web.seen(".o_iiot_equipment_readings, [name='iiot_warning'].alert")
    quiet(web, "machine without")
    press_button(web, "action_connect_iiot_device")
    web.settle(".o_form_view [name='serial_number'] input")
    assert name in " ".join(each.get_attribute("value") or "" for each in web.seen("[name='business_ref'] input"))
    quiet(web, "connect a device")


@SIZES
def test_lists_and_cards_of_machines_show_and_find_those_whose_device_is_away(
    web: WebClient, size: tuple[int, int]
) -> None:
    web.home(size)
    web.enter("maintenance")
    for view in ("kanban",) if web.phone else ("list", "kanban"):
        web.do(action(web), f".o_{view}_view", viewType=view, additionalContext={"search_default_iiot_device": 1})
        assert "Conveyor 1" in web.text(".o_content")
        quiet(web, f"machines {view}")
        web.do(action(web), f".o_{view}_view", viewType=view, additionalContext={"search_default_iiot_offline": 1})
        assert "Conveyor 2" in web.text(".o_content")
        assert "Conveyor 1" not in web.text(".o_content")
        assert "Offline" in web.text(".o_content")
        quiet(web, f"machines offline {view}")
