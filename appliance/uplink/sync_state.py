"""What ``sync`` tells about itself, and its log lines: one when something changes, none while it stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from appliance.contract.sync_answer import Flaw
from appliance.contract.times import Clock
from appliance.store.standing import Gap
from appliance.uplink.answers import printable

log = logging.getLogger(__name__)

FLAWS_SHOWN = 5
GAP_SHOWN_S = 86_400.0


@dataclass(frozen=True, slots=True)
class SyncState:
    """How it stands with Odoo beside the messages. Times in ms since 1970."""

    database_uuid: str | None = None
    """The database that the appliance is bound to."""
    admitted: bool = False
    """Whether Odoo has answered since the start, and messages may be sent."""
    alarm: str | None = None
    """What people must mend; nothing is sent meanwhile, nothing is lost."""
    reachable: bool | None = None
    """Whether the last one was answered in the words of the contract; ``None``: there was none yet."""
    last_success_at_ms: int | None = None
    last_error: str | None = None
    last_error_at_ms: int | None = None
    syncs: int = 0
    """Answered ones since the start."""
    next_in_s: float | None = None
    flaws: tuple[str, ...] = ()
    """What of the last answer could not be used."""
    gap: Gap | None = None
    """The newest one, if Odoo was restored from a backup and something of what it lost is not kept here any more."""

    def problems(self, now_ms: int) -> list[str]:
        """What people should look at, in sentences; without the alarm."""
        found = []
        if self.gap is not None and self.gap.missing and abs(now_ms - self.gap.at_ms) < GAP_SHOWN_S * 1000:
            found.append(
                f"Odoo was restored from a backup; {self.gap.sent_again} messages are sent to it again, and up to "
                f"{self.gap.missing} that it has lost are not kept here any more"
            )
        if self.flaws:
            found.append(f"Odoo's last answer to sync was used in part only: {self.flaws[0]}")
        return found


class SyncJournal:
    """Keeps the counters of :class:`SyncState`, and logs what changes."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._alarm: str | None = None
        self._reachable: bool | None = None
        self._last_success_at_ms: int | None = None
        self._last_error: str | None = None
        self._last_error_at_ms: int | None = None
        self._syncs = 0
        self._flaws: tuple[str, ...] = ()

    @property
    def alarm(self) -> str | None:
        """What people must mend."""
        return self._alarm

    def state(
        self, *, database_uuid: str | None, admitted: bool, next_in_s: float | None, gaps: Sequence[Gap]
    ) -> SyncState:
        """All of it at this moment."""
        return SyncState(
            database_uuid=database_uuid,
            admitted=admitted,
            alarm=self._alarm,
            reachable=self._reachable,
            last_success_at_ms=self._last_success_at_ms,
            last_error=self._last_error,
            last_error_at_ms=self._last_error_at_ms,
            syncs=self._syncs,
            next_in_s=next_in_s,
            flaws=self._flaws,
            gap=gaps[-1] if gaps else None,
        )

    def answered(self, flaws: Iterable[Flaw]) -> None:
        """Odoo gave an answer that can be used, but for ``flaws``."""
        if self._alarm is not None or self._reachable is False:
            log.warning("Odoo answers sync again")
        self._alarm, self._reachable = None, True
        self._syncs += 1
        self._last_success_at_ms = self._clock.now_ms()
        texts = tuple(printable(flaw.text) for flaw in flaws)[:FLAWS_SHOWN]
        if texts and texts != self._flaws:
            log.warning("of Odoo's answer to sync: %s", "; ".join(texts))
        self._flaws = texts

    def trouble(self, text: str) -> None:
        """Something went wrong that does not keep messages from being sent."""
        if text != self._last_error:
            log.warning("%s", text)
        self._last_error, self._last_error_at_ms = text, self._clock.now_ms()

    def unreachable(self, text: str) -> None:
        """There was no usable answer."""
        if self._reachable is not False:
            log.warning("sync waits for Odoo: %s", text)
        self._reachable = False
        self._last_error, self._last_error_at_ms = text, self._clock.now_ms()

    def alarmed(self, text: str) -> None:
        """Nothing may be sent until somebody acts."""
        if text != self._alarm:
            log.error("nothing is sent to Odoo until this is mended: %s", text)
        self._reachable, self._alarm = True, text
        self._last_error, self._last_error_at_ms = text, self._clock.now_ms()
