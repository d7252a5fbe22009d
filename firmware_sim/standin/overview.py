"""What the page shows, gathered from the tables: bounded, so that a look is cheap however much has arrived."""

from __future__ import annotations

import json
from typing import Any

from appliance.contract.times import Clock, rfc3339
from firmware_sim.image import FLAWS
from firmware_sim.standin.commands import Commands
from firmware_sim.standin.faults import KINDS, Faults
from firmware_sim.standin.files import Files
from firmware_sim.standin.gateways import Gateways
from firmware_sim.standin.inbox import Inbox
from firmware_sim.standin.pending import PendingWork
from firmware_sim.standin.state import State

MOST_DEVICES = 50
MOST_ROWS = 15
MOST_CHARACTERS = 300
SWITCHES: dict[str, dict[str, Any]] = {
    "refuse": {"seconds": 30},
    "slow": {"delay_s": 2},
    "too_many": {"delay_s": 5},
    "html": {"status": 502},
    "reject": {"share": 0.5},
    "retry": {"share": 0.5},
    "too_large": {"bytes": 20_000},
}
"""What a switch on the page asks for beside the kind; nothing more for the others."""


class Overview:
    """Everything worth a look."""

    def __init__(
        self,
        *,
        state: State,
        inbox: Inbox,
        faults: Faults,
        commands: Commands,
        work: PendingWork,
        files: Files,
        gateways: Gateways,
        requests: dict[str, int],
        clock: Clock | None = None,
    ) -> None:
        self._state = state
        self._inbox = inbox
        self._faults = faults
        self._commands = commands
        self._work = work
        self._files = files
        self._gateways = gateways
        self._requests = requests
        self._clock = clock or Clock()

    def content(self) -> dict[str, Any]:
        """The template's variables."""
        faults = self._faults.in_force()
        on = {fault["kind"] for fault in faults}
        count = self._state.row("SELECT count(*), count(paired_at_ms) FROM devices") or (0, 0)
        return {
            "time": rfc3339(self._clock.now_ms()),
            "database": self._state.meta("database_uuid"),
            "pruned": self._state.meta("pruned") == "1",
            "kinds": dict(self._state.rows("SELECT kind, sum(messages) FROM counts GROUP BY kind ORDER BY kind")),
            "answers": {name: self._inbox.answers[name] for name in ("stored", "duplicate", "rejected", "retry")},
            "requests": self._requests,
            "device_count": count[0],
            "paired_count": count[1],
            "devices": self._devices(),
            "readings": self._readings(),
            "commands": self._commands.newest(MOST_ROWS),
            "command_states": self._commands.by_state(),
            "updates": self._work.updates()[:MOST_ROWS],
            "gateways": self._gateways.all(),
            "faults": faults,
            "switches": [
                {"kind": kind, "text": text, "on": kind in on, "order": {"kind": kind, **SWITCHES.get(kind, {})}}
                for kind, text in KINDS.items()
            ],
            "files": self._files.all(),
            "flaws": FLAWS,
        }

    def _devices(self) -> list[dict[str, Any]]:
        """Those that were heard of last."""
        rows = self._state.rows(
            "SELECT device_id, serial, enabled, paired_at_ms, at_ms, payload, "
            "(SELECT sum(messages) FROM counts WHERE device = device_id AND kind = 'telemetry'), "
            "(SELECT sum(messages) FROM counts WHERE device = device_id AND kind != 'telemetry') "
            "FROM devices LEFT JOIN latest ON latest.device = device_id "
            "ORDER BY at_ms IS NULL, at_ms DESC, device_id LIMIT ?",
            MOST_DEVICES,
        )
        return [
            {
                "device_id": row[0],
                "serial": row[1],
                "state": "switched off" if not row[2] else "paired" if row[3] is not None else "not paired",
                "at": None if row[4] is None else rfc3339(row[4]),
                "latest": None if row[5] is None else shown(row[5]),
                "readings": row[6] or 0,
                "others": row[7] or 0,
            }
            for row in rows
        ]

    def _readings(self) -> list[dict[str, Any]]:
        """Of all kinds, the newest first."""
        rows = self._state.rows(
            "SELECT id, device, kind, at, lane, payload FROM effects ORDER BY id DESC LIMIT ?", MOST_ROWS
        )
        return [
            {"id": row[0], "device": row[1], "kind": row[2], "at": row[3], "lane": row[4], "payload": shown(row[5])}
            for row in rows
        ]


def shown(payload: str) -> str:
    """A payload for people: an object as ``name value``, anything else as JSON, cut off where it is long."""
    value = json.loads(payload)
    if isinstance(value, dict):
        text = ", ".join(
            f"{name} {item if isinstance(item, str) else json.dumps(item)}"
            for name, item in value.items()
            if name not in ("ts", "msg_id")
        )
    else:
        text = payload
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " …"
