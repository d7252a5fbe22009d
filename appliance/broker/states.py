"""The sessions of devices that outlive their connections (clean session 0); only their QoS 2 ids outlive a restart."""

from __future__ import annotations

from appliance.broker.exchanges import Exchanges
from appliance.broker.session import SessionState
from appliance.store.packet_ids import PacketIds


class SessionStates:
    """One for a device at most."""

    def __init__(self, packet_ids: PacketIds) -> None:
        self._packet_ids = packet_ids
        self._states: dict[str, SessionState] = {}

    def begin(self, device_id: str) -> tuple[SessionState, bool]:
        """The session of a new connection that is to last, and whether it was there before."""
        state = self._states.get(device_id)
        if state is not None:
            return state, True
        state = self._states[device_id] = SessionState(Exchanges(device_id, self._packet_ids))
        return state, False

    def get(self, device_id: str) -> SessionState | None:
        """The device's session, if it has one that lasts."""
        return self._states.get(device_id)

    def forget(self, device_id: str) -> None:
        """End the device's session."""
        state = self._states.pop(device_id, None)
        if state is not None:
            state.exchanges.end()
        else:
            self._packet_ids.clear(device_id, 0)
