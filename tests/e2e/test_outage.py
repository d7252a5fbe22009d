"""Odoo goes away under load and comes back: no device notices, and nothing is missing afterwards.

The times are measured by ``python -m tests.bench outage``.
"""

from __future__ import annotations

from pathlib import Path

from tests.bench.outage import Plan, measure, promise_kept


async def test_odoo_stops_and_returns_without_a_device_noticing_and_everything_arrives(tmp_path: Path) -> None:
    result = await measure(tmp_path, Plan(devices=100, rate=500, third_s=2.5, drain_s=90))
    assert promise_kept(result), result
    assert result["published"] == 3 * 2.5 * 500
