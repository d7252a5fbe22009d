"""Forms that stay open show what happens meanwhile, without a click or a reload; what somebody types stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.odoo.box import HandBox
from tests.odoo.screens import WebClient
from tests.odoo.states import paired_device, serial


@pytest.fixture
def box(web: WebClient) -> Iterator[HandBox]:
    box = HandBox(web.person, serial("Hall"))
    yield box
    box.close()


@pytest.fixture
def device(web: WebClient, box: HandBox) -> int:
    profile = web.person.create("iiot.device.profile", name=serial("Kind"))
    return paired_device(web.person, box, profile, serial("Press"))


def name_of(web: WebClient, device: int) -> str:
    (row,) = web.person.find("iiot.device", [("id", "=", device)], "device_id")
    return str(row["device_id"])


def go_offline(web: WebClient, box: HandBox, device: int) -> None:
    box.tell(
        name_of(web, device), "presence", {"status": "offline", "reason_code": "keep_alive", "reason": "no packet"}
    )


def test_every_page_of_an_open_device_shows_that_it_has_gone(web: WebClient, box: HandBox, device: int) -> None:
    web.home()
    web.do("industrial_iot.iiot_device_action", ".o_form_view", viewType="form", props={"resId": device})
    web.press_text("Connection")
    web.until(".o_notebook [name='connection_text']", "Online")
    go_offline(web, box, device)
    web.until(".o_notebook [name='connection_text']", "keep-alive timed out")
    web.press_text("Now")
    web.until(".o_iiot_live_connection", "keep-alive timed out")
    assert not web.problems()


def test_what_somebody_types_meanwhile_stays(web: WebClient, box: HandBox, device: int) -> None:
    web.home()
    web.do("industrial_iot.iiot_device_action", ".o_form_view", viewType="form", props={"resId": device})
    web.type("name", "Not saved yet")
    box.tell(name_of(web, device), "telemetry", {"strokes": 17})
    web.until(".o_iiot_live_values", "17")
    go_offline(web, box, device)
    web.until(".o_iiot_live_connection", "keep-alive timed out")
    (name,) = web.seen("[name='name'] input, [name='name'] textarea")
    assert name.get_property("value") == "Not saved yet"
    web.press(web.seen(".o_form_button_cancel")[0])


def test_an_open_gateway_shows_what_its_appliance_reports(web: WebClient, box: HandBox) -> None:
    web.home()
    web.do("industrial_iot.iiot_gateway_action", ".o_form_view", viewType="form", props={"resId": box.gateway})
    web.until("[name='version']", "1.0")
    box.sync(version="2.7")
    web.until("[name='version']", "2.7")
    assert not web.problems()
