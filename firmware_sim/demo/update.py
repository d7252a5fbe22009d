"""New firmware for one of the demo's devices."""

from __future__ import annotations

from contextlib import suppress

from firmware_sim.demo.launch import Stage
from firmware_sim.demo.sides import TROUBLE

VERSION = "1.1.0"
FINAL_STATES = frozenset(("installed", "failed", "rolled_back", "already_installed", "cancelled"))


class Update:
    """Sent by :meth:`send`, followed by :meth:`look`. ``state`` and ``error`` are as Odoo has them, empty before."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._update_id = ""
        self.device = ""
        self.state = ""
        self.error = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINAL_STATES or self.state == "not_sent"

    async def send(self, device: str) -> None:
        """Let Odoo send a file."""
        self._update_id = await self._stage.odoo.send_update(device, VERSION)
        self.device = device
        await self.look()

    async def look(self) -> None:
        """Ask Odoo how it stands; while it cannot be asked, that is not known."""
        if not self._update_id:
            return
        with suppress(*TROUBLE):
            self.state, self.error = await self._stage.odoo.update(self._update_id)

    def in_words(self) -> str:
        """For the line that shows how things are."""
        return f"{VERSION} {self.state}" if self.state else "not sent"
