"""How the appliance is, in one word with reasons: what the health routes, and people, are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Literal

from appliance.broker.seams import PassedOn
from appliance.broker.server import EmbeddedBroker
from appliance.contract.times import Clock, rfc3339
from appliance.parts.looks import Looks
from appliance.parts.trends import Sample
from appliance.services.gateway_clock import GatewayClock
from appliance.services.presence import PresenceService
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.uplink.state import UplinkState
from appliance.uplink.sync_state import SyncState
from appliance.web.services import Health

WARN_SHARE = 0.80
"""Of the disk, of the buffer's quota, and of the list of dead letters."""


class HealthService:
    """Asks the parts; what takes time is looked at now and then."""

    def __init__(
        self,
        *,
        database: Database,
        buffer: Buffer,
        broker: EmbeddedBroker,
        presence: PresenceService,
        gateway_clock: GatewayClock,
        uplink: Callable[[], UplinkState],
        sync: Callable[[], SyncState | None],
        quota_bytes: int,
        clock: Clock,
    ) -> None:
        self._database = database
        self._buffer = buffer
        self._broker = broker
        self._presence = presence
        self._gateway_clock = gateway_clock
        self._uplink = uplink
        self._sync = sync
        self.quota_bytes = quota_bytes
        self._clock = clock
        self.looks = Looks(database=database, clock=clock)

    async def run(self) -> None:
        """Look at disk and store until cancelled."""
        await self.looks.run()

    async def look(self) -> None:
        """Look once."""
        await self.looks.look()

    def health(self) -> Health:
        """The verdict. ``failing``: nothing can be acknowledged now; ``degraded``: people should look."""
        failing = list(self._failing())
        degraded = list(self._degraded())
        status: Literal["ok", "degraded", "failing"] = "failing" if failing else "degraded" if degraded else "ok"
        return Health(status=status, reasons=(*failing, *degraded), details=self._details())

    def sample(self) -> Sample | None:
        """What the charts are drawn of; ``None`` while the store cannot be asked."""
        received, uplink = self.looks.received, self._uplink()
        if received is None:
            return None
        return Sample(
            received=received,
            settled=uplink.settled,
            waiting=self._buffer.backlog().waiting,
            online=self._presence.online,
            away=uplink.configured and (uplink.reachable is False or uplink.alarm is not None),
        )

    def _failing(self) -> list[str]:
        reason = self._database.unavailable
        return [f"nothing can be stored, so nothing is acknowledged: {reason}"] if reason else []

    def _degraded(self) -> list[str]:
        reasons = []
        if self._gateway_clock.doubt:
            reasons.append(f"the clock of the appliance is wrong, and readings are marked: {self._gateway_clock.doubt}")
        uplink = self._uplink()
        if uplink.alarm:
            reasons.append(f"nothing is sent to Odoo until somebody acts: {uplink.alarm}")
        elif uplink.reachable is False:
            reasons.append(f"Odoo does not answer: {uplink.last_error}")
        sync = self._sync()
        if sync is not None:
            reasons += sync.problems(self._clock.now_ms())
        reasons += _passed_on_reasons(self._broker.passed_on())
        return [*reasons, *self._of_looks()]

    def _of_looks(self) -> Iterator[str]:
        disk = self.looks.disk
        if disk and disk["free_bytes"] < (1 - WARN_SHARE) * disk["total_bytes"]:
            yield f"only {100 * disk['free_bytes'] // disk['total_bytes']} % of the disk is free"
        if disk.get("file_bytes", 0) > WARN_SHARE * self.quota_bytes:
            yield "the buffer has used more than 80 % of its quota (IIOT_BUFFER_QUOTA_MB)"
        if self.looks.dead_letters_share > WARN_SHARE:
            yield (
                f"the list of dead letters is {100 * self.looks.dead_letters_share:.0f} % full: when it is full, the "
                "oldest go for good"
            )
        if self.looks.adds_up is False:
            yield "the ledger does not add up: readings were lost or counted twice"

    def _details(self) -> dict[str, Any]:
        backlog = self._buffer.backlog()
        sync = self._sync()
        oldest_ms = backlog.oldest_received_at_ms
        return {
            "broker": {
                "connections": self._broker.listener.connections,
                "devices_online": self._presence.online,
            },
            "passed_on": asdict(self._broker.passed_on()),
            "buffer": {
                "waiting": backlog.waiting,
                "parked": backlog.parked,
                "oldest_received_at": None if oldest_ms is None else rfc3339(oldest_ms),
                "queued": self._database.queued,
                "epoch": self._database.epoch,
            },
            "uplink": asdict(self._uplink()),
            "sync": None if sync is None else asdict(sync),
            "disk": self.looks.disk,
            "ledger": {"adds_up": self.looks.adds_up, "readings_per_s": self.looks.readings_per_s},
            "dead_letters": {"share": self.looks.dead_letters_share},
            "clock": {"plausible": self._gateway_clock.doubt is None, "doubt": self._gateway_clock.doubt},
        }


def _passed_on_reasons(passed_on: PassedOn) -> list[str]:
    reasons = []
    if passed_on.stalled:
        reasons.append(
            "nothing is passed on to viewers and between machines: amqtt does not keep up; readings and commands do "
            "not depend on it"
        )
    if passed_on.full and passed_on.subscriptions_refused:
        reasons.append(f"local topics are refused to further devices: {passed_on.machines} have them, and no more can")
    return reasons
