"""The alert rules: of metrics that there are, in Prometheus's own judgement, and each rings when it should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

RULES = ROOT / "appliance" / "alerts.yml"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
BOX = 'job="iiot-appliance", instance="gw1:8000"'
RINGS: dict[str, dict[str, str]] = {
    "IiotApplianceDown": {"up": "0x180"},
    "IiotNothingStored": {"iiot_store_available": "0x180"},
    "IiotLedgerWrong": {"iiot_ledger_adds_up": "0x180"},
    "IiotOdooRefuses": {"iiot_uplink_alarm": "1x180"},
    "IiotOdooAway": {"iiot_uplink_up": "0x180"},
    "IiotBacklogOld": {"iiot_oldest_message_age_seconds": "3000+60x180"},
    "IiotBufferNearlyFull": {"iiot_store_file_bytes": "81x180", "iiot_store_quota_bytes": "100x180"},
    "IiotDiskNearlyFull": {"iiot_disk_free_bytes": "9x180", "iiot_disk_total_bytes": "100x180"},
    "IiotDeadLetters": {"iiot_dead_letters": "5x170 7x10", "iiot_dead_letters_limit": "100x180"},
    "IiotDeadLettersNearlyFull": {
        "iiot_dead_letters": "85x180",
        "iiot_dead_letters_limit": "100x180",
        "iiot_dead_letter_bytes": "1x180",
        "iiot_dead_letter_limit_bytes": "100x180",
    },
    "IiotPublishesRefused": {"iiot_publishes_refused_total": "0+3x180"},
    "IiotDevicesGone": {"iiot_devices_online": "10x150 4x30"},
    "IiotPassedOnStalled": {"iiot_passed_on_stalled": "1x180"},
    "IiotRestarts": {"process_start_time_seconds": "0+100x180"},
    "IiotDescriptorsShort": {"process_open_fds": "90x180", "process_max_fds": "100x180"},
}
"""What the metrics show, minute by minute, for three hours."""
QUIET: dict[str, str] = {
    "up": "1x180",
    "iiot_store_available": "1x180",
    "iiot_ledger_adds_up": "1x180",
    "iiot_uplink_alarm": "0x180",
    "iiot_uplink_up": "1x180",
    "iiot_oldest_message_age_seconds": "2x180",
    "iiot_store_file_bytes": "10x180",
    "iiot_store_quota_bytes": "100x180",
    "iiot_disk_free_bytes": "50x180",
    "iiot_disk_total_bytes": "100x180",
    "iiot_dead_letters": "5x180",
    "iiot_dead_letters_limit": "100x180",
    "iiot_dead_letter_bytes": "5x180",
    "iiot_dead_letter_limit_bytes": "100x180",
    "iiot_publishes_refused_total": "0+1x180",
    "iiot_devices_online": "10x180",
    "iiot_passed_on_stalled": "0x180",
    "process_start_time_seconds": "100x180",
    "process_open_fds": "10x180",
    "process_max_fds": "100x180",
}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_every_rule_says_what_it_is_how_bad_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule
        assert rule["annotations"].keys() == {"summary", "description"}, rule
    assert [rule["alert"] for rule in rules()] == list(RINGS)


def test_rules_use_metrics_that_the_readme_lists() -> None:
    readme = (ROOT / "README.md").read_text()
    served = set(re.findall(r"^\| `(iiot_\w+)` \|", readme, re.MULTILINE)) | set(re.findall(r"`(process_\w+)`", readme))
    used = {name for rule in rules() for name in re.findall(r"\b((?:iiot|process)_\w+)", rule["expr"])}
    assert used <= served
    assert len(used) > 15


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    subprocess.run(["promtool", "check", "rules", RULES], check=True, capture_output=True)


def judged(folder: Path, metrics: dict[str, str], expected: list[str]) -> None:
    """Prometheus's own test: which of the rules ring at the end, and no others."""
    series = [{"series": f"{name}{{{BOX}}}", "values": values} for name, values in metrics.items()]
    tests = [
        {
            "eval_time": "179m",
            "expr": 'count(ALERTS{alertstate="firing"}) by (alertname)',
            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in expected],
        }
    ]
    content = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}],
    }
    (folder / "test.yml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        ["promtool", "test", "rules", folder / "test.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_an_appliance_that_is_well_rings_for_nothing(tmp_path: Path) -> None:
    judged(tmp_path, QUIET, [])


@needs_promtool
@pytest.mark.parametrize("name", RINGS)
def test_each_alert_rings_when_it_should_and_alone(tmp_path: Path, name: str) -> None:
    judged(tmp_path, QUIET | RINGS[name], [name])
