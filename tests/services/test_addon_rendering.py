"""The add-on renders commands as the appliance does: one sandbox, one table of cases. Needs no Odoo."""

from __future__ import annotations

import importlib.util
import json
import sys
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from appliance.contract.command import SendCommand
from appliance.contract.odoo import DEFAULT_COMMAND_TEMPLATE, DeviceConfig
from appliance.contract.times import Clock, parse_rfc3339
from appliance.errors import CommandRefusedError
from appliance.services import rendering as appliance_rendering
from appliance.services import sandbox as appliance_sandbox

LIB = Path(__file__).parents[2] / "odoo_addon" / "industrial_iot" / "lib"
TABLE = json.loads((Path(__file__).parent / "command_templates.json").read_text(encoding="utf-8"))


def addon_lib(name: str) -> ModuleType:
    """A module of the add-on's ``lib`` without the add-on around it, which only Odoo can import."""
    package = "industrial_iot_lib"
    if package not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            package, LIB / "__init__.py", submodule_search_locations=[str(LIB)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
        spec.loader.exec_module(module)
    return import_module(f"{package}.{name}")


rendering = addon_lib("rendering")


class StoppedClock(Clock):
    def now_ms(self) -> int:
        return parse_rfc3339("2026-11-22T10:00:00Z")


@pytest.fixture
def renderer() -> Any:
    return rendering.Renderer(now=lambda: datetime(2026, 11, 22, 10))


def test_the_sandbox_is_the_same_file_in_both() -> None:
    assert (LIB / "sandbox.py").read_bytes() == Path(appliance_sandbox.__file__).read_bytes()


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["name"])
def test_a_template_gives_in_the_addon_what_the_shared_table_says(renderer: Any, case: dict[str, Any]) -> None:
    template = case.get("template") or TABLE["templates"].get(case.get("template_of"), TABLE["default"])
    order = {"action": case["action"], "params": case["params"], "device_id": case.get("device_id", "press-07")}
    if "error" in case:
        with pytest.raises(rendering.RenderingError) as refusal:
            renderer.payload(template, **order)
        assert refusal.value.code == case["error"]
    elif "output" in case:
        assert renderer.payload(template, **order) == case["output"]
    else:
        assert json.loads(renderer.payload(template, **order)) == case["json"]


@pytest.mark.parametrize(
    "case", [case for case in TABLE["cases"] if "error" not in case], ids=lambda case: case["name"]
)
def test_the_payload_with_its_command_id_is_what_the_appliance_would_make(renderer: Any, case: dict[str, Any]) -> None:
    template = case.get("template") or TABLE["templates"].get(case.get("template_of"), TABLE["default"])
    order = {"action": case["action"], "params": case["params"], "device_id": case.get("device_id", "press-07")}
    theirs = appliance_rendering.Renderer(clock=StoppedClock()).command_payload(
        SendCommand.model_validate(order),
        command_id="c-1",
        config=DeviceConfig(device_id="press-07", command_template=template),
        topic="command/press-07/action",
    )
    assert renderer.payload(template, **order, command_id="c-1").encode() == theirs


def test_both_begin_with_the_same_template_and_have_the_same_bounds() -> None:
    assert rendering.DEFAULT_TEMPLATE == DEFAULT_COMMAND_TEMPLATE
    for bound in ("MAX_OUTPUT_BYTES", "MAX_TEMPLATE_CHARACTERS", "MAX_STEPS"):
        assert getattr(rendering, bound) == getattr(appliance_rendering, bound)


@pytest.mark.parametrize(
    ("template", "line"), [("{\n{% if %}", 2), ("{\n\n{{ 1 / params.z }}", 3), ('{\n"a": \n}', 3)], ids=repr
)
def test_a_refusal_names_the_line(renderer: Any, template: str, line: int) -> None:
    with pytest.raises(rendering.RenderingError) as refusal:
        renderer.payload(template, action="a", params={"z": 0}, device_id="d")
    assert refusal.value.line == line


@pytest.mark.parametrize(("topic", "payload"), [("a", b""), ("ö/b", b"x" * 120), ("t", b"x" * 20_000)])
def test_a_packet_is_as_long_as_the_appliance_counts_it(topic: str, payload: bytes) -> None:
    assert rendering.publish_bytes(topic, payload) == appliance_rendering.publish_bytes(topic, payload)


@pytest.mark.parametrize("template", ["{% for i in range(10**9) %}{% endfor %}", "{{ params.__class__.mro() }}"])
def test_what_the_sandbox_refuses_is_refused(renderer: Any, template: str) -> None:
    with pytest.raises(rendering.RenderingError):
        renderer.payload(template, action="a", params={}, device_id="d")


def test_the_appliance_refuses_what_the_addon_refuses(renderer: Any) -> None:
    with pytest.raises(CommandRefusedError):
        appliance_rendering.Renderer(clock=StoppedClock()).render("{% if %}", action="a", params={}, device_id="d")
    with pytest.raises(rendering.RenderingError):
        renderer.check("{% if %}")


@pytest.mark.parametrize(
    ("template", "actions", "numbers"),
    [
        ("{{ params.a }}{{ params['b c'] }}", [], {"a": 7, "b c": 7}),
        ("{{ params.axes[0].x }}{{ params.axes[1]['y'] }}", [], {"axes": [{"x": 7}, {"y": 7}]}),
        ("{% for k, v in params.items() %}{{ k }}{% endfor %}{{ params.items }}", [], {"items": 7}),
        ("{% if action == 'a' %}{% elif 'b' == action %}{% elif action in ['c', 'd'] %}{% endif %}", list("abcd"), {}),
        ("{{ params.a }}{{ params.a.b }}{{ params.a.b.c }}", [], {"a": {"b": {"c": 7}}}),
    ],
)
def test_a_template_tells_what_it_asks_for(template: str, actions: list[str], numbers: dict[str, Any]) -> None:
    samples = addon_lib("template_samples")
    found, paths = samples.named_in(template)
    assert found == actions
    assert samples._sample(paths, 7) == numbers
