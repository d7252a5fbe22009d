"""Who is let in: the plugin's verdict, and how many of each kind there may be."""

from __future__ import annotations

from collections.abc import Callable

from appliance.broker import frames
from appliance.broker.frames import Connect
from appliance.broker.plugin import InterceptPlugin, Refusal, UnpairedLogin, Verdict, ViewerLogin
from appliance.broker.seams import Limits
from appliance.broker.unpaired import UnpairedSession
from appliance.contract.times import Clock
from appliance.services.limits import FailureLimiter, address_key

VIEWER_FAILURES, VIEWER_FAILURES_WITHIN_S = 10, 60.0


class Admission:
    """Asked with every CONNECT. The listener keeps the counts."""

    def __init__(self, *, plugin: InterceptPlugin | None, limits: Limits, clock: Clock) -> None:
        self.unpaired: dict[UnpairedSession, str] = {}
        """Those connected now, with their address."""
        self.viewers = 0
        """How many are connected now."""
        self._plugin = plugin
        self._limits = limits
        self._viewer_failures = FailureLimiter(most=VIEWER_FAILURES, window_s=VIEWER_FAILURES_WITHIN_S, clock=clock)

    def identify(
        self, connect: Connect, address: str, *, connections: int, takes_over: Callable[[Verdict], bool]
    ) -> Verdict:
        """Who it is, or why it is not let in; ``connections`` are those logged in.

        ``takes_over`` says whether a connection will be closed for this one: who comes back while all places are
        taken, before the appliance has noticed that its old connection is dead, gets that one's place.
        """
        if self._plugin is None:
            return Refusal(frames.NOT_AUTHORIZED, "the broker's plugin is not loaded, so nobody is let in")
        is_viewer = connect.username is not None and connect.username in self._plugin.rights.viewers
        if is_viewer and self._viewer_failures.wait_s(address_key(address)):
            return Refusal(frames.UNAVAILABLE, "too many wrong passwords for a viewer account from this address")
        verdict = self._plugin.identify(connect)
        if isinstance(verdict, Refusal):
            if is_viewer:
                self._viewer_failures.failed(address_key(address))
            return verdict
        if takes_over(verdict):
            return verdict
        if connections >= self._limits.connections:
            return Refusal(frames.UNAVAILABLE, "too many connections")
        if isinstance(verdict, ViewerLogin) and self.viewers >= self._limits.viewers:
            return Refusal(frames.UNAVAILABLE, "too many viewers")
        if isinstance(verdict, UnpairedLogin) and not self._may_pair(address):
            return Refusal(frames.UNAVAILABLE, "too many connections of devices that are not paired")
        return verdict

    def _may_pair(self, address: str) -> bool:
        if len(self.unpaired) >= self._limits.unpaired:
            return False
        key = address_key(address)
        return sum(each == key for each in self.unpaired.values()) < self._limits.unpaired_per_address
