"""The add-on refuses the topics that the appliance would refuse, with the same words. Needs no Odoo."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.contract import topics as contract
from tests.services.test_addon_rendering import addon_lib

topics = addon_lib("topics")

TEMPLATES = [
    *("telemetry/{device}/data", "{device}", "a/{device}", "ü/{device}", "/{device}/", "tests/{device}"),
    *("", "a/+/{device}", "a/{device}/#", "$SYS/{device}", "test/{device}", "a/\0/{device}", "a" * 65530 + "/{device}"),
    *("a", "a/x{device}", "a/{device}{device}", "{device}/{device}", "a/{serial}/{device}", "a/{/{device}", "a/}"),
]
FILTERS = [
    *("line/+/out", "line/all/#", "line/{device}/out", "a", "a//b", "tests/a", "l/" + "x" * 126, "a/" * 15 + "a"),
    *("", "a+", "a/#/b", "$SYS/a", "test", "test/a", "+/a", "#", "{device}/a", "/a", "a/x{device}", "a/{serial}"),
    *("l/" + "x" * 127, "a/" * 16 + "a", "a\0", "ü" * 65),
]


def said(reason: Any) -> str | None:
    """The English words of a reason."""
    return None if reason is None else str(reason)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda text: text[:30])
def test_a_template_is_refused_for_the_reason_that_the_appliance_has(template: str) -> None:
    assert said(topics.template_error(template)) == contract.template_error("telemetry", template)


@pytest.mark.parametrize("text", FILTERS, ids=lambda text: text[:30])
def test_a_local_filter_is_refused_for_the_reason_that_the_appliance_has(text: str) -> None:
    assert said(topics.local_filter_error(text)) == contract.local_filter_error(text)


@pytest.mark.parametrize("left", FILTERS[:5])
@pytest.mark.parametrize("right", ["line/1/out", "line/#", "line/+", "+/all/x", "a"])
def test_whether_two_filters_meet_is_judged_alike(left: str, right: str) -> None:
    assert topics.filters_overlap(left, right) == contract.filters_overlap(left, right)


def test_names_defaults_and_limits_are_those_of_the_contract() -> None:
    assert dict(contract.TopicTemplates().items()) == topics.GATEWAY_DEFAULTS
    assert topics.DEVICE_ID.pattern == contract.DEVICE_ID_PATTERN
    assert topics.SERIAL.pattern == contract.SERIAL_PATTERN
    for limit in ("MOST_LOCAL_FILTERS", "MOST_LOCAL_BYTES", "MOST_LOCAL_LEVELS"):
        assert getattr(topics, limit) == getattr(contract, limit)
