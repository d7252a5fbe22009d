"""The demo's judgement and its live line."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_sim.demo.screen import LiveLine, Progress
from firmware_sim.demo.surroundings import Surroundings, free_port
from firmware_sim.demo.verdict import Comparison, Verdict, compare
from firmware_sim.record import FleetRecord

READINGS = {("press-1", "a"), ("press-1", "b"), ("press-2", "a")}
GOOD = Verdict(
    devices=2,
    paired=2,
    published=3,
    acknowledged=3,
    in_odoo=3,
    waiting=0,
    parked=0,
    lost=0,
    duplicates=0,
    commands_sent=2,
    commands_done=2,
    update="installed",
    odd=3,
    connections_lost=0,
    complete=True,
)


def record(*, acknowledged: set[tuple[str, str]] = READINGS) -> FleetRecord:
    return FleetRecord(published=set(READINGS), acknowledged=set(acknowledged))


def test_the_same_readings_on_both_sides_are_no_difference() -> None:
    assert compare(record(), READINGS) == Comparison(in_odoo=3, lost=0, duplicates=0)


def test_an_acknowledged_reading_that_odoo_has_not_got_is_lost() -> None:
    assert compare(record(), READINGS - {("press-1", "b")}) == Comparison(in_odoo=2, lost=1, duplicates=0)


def test_a_reading_that_was_never_acknowledged_may_be_missing_or_arrive() -> None:
    some = READINGS - {("press-1", "b")}
    assert compare(record(acknowledged=some), some).lost == 0
    assert compare(record(acknowledged=some), READINGS) == Comparison(in_odoo=3, lost=0, duplicates=0)


def test_every_copy_after_the_first_is_a_duplicate() -> None:
    assert compare(record(), [*READINGS, ("press-1", "a"), ("press-1", "a")]).duplicates == 2


def test_the_same_msg_id_of_two_devices_are_two_readings() -> None:
    assert compare(record(), READINGS - {("press-2", "a")}).lost == 1


def test_readings_of_other_devices_do_not_count() -> None:
    assert compare(record(), [*READINGS, ("stranger", "a"), ("stranger", "a")]).duplicates == 0


def test_nothing_is_wrong_with_a_good_run() -> None:
    assert GOOD.failures() == []


@pytest.mark.parametrize(
    "change",
    [
        {"paired": 1},
        {"published": 0, "acknowledged": 0},
        {"in_odoo": 0},
        {"acknowledged": 2},
        {"waiting": 1},
        {"parked": 1},
        {"lost": 1},
        {"duplicates": 1},
        {"commands_sent": 1, "commands_done": 1},
        {"commands_done": 1},
        {"update": "rolled_back"},
        {"update": "downloading"},
        {"complete": False},
    ],
    ids=lambda change: " ".join(change),
)
def test_one_wrong_figure_is_enough_and_is_named(change: dict[str, int]) -> None:
    assert len(replace(GOOD, **change).failures()) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_line_is_rewritten_in_place_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for stream, lines in ((Terminal(), 1), (io.StringIO(), 2)):
        line = LiveLine(devices=5, stream=stream)
        line.show(1, Progress(fleet={"published": 7}, in_odoo=5, waiting=2, parked=0))
        line.show(2, Progress())
        line.close()
        assert stream.getvalue().count("\n") == lines
        assert "in Odoo 5" in stream.getvalue()
        assert "Odoo away" in stream.getvalue()


def test_the_live_line_fits_a_narrow_terminal_with_all_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    fleet = {"connected": 100, "published": 98765, "acknowledged": 98765}
    LiveLine(devices=100, stream=stream).show(
        1234, Progress(fleet=fleet, in_odoo=98700, waiting=65, parked=0, commands_sent=101, commands_done=101)
    )
    line = stream.getvalue().removeprefix("\r\x1b[2K")
    assert len(line) < 80
    assert line.endswith("101/101")


def test_the_demo_keeps_to_this_machine_and_to_what_is_set(tmp_path: Path) -> None:
    ours = Surroundings(tmp_path, {})
    assert {ours.environment[name] for name in ("MQTT_BIND", "HOST", "IIOT_ADVERTISED_HOST")} == {"127.0.0.1"}
    assert ours.environment["MQTT_BROKER_PORT"] != ours.environment["PORT"]
    assert ours.is_fresh
    given = {
        "HOST": "0.0.0.0",
        "PORT": "8000",
        "HTTP_USE_TLS": "False",
        "ODOO_BASE_URL": "http://o/",
        "MQTT_BIND": "::",
    }
    theirs = Surroundings(tmp_path, given)
    assert theirs.api == "http://127.0.0.1:8000"
    assert (theirs.mqtt_host, theirs.odoo_url, theirs.is_fresh) == ("::1", "http://o", False)


def test_a_free_port_is_given_once() -> None:
    taken: set[int] = set()
    ports = [free_port(taken) for _ in range(20)]
    assert len(set(ports)) == 20
    assert taken == set(ports)
