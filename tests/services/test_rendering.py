"""Command templates: the shared table of cases, what a template may not do, and what is checked before sending."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.command import SendCommand
from appliance.contract.odoo import DEFAULT_COMMAND_TEMPLATE, DeviceConfig
from appliance.contract.times import Clock, parse_rfc3339
from appliance.errors import CommandRefusedError
from appliance.services.rendering import Renderer, publish_bytes

TABLE = json.loads((Path(__file__).parent / "command_templates.json").read_text(encoding="utf-8"))
TOPIC = "command/press-07/action"


class StoppedClock(Clock):
    def now_ms(self) -> int:
        return parse_rfc3339("2026-11-22T10:00:00Z")


@pytest.fixture
def renderer() -> Renderer:
    return Renderer(clock=StoppedClock())


def payload_of(
    renderer: Renderer,
    order: dict[str, Any],
    *,
    template: str = DEFAULT_COMMAND_TEMPLATE,
    **config: Any,
) -> bytes:
    return renderer.command_payload(
        SendCommand.model_validate({"device_id": "press-07", "action": "reset", **order}),
        command_id="c-1",
        config=DeviceConfig(device_id="press-07", command_template=template, **config),
        topic=TOPIC,
    )


def code_of(renderer: Renderer, order: dict[str, Any], **config: Any) -> str:
    with pytest.raises(CommandRefusedError) as refusal:
        payload_of(renderer, order, **config)
    return refusal.value.code


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["name"])
def test_a_template_gives_what_the_shared_table_says(renderer: Renderer, case: dict[str, Any]) -> None:
    template = case.get("template") or TABLE["templates"].get(case.get("template_of"), TABLE["default"])
    order = {key: case[key] for key in ("action", "params", "device_id") if key in case}
    if "error" in case:
        assert code_of(renderer, order, template=template) == case["error"]
        return
    payload = payload_of(renderer, order, template=template, command_add_id=False)
    if "output" in case:
        assert payload.decode() == case["output"]
        json.loads(payload)
    else:
        assert json.loads(payload) == case["json"]


def test_the_table_uses_the_default_template_of_the_contract() -> None:
    assert TABLE["default"] == DEFAULT_COMMAND_TEMPLATE


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (DEFAULT_COMMAND_TEMPLATE, '{"action": "reset", "params": {"z": 1, "a": 2}, "command_id": "c-1"}'),
        ('{\n  "z": 1,\n  "a": 2\n}\n', '{\n  "z": 1,\n  "a": 2, "command_id": "c-1"\n}'),
        ("{ }", '{"command_id": "c-1" }'),
        ('{"command_id": null}', '{"command_id": null}'),
        ('{"nested": {"command_id": 1}}', '{"nested": {"command_id": 1}, "command_id": "c-1"}'),
        ("[1]", "[1]"),
        ('"{{ action }}"', '"reset"'),
    ],
)
def test_the_command_id_is_added_as_last_key_of_an_object_without_one(
    renderer: Renderer, template: str, expected: str
) -> None:
    assert payload_of(renderer, {"params": {"z": 1, "a": 2}}, template=template).decode() == expected


def test_a_profile_may_forbid_the_command_id(renderer: Renderer) -> None:
    payload = payload_of(renderer, {}, command_add_id=False)
    assert json.loads(payload) == {"action": "reset", "params": {}}


def test_a_profile_may_declare_commands_that_are_no_json(renderer: Renderer) -> None:
    template = "SET {{ action }};{{ params.delay }}"
    assert payload_of(renderer, {"params": {"delay": 5}}, template=template, command_is_json=False) == b"SET reset;5"
    assert code_of(renderer, {"params": {"delay": 5}}, template=template) == "command_not_json"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("plain, not JSON ✓", "plain, not JSON ✓".encode()),
        (' {"a": 1} ', b' {"a": 1} '),
        ({"b": 1, "a": [True, None, "é"]}, '{"b":1,"a":[true,null,"é"]}'.encode()),
        ([1, 2], b"[1,2]"),
        ("", b""),
    ],
)
def test_a_payload_of_the_caller_is_sent_as_it_is(renderer: Renderer, given: object, sent: bytes) -> None:
    assert payload_of(renderer, {"payload": given}, template="{% broken") == sent


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "{% for i in params.list %}{% for j in params.list %}{% set x = j %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in params.list recursive %}{{ loop(params.list) }}{% endfor %}",
        "{{ 9 ** 99999999 }}",
        "{% set a = 7 ** 1000 %}{{ a * a * a * a }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a'.ljust(999999999) }}",
        "{{ action.__class__.__mro__ }}",
        "{{ params.__class__ }}{{ params.clear() }}",
        "{{ (1).to_bytes(999999999) }}",
        "{{ now.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '\ud800' }}",
        "{{ params | tojson }}" * 9000,
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{% for i in range(9999) %}{{ params | tojson | length }}{% endfor %}",
    ],
)
def test_what_a_template_must_not_do_is_refused_quickly(renderer: Renderer, template: str) -> None:
    started = time.process_time()
    assert code_of(renderer, {"params": {"list": list(range(1000))}}, template=template) == "command_template"
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(9999) %}0123456789012345678901234567890123456789{% endfor %}",
        "{{ 'a' * 999999999 }}",
        "{{ ['a'] * 999999999 }}",
        "{% set a = 'aaaaaaaaaaaaaaaa' %}" + "{% set a = a ~ a %}" * 40,
        "{% set a = 'aaaaaaaaaaaaaaaa' %}" + "{% set a = a + a %}" * 40,
        "{% set a = [1, 1, 1, 1, 1, 1] %}" + "{% set a = [a, a, a, a, a, a] %}" * 12 + "{{ a | tojson }}",
        "{% set a = 'a' * 9000 %}{{ a | replace('a', a) }}",
        "{% set a = 'a' * 9000 %}{{ range(9000) | join(a) }}",
        "{{ '€' * 100000 }}",
    ],
)
def test_a_result_that_would_be_too_long_is_refused_quickly(renderer: Renderer, template: str) -> None:
    started = time.process_time()
    assert code_of(renderer, {}, template=template) == "command_too_large"
    assert time.process_time() - started < 0.5


def test_one_rendering_does_not_use_up_the_steps_of_the_next(renderer: Renderer) -> None:
    template = "[{% for i in range(6000) %}{% endfor %}]"
    assert [payload_of(renderer, {}, template=template) for _ in range(3)] == [b"[]"] * 3


def test_the_size_of_the_whole_packet_is_held_against_what_the_device_takes(renderer: Renderer) -> None:
    payload = b"x" * (256 - publish_bytes(TOPIC, b"") - 1)  # one more byte for the longer length field
    assert publish_bytes(TOPIC, payload) == 256
    assert payload_of(renderer, {"payload": payload.decode()}, max_packet_bytes=256) == payload
    assert code_of(renderer, {"payload": payload.decode() + "x"}, max_packet_bytes=256) == "command_too_large"


@pytest.mark.parametrize(
    ("payload_bytes", "header_bytes"), [(0, 2), (127 - 4 - len(TOPIC), 2), (128, 3), (16384, 4), (2_100_000, 5)]
)
def test_the_packet_size_counts_the_length_field(payload_bytes: int, header_bytes: int) -> None:
    assert publish_bytes(TOPIC, b"x" * payload_bytes) == header_bytes + 2 + len(TOPIC) + 2 + payload_bytes


def test_half_a_surrogate_pair_and_numbers_that_are_none_are_refused(renderer: Renderer) -> None:
    assert code_of(renderer, {"params": {"a": "\ud800"}}) == "command_template"
    assert code_of(renderer, {"params": {"a": float("nan")}}) == "command_template"
    assert code_of(renderer, {"payload": {"a": "\ud800"}}) == "bad_request"


def test_a_payload_beyond_the_limit_is_refused() -> None:
    renderer = Renderer(clock=StoppedClock(), max_output_bytes=10)
    assert payload_of(renderer, {"payload": "x" * 10}) == b"x" * 10
    assert code_of(renderer, {"payload": "é" * 6}) == "command_too_large"
