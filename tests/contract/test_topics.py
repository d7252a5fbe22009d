"""Topic templates and filters."""

from __future__ import annotations

import pytest

from appliance.contract.topics import (
    MOST_LOCAL_BYTES,
    MOST_LOCAL_FILTERS,
    MOST_LOCAL_LEVELS,
    LocalTopics,
    TopicTemplates,
    filter_matches,
    filters_overlap,
    is_device_id,
    is_serial,
    is_topic_filter,
    is_topic_name,
)

MATCHES = [
    # MQTT 3.1.1 §4.7, its own examples among them
    ("sport/tennis/player1/#", "sport/tennis/player1", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    ("sport/#", "sport", True),
    ("#", "a/b/c", True),
    ("#", "$SYS/uptime", False),
    ("+/uptime", "$SYS/uptime", False),
    ("$SYS/#", "$SYS/uptime", True),
    ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("+/+", "/finance", True),
    ("/+", "/finance", True),
    ("+", "/finance", False),
    ("a/b", "a/b", True),
    ("a/b", "A/b", False),
    ("a/b", "a/b/", False),
]


@pytest.mark.parametrize(("topic_filter", "topic", "matches"), MATCHES)
def test_a_filter_matches_as_the_specification_says(topic_filter: str, topic: str, matches: bool) -> None:
    assert filter_matches(topic_filter, topic) is matches
    if matches:
        assert filters_overlap(topic_filter, topic)


@pytest.mark.parametrize(
    ("left", "right", "overlap"),
    [
        ("telemetry/+/data", "telemetry/press-07/#", True),
        ("+/press-07/data", "telemetry/+/data", True),
        ("command/#", "telemetry/+/data", False),
        ("telemetry/+", "telemetry/+/data", False),
        ("a/#", "a", True),
        ("+/+/b", "a/+", False),
    ],
)
def test_two_filters_overlap_if_a_topic_exists_that_both_receive(left: str, right: str, overlap: bool) -> None:
    assert filters_overlap(left, right) is overlap
    assert filters_overlap(right, left) is overlap


def test_malformed_filters_and_names_are_told_apart() -> None:
    assert all(map(is_topic_filter, ("#", "+", "a/+/b", "a/#", "/", "a b")))
    assert not any(map(is_topic_filter, ("", "a#", "#/a", "a/+b", "a\0", "x" * 65536)))
    assert all(map(is_topic_name, ("/", "a b", "$x")))
    assert not any(map(is_topic_name, ("", "a/+", "a/#", "\0", "ü" * 32768)))


def test_ids_are_those_of_the_contract() -> None:
    assert is_device_id("press-07.A_b")
    assert not any(map(is_device_id, ("", "-a", "a/b", "a b", "a" * 65, "AA:BB", "a\n", "ü")))
    assert is_serial("AA:BB:CC")
    assert not is_serial(":AA")


def test_a_device_gets_its_own_topics_and_the_answer_goes_by_serial_number() -> None:
    topics = TopicTemplates().replaced({"telemetry": "plant/{device}/t", "unknown": "x"}).expand("press-07", "SN:1")
    assert topics.telemetry == "plant/press-07/t"
    assert topics.receivable() == ("iiot/config/SN:1", "command/press-07/action", "ota/press-07/notify")


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("telemetry", "telemetry/data"),
        ("telemetry", "telemetry/{device}/{device}"),
        ("telemetry", "telemetry/x{device}/data"),
        ("telemetry", "telemetry/{serial}/data"),
        ("telemetry", "telemetry/{device}/#"),
        ("telemetry", "+/{device}"),
        ("telemetry", "$SYS/{device}"),
        ("telemetry", "test/{device}"),
        ("config_request", "iiot/{device}/request"),
        ("command", "telemetry/{device}/data"),
    ],
)
def test_a_template_that_cannot_work_is_refused_with_its_name(name: str, template: str) -> None:
    with pytest.raises(ValueError, match=name):
        TopicTemplates().replaced({name: template})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("$SYS/x", "reserved for the broker"),
        ("$appliance/fence", "reserved for the broker"),
        ("test", "reserved for viewers"),
        ("test/#", "reserved for viewers"),
        ("#", "must be a plain name"),
        ("+/x", "must be a plain name"),
        ("/x", "must be a plain name"),
        ("{device}/x", "must be a plain name"),
        ("line/a{device}", "must be a whole level"),
        ("line/{serial}", "must be a whole level"),
        ("line/a+", "not a valid topic filter"),
        ("line/#/a", "not a valid topic filter"),
        ("", "not a valid topic filter"),
        ("line/\0", "not a valid topic filter"),
        ("line/" + "ä" * (MOST_LOCAL_BYTES // 2), "longer than"),
        ("/".join(["line"] * (MOST_LOCAL_LEVELS + 1)), "longer than"),
    ],
)
@pytest.mark.parametrize("direction", ["publish", "subscribe"])
def test_a_local_topic_that_is_malformed_or_somebody_elses_is_refused_by_name(
    direction: str, text: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"to {direction}: .*{reason}"):
        LocalTopics(**{direction: ("line/a", text)})


def test_local_topics_are_bounded_in_number() -> None:
    filters = tuple(f"line/{number}" for number in range(MOST_LOCAL_FILTERS))
    LocalTopics(filters, filters)
    with pytest.raises(ValueError, match="17 filters"):
        LocalTopics(subscribe=(*filters, "line/x"))


def test_local_topics_of_a_device_and_the_patterns_of_all() -> None:
    local = LocalTopics(("line/{device}/out", "line/all"), ("line/+/out/#",))
    assert local.expand("press-07") == {"publish": ["line/press-07/out", "line/all"], "subscribe": ["line/+/out/#"]}
    assert local.patterns() == {"line/+/out", "line/all", "line/+/out/#"}
