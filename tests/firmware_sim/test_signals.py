"""What machines measure: plausible over a day, and the same again by seed."""

from __future__ import annotations

import itertools
import json
from random import Random
from statistics import mean, pstdev

import pytest

from firmware_sim.signals import MIXED, SIGNALS, Alarm, Machine, signal


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_is_json_without_reserved_keys_and_the_same_again_by_seed(name: str) -> None:
    first, second = signal(name, Random(5)), signal(name, Random(5))
    for _ in range(2000):
        sample = first.sample()
        assert sample == second.sample()
        assert json.loads(json.dumps(sample)) == sample
        assert not {"ts", "msg_id"} & set(sample)
    assert signal(name, Random(6)).sample() != sample


def test_a_press_is_warm_while_it_runs_counts_its_strokes_and_stops_now_and_then() -> None:
    samples = [press.sample() for press in [signal("press", Random(2))] for _ in range(20_000)]
    running = [sample["temperature"] for sample in samples if sample["state"] == "running"]
    assert 50 < mean(running) < 70
    assert pstdev(running) > 0.5
    assert {sample["state"] for sample in samples} == {"running", "idle", "fault"}
    strokes = [sample["strokes"] for sample in samples]
    assert strokes == sorted(strokes)
    assert strokes[-1] - strokes[0] == sum(sample["state"] == "running" for sample in samples[1:])
    alarms = [sample["alarm"] for sample in samples]
    assert True in alarms
    assert False in alarms
    assert sum(a != b for a, b in itertools.pairwise(alarms)) < len(alarms) / 20, "it flickers"


def test_an_oven_follows_its_programme() -> None:
    samples = [oven.sample() for oven in [signal("oven", Random(2))] for _ in range(5000)]
    for setpoint in (90.0, 220.0):
        zone = [s["zone_1"] for s, later in itertools.pairwise(samples) if later["setpoint"] == setpoint]
        assert abs(sorted(zone)[len(zone) // 2] - setpoint) < 15
    energy = [sample["energy_kwh"] for sample in samples]
    assert energy == sorted(energy)


def test_a_pumps_bearing_wears_until_its_alarm_is_set() -> None:
    samples = [pump.sample() for pump in [signal("pump", Random(3))] for _ in range(50_000)]
    assert any(sample["alarms"] == ["bearing"] for sample in samples)
    assert all(sample["vibration"] >= 0 and sample["flow"] >= 0 for sample in samples)


def test_an_alarm_does_not_flicker_between_its_limits() -> None:
    alarm = Alarm(above=70, below=60)
    assert [alarm.step(value) for value in (65, 71, 65, 61, 59, 65)] == [False, True, True, True, False, False]


def test_a_machine_changes_its_state_as_its_table_allows() -> None:
    machine = Machine(Random(1))
    before = machine.state
    for _ in range(10_000):
        now = machine.step()
        assert now == before or now in dict(Machine.CHANGES[before])
        before = now


def test_a_mixed_fleet_has_all_machines_and_others_are_not_known() -> None:
    random = Random(1)
    assert {type(signal(MIXED, random)) for _ in range(50)} == {type(signal(name, random)) for name in SIGNALS}
    with pytest.raises(ValueError, match="toaster"):
        signal("toaster", random)
