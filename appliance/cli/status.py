"""``status`` and ``buffer``: how the appliance is, and what waits for Odoo."""

from __future__ import annotations

from typing import Any

import typer

from appliance.cli.box import connected
from appliance.cli.exits import Exit
from appliance.cli.output import AsJson, EnvFile, at, duration, print_facts, print_json, size

_STATUSES = {"ok": Exit.OK, "degraded": Exit.DEGRADED, "failing": Exit.FAILING}


def status(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Tell how the running appliance is, and why.

    The exit status is 0 if all is well, 8 if somebody should look, 9 if nothing can be stored.
    """
    with connected(env_file) as box:
        health = box.get("/health", also=(503,))
    if as_json:
        print_json(health)
    else:
        _print(health)
    raise typer.Exit(_STATUSES.get(str(at(health, "status")), Exit.FAILED))


def _print(health: dict[str, Any]) -> None:
    print_facts(
        [
            ("status", at(health, "status")),
            *(("", reason) for reason in at(health, "reasons") or ()),
            ("gateway", f"{at(health, 'name')}, version {at(health, 'version')}"),
            ("devices online", at(health, "broker", "devices_online")),
            ("MQTT connections", at(health, "broker", "connections")),
            ("Odoo", _odoo(at(health, "uplink") or {})),
            ("waiting for Odoo", at(health, "buffer", "waiting")),
            ("oldest of them", at(health, "buffer", "oldest_received_at")),
            ("dead letters", at(health, "buffer", "parked")),
            ("disk", f"{size(at(health, 'disk', 'free_bytes'))} of {size(at(health, 'disk', 'total_bytes'))} free"),
            ("buffer file", size(at(health, "disk", "file_bytes"))),
        ]
    )


def _odoo(uplink: dict[str, Any]) -> str:
    if not uplink.get("configured"):
        return "not configured: everything is kept"
    if uplink.get("alarm"):
        return f"somebody must act: {uplink['alarm']}"
    if uplink.get("reachable") is None:
        return "not asked yet"
    return "answers" if uplink["reachable"] else f"does not answer: {uplink.get('last_error')}"


def buffer(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Tell what waits for Odoo, and for how long."""
    with connected(env_file) as box:
        found = box.get("/api/v1/buffer")
    if as_json:
        print_json(found)
        return
    print_facts(
        [
            ("waiting for Odoo", at(found, "waiting")),
            *((f"  {kind}", count) for kind, count in (at(found, "waiting_by_kind") or {}).items()),
            ("oldest of them", at(found, "oldest_received_at")),
            ("it waits for", duration(at(found, "oldest_age_s"))),
            ("dead letters", at(found, "parked")),
            *((f"  {code}", count) for code, count in (at(found, "parked_by_code") or {}).items()),
            ("last message", at(found, "last_seq")),
        ]
    )
