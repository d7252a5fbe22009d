"""Buttons that cut off, restart or take back: each asks first, and says afterwards what has happened."""

from __future__ import annotations

from typing import Any

import pytest

from tests.odoo.box import HandBox
from tests.odoo.screens import DESKTOP, PHONE, WebClient
from tests.odoo.states import enrolled_gateway, gateway_that_misses_readings, paired_device, serial

SAID = ".o_notification"
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])


@pytest.fixture
def box(web: WebClient) -> Any:
    box = HandBox(web.person, serial("Hall"))
    yield box
    box.close()


@pytest.fixture
def device(web: WebClient, box: HandBox) -> int:
    """One that is paired at a gateway in contact."""
    profile = web.person.create("iiot.device.profile", name=serial("Kind"))
    return paired_device(web.person, box, profile, serial("Press"))


def show(web: WebClient, action: str, record: int, page: str = "") -> None:
    web.do(f"industrial_iot.{action}", ".o_form_view", viewType="form", props={"resId": record})
    if page:
        web.press_text(page)


def ask(web: WebClient, button: str, question: str) -> None:
    """Press it, read the question, and say yes."""
    assert web.press_button(button), f"no {button}: {web.buttons()}"
    told = web.text(".modal")
    assert question in told, f"{button} asks: {told}"
    web.picture(f"question {button}")
    web.press(web.seen(".modal-footer .btn-primary")[0])


def said(web: WebClient, words: str) -> None:
    web.until(SAID, words)
    web.picture(f"said {words[:30]}")
    for close in web.seen(".o_notification_close, .o_notification .btn-close"):
        web.press(close)
    assert not web.problems()


@SIZES
def test_switching_off_a_device_and_what_follows(web: WebClient, device: int, size: tuple[int, int]) -> None:
    web.home(size)
    web.enter("industrial_iot")
    show(web, "iiot_device_action", device)
    ask(web, "action_send_reset", "The device restarts now")
    said(web, "It is on its way.")
    ask(web, "action_disable", "The device is cut off at once")
    said(web, "Switched off. The gateway is told within seconds.")
    web.press_button("action_enable")
    said(web, "Switched on. The gateway is told within seconds.")
    show(web, "iiot_device_action", device, "Connection")
    ask(web, "action_rotate_secret", "The device is sent a new password")
    said(web, "A new password was requested. The gateway is told within seconds.")
    show(web, "iiot_device_action", device, "Connection")
    ask(web, "action_revoke", "a new token at the machine")
    said(web, "The pairing was revoked. The gateway is told within seconds.")
    show(web, "iiot_device_action", device, "Connection")
    ask(web, "action_retire", "put out of service")
    said(web, "Out of service. Its history stays.")
    web.press_button("action_unretire")
    said(web, "Back in service. It needs a new token.")


@SIZES
def test_keys_of_a_gateway(web: WebClient, size: tuple[int, int]) -> None:
    gateway = enrolled_gateway(web.person, serial("Hall"))
    web.home(size)
    web.enter("industrial_iot")
    show(web, "iiot_gateway_action", gateway)
    ask(web, "action_new_code", "For a replacement gateway")
    assert "iiot-appliance enroll" in web.text(".modal")
    web.picture("enrolment dialog")
    web.close_dialogs()
    ask(web, "action_new_key", "The earlier keys expire after a week")
    assert "ODOO_API_KEY=" in web.text(".modal")
    web.picture("key dialog")
    web.close_dialogs()
    ask(web, "action_forget_address", "Odoo no longer calls the gateway")
    said(web, "Odoo no longer calls the gateway.")
    show(web, "iiot_gateway_action", gateway, "Access")
    ask(web, "action_revoke", "will be refused")
    said(web, "The key is not valid any more.")


@SIZES
def test_accepting_that_readings_are_missing(web: WebClient, size: tuple[int, int]) -> None:
    gateway = gateway_that_misses_readings(web.person)
    web.home(size)
    web.enter("industrial_iot")
    show(web, "iiot_gateway_action", gateway)
    ask(web, "action_accept_ledger", "Do so only when you know why")
    said(web, "12 missing readings were accepted.")
    assert "action_accept_ledger" not in web.buttons()


@SIZES
def test_taking_back_a_command_and_sending_it_again(
    web: WebClient, box: HandBox, device: int, size: tuple[int, int]
) -> None:
    web.home(size)
    web.enter("industrial_iot")
    for name in ("one", "two"):
        web.person.call("iiot.device", "send_command", [device], name)
    first, second = (found["id"] for found in web.person.find("iiot.command", [("device_id", "=", device)], order="id"))
    show(web, "iiot_command_action", first)
    ask(web, "action_cancel", "unless it has it already")
    said(web, "Taken back. The device will not get it.")
    web.until(".o_form_statusbar .o_arrow_button_current", "Cancelled")
    ask(web, "action_retry", "carries it out again")
    said(web, "It is on its way.")
    box.sync()
    show(web, "iiot_command_action", second)
    ask(web, "action_cancel", "unless it has it already")
    said(web, "It is being taken back.")
    assert "Unless the device has it already" in web.text(".o_form_view")


@SIZES
def test_an_update_is_cancelled_tried_again_and_rolled_back(
    web: WebClient, box: HandBox, device: int, size: tuple[int, int]
) -> None:
    firmware = web.person.create(
        "iiot.firmware", version=serial("7"), url="https://files.example/7.bin", size=1, sha256="0" * 64
    )
    update = web.person.create("iiot.update", device_id=device, firmware_id=firmware)
    (row,) = web.person.find("iiot.device", [("id", "=", device)], "device_id")
    web.home(size)
    web.enter("industrial_iot")
    show(web, "iiot_update_action", update)
    ask(web, "action_start", "installs it and restarts")
    web.until(".o_form_view", "with its next contact")
    ask(web, "action_cancel", "The device is told to stop")
    said(web, "Cancelled. The device runs what it ran before.")
    ask(web, "action_retry", "installs the firmware again")
    web.until(".o_form_view", "with its next contact")
    (order,) = box.sync()["updates"]
    ask(web, "action_cancel", "The device is told to stop")
    said(web, "The device is told to stop. Here you see when it has.")
    web.until(".o_form_view", "The device was asked to stop")
    told = {"update_id": order["update_id"], "version": "7", "state": "installed"}
    box.tell(row["device_id"], "ota_status", told)  # too late
    web.until(".o_form_statusbar .o_arrow_button_current", "Installed")
    ask(web, "action_rollback", "go back to the firmware it ran before")
    web.until(".o_form_view", "with its next contact")
    (order,) = [order for order in box.sync()["updates"] if order["action"] == "rollback"]
    told = {"update_id": order["update_id"], "state": "failed", "error": "no other firmware"}
    box.tell(row["device_id"], "ota_status", told)
    web.until(".o_form_view", "no other firmware")
    ask(web, "action_retry", "told once more to go back")
    web.until(".o_form_view", "with its next contact")
    assert not web.problems()
