"""What a maintenance engineer does on the first day, from the home screen, with a limit of clicks for each task."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.odoo.box import HandBox
from tests.odoo.screens import WebClient

APP = "Industrial IoT"
MACHINES = "Maintenance Equipment"


@pytest.fixture
def box(web: WebClient) -> Iterator[HandBox]:
    box = HandBox(web.person, f"Hall {uuid.uuid4().hex[:6]}")
    yield box
    box.close()


def enter(web: WebClient, *menus: str) -> None:
    """From the home screen into the application, and to one of its menus."""
    web.home()
    web.press(web.seen(".o_navbar_apps_menu button")[0])
    web.press_text(APP)
    for menu in menus:
        web.press_text(menu)


def open_record(web: WebClient, name: str) -> None:
    """A row of the list, or the button for a new one."""
    web.press_text(name)
    web.settle(".o_form_view")


def profile(web: WebClient) -> str:
    name = f"Press {uuid.uuid4().hex[:6]}"
    web.person.create("iiot.device.profile", name=name, metrics="temperature")
    return name


def paired(web: WebClient, box: HandBox) -> tuple[str, str]:
    """A device at that box, and what it is called."""
    name = f"Press-{uuid.uuid4().hex[:6]}"
    (kind,) = web.person.find("iiot.device.profile", [("name", "=", profile(web))], "id")
    device = web.person.create("iiot.device", name=name, serial_number=name, profile_id=kind["id"])
    token = web.person.call("iiot.device", "action_generate_token", [device])["context"]["default_token"]
    return box.pair(name, token), name


def test_a_device_is_paired_in_nine_clicks(web: WebClient, box: HandBox) -> None:
    kind, serial = profile(web), f"SN-{uuid.uuid4().hex[:6]}"
    enter(web, "Device Management", "IIoT Devices")
    open_record(web, "New")
    web.type("serial_number", serial)
    web.choose("profile_id", kind)
    web.press_text("Generate Token")
    token = web.text(".modal [name='token']").split()[0]
    web.picture("task pair token")
    web.press_text("Done")
    box.pair(serial, token)
    web.until(".o_form_statusbar .o_arrow_button_current", "Active")
    web.picture("task pair active")
    assert web.clicks <= 9
    assert not web.problems()


def test_a_device_is_bound_to_equipment_and_its_temperature_mapped_in_nineteen_clicks(
    web: WebClient, box: HandBox
) -> None:
    device, name = paired(web, box)
    machine = web.person.create("maintenance.equipment", name=f"Machine of {name}", serial_no=name)
    box.tell(device, "telemetry", {"temperature": 61.5})
    enter(web, "Device Management", "IIoT Devices")
    open_record(web, name)
    web.choose_kind("business_ref", MACHINES)
    web.choose("business_ref", f"Machine of {name}")
    web.press(web.seen(".o_form_button_save")[0])
    web.press_text("Telemetry Management")
    web.press_text("Telemetry Rules")
    open_record(web, "New")
    web.type("name", f"Temperature of {name}")
    (kind,) = web.person.find("iiot.device", [("device_id", "=", device)], "profile_id")
    web.choose("profile_id", kind["profile_id"][1])
    web.type("json_path", "$.temperature")
    web.choose("target_model_id", MACHINES)
    web.choose("target_field_id", "Temperature")
    web.until("[name='trial_table']", "61.5")
    web.picture("task map trial")
    web.press(web.seen(".o_form_button_save")[0])
    box.tell(device, "telemetry", {"temperature": 62.5})
    (written,) = web.person.call("maintenance.equipment", "read", [machine], ["x_iiot_temperature"])
    assert written["x_iiot_temperature"] == 62.5
    assert web.clicks <= 19
    assert not web.problems()


def test_a_command_is_sent_and_its_answer_seen_in_nine_clicks(web: WebClient, box: HandBox) -> None:
    device, name = paired(web, box)
    enter(web, "Device Management", "IIoT Devices")
    open_record(web, name)
    web.press_text("Send Command…")
    web.type("action", "reset")
    web.picture("task command dialog")
    web.press_text("Send")
    (order,) = box.sync()["commands"]
    assert (order["device_id"], order["action"]) == (device, "reset")
    box.tell(device, "command_state", {"command_id": order["command_id"], "state": "delivered"})
    answer = {"command_id": order["command_id"], "status": "ok", "result": {"restarts": 3}}
    box.tell(device, "command_response", answer)
    web.press(web.seen("button[name='action_open_commands']")[0])
    web.settle(".o_list_view")
    web.press_text("reset")
    web.settle(".o_form_view")
    web.until(".o_form_view", "restarts")
    web.picture("task command answer")
    assert "Done" in web.text(".o_form_statusbar .o_arrow_button_current")
    assert web.clicks <= 9
    assert not web.problems()


def test_why_a_device_is_offline_is_found_out_in_three_clicks(web: WebClient, box: HandBox) -> None:
    device, name = paired(web, box)
    box.tell(device, "presence", {"status": "offline", "reason_code": "keep_alive", "reason": "no packet"})
    enter(web)
    assert name in web.text(".o_iiot_dashboard"), "the first page names it"
    web.press_text(name)
    web.until(".o_iiot_live_connection", "keep-alive timed out")
    web.picture("task offline")
    assert "power" in web.text(".o_iiot_live_connection"), "what to do about it"
    assert web.clicks <= 3
    assert not web.problems()


def test_firmware_is_updated_and_rolled_back_in_sixteen_clicks(web: WebClient, box: HandBox, tmp_path: Path) -> None:
    device, name = paired(web, box)
    version = f"3.{uuid.uuid4().int % 100_000}"
    (tmp_path / "press.bin").write_bytes(b"firmware" * 100)
    enter(web, "OTA Management", "Firmware Versions")
    open_record(web, "New")
    web.type("version", version)
    web.upload("file", tmp_path / "press.bin")
    web.press(web.seen(".o_form_button_save")[0])
    web.press_text("Device Management")
    web.press_text("IIoT Devices")
    open_record(web, name)
    web.press_text("OTA Update")
    web.choose("firmware_id", version)
    web.picture("task update dialog")
    web.press_text("Start Update")
    (order,) = box.sync()["updates"]
    assert (order["device_id"], order["action"], order["params"]["version"]) == (device, "start_update", version)
    for state in ("downloading", "installing", "installed"):
        box.tell(device, "ota_status", {"update_id": order["update_id"], "state": state, "version": version})
    web.until(".o_form_statusbar .o_arrow_button_current", "Installed")
    web.press_text("Roll Back")
    assert "goes back" in web.text(".modal") or "go back" in web.text(".modal"), "it asks first"
    web.picture("task update question")
    web.press(web.seen(".modal-footer .btn-primary")[0])
    (order,) = box.sync()["updates"]
    assert (order["device_id"], order["action"]) == (device, "rollback")
    told = {"update_id": order["update_id"], "state": "rolled_back", "version": "1.0.0"}
    box.tell(device, "ota_status", told)
    web.until(".o_form_statusbar .o_arrow_button_current", "Rolled Back")
    web.picture("task update rolled back")
    assert "runs what it ran before" in web.text(".o_form_view .alert-info"), "as it was told to, so nothing failed"
    assert web.clicks <= 16
    assert not web.problems()
