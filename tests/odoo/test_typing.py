"""What forms say while somebody is still typing, and how the chart of a device is drawn, in a real Chromium."""

from __future__ import annotations

from typing import Any

from selenium.webdriver.common.keys import Keys

from tests.odoo.screens import WebClient

EDITOR = "[name='command_template'] .ace_editor"
TEXT = f'return document.querySelector("{EDITOR}").env.editor.getValue()'
CHART = "const chart = odoo.loader.modules.get('@industrial_iot/live/device_live');"


def form(web: WebClient, model: str, record: int) -> None:
    web.do({"type": "ir.actions.act_window", "res_model": model, "res_id": record, "views": [[False, "form"]]})
    web.settle(".o_form_view")


def test_a_template_is_tried_while_it_is_typed_and_its_wrong_line_is_marked(web: WebClient) -> None:
    web.home()
    (profile,) = web.person.call("iiot.device.profile", "search", [], limit=1)
    form(web, "iiot.device.profile", profile)
    web.press(web.seen(".o_notebook .nav-link[name='commands']")[0])
    web.settle(f"{EDITOR} .ace_content")
    before = web.driver.execute_script(TEXT)
    typed = web.seen(f"{EDITOR} .ace_text-input")[0]
    typed.send_keys(Keys.CONTROL + Keys.END)
    typed.send_keys("\n{{ params. }}")
    web.until("[name='template_problem']", "line 2")
    assert len(web.seen(f"{EDITOR} .ace_gutter-cell.ace_error")) == 1
    assert web.driver.execute_script(TEXT) == before + "\n{{ params. }}"
    assert len(web.seen(".o_notebook .alert-danger")) == 1
    assert "device gets" not in web.text(".o_form_view")
    for _ in "{{ params. }}":
        typed.send_keys(Keys.BACKSPACE)
    web.until("[name='preview_result']", "reset")
    assert not web.seen(f"{EDITOR} .ace_gutter-cell.ace_error")
    web.press(web.seen(".o_form_button_cancel")[0])
    assert web.driver.execute_script(TEXT) == before
    assert not web.problems()


def test_what_is_typed_while_the_server_answers_stays(web: WebClient) -> None:
    web.home()
    (profile,) = web.person.call("iiot.device.profile", "search", [], limit=1)
    form(web, "iiot.device.profile", profile)
    web.press(web.seen(".o_notebook .nav-link[name='commands']")[0])
    web.settle(f"{EDITOR} .ace_content")
    before = web.driver.execute_script(TEXT)
    typed = web.seen(f"{EDITOR} .ace_text-input")[0]
    typed.send_keys(Keys.CONTROL + Keys.END)
    # the answer to what stands there first comes when more has been typed
    slow = """const send = XMLHttpRequest.prototype.send;
    XMLHttpRequest.prototype.send = function (...given) { setTimeout(() => send.apply(this, given), 1500); }"""
    web.driver.execute_script(slow)
    for word in ("{# one", " two", " three", " four #}"):
        typed.send_keys(word)
        web.driver.execute_async_script("setTimeout(arguments[0], 700)")
    web.settle()
    assert web.driver.execute_script(TEXT) == before + "{# one two three four #}"
    web.press(web.seen(".o_form_button_save")[0])
    web.settle(".o_form_status_indicator_buttons.invisible")
    (saved,) = web.person.call("iiot.device.profile", "read", [profile], ["command_template"])
    assert saved["command_template"] == before + "{# one two three four #}"
    web.person.call("iiot.device.profile", "write", [profile], {"command_template": before})


def test_the_path_of_a_rule_is_tried_while_it_is_typed(web: WebClient) -> None:
    web.home()
    (rule,) = web.person.call("iiot.telemetry.rule", "search", [], limit=1)
    form(web, "iiot.telemetry.rule", rule)
    web.settle("[name='trial_table'] td")
    path = web.seen("[name='json_path'] input")[0]
    path.send_keys("_of_nothing")
    web.until("[name='trial_table']", "nothing found")
    words = web.seen("[name='known_paths'] button")
    web.press(words[0])
    assert path.get_attribute("value") == words[0].text
    web.settle()
    assert "nothing found" not in web.text("[name='trial_table']")
    web.press(web.seen(".o_form_button_cancel")[0])


def test_a_chart_has_gaps_where_values_are_missing_and_marks_full_hours(web: WebClient) -> None:
    web.home()

    def ask(script: str, *given: Any) -> Any:
        return web.driver.execute_script(CHART + script, *given)

    points = [[at, 1, 1, 1] for at in (0, 60, 120, 1000, 1060)]
    drawn = ask("return chart.withGaps(arguments[0], 15)", points)
    assert [point[1] for point in drawn] == [1, 1, 1, None, 1, 1]
    assert ask("return chart.withGaps(arguments[0], 900)", points) == points
    local = "return chart.roundTimes(+new Date(...arguments[0]), +new Date(...arguments[1]), arguments[2]).map((ms) =>"
    for hours, since, until, told in (
        (1, [2026, 10, 29, 10, 7], [2026, 10, 29, 11, 7], ["10:15", "10:30", "10:45", "11:00"]),
        (24, [2026, 10, 28, 10, 7], [2026, 10, 29, 10, 7], ["12:00", "18:00", "00:00", "06:00"]),
        (168, [2026, 10, 26, 10, 7], [2026, 10, 29, 10, 7], ["00:00"] * 3),
    ):
        assert ask(local + " new Date(ms).toTimeString().slice(0, 5))", since, until, hours) == told
