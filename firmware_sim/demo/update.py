"""New firmware for one of the demo's devices."""

from __future__ import annotations

from contextlib import suppress

import httpx

from firmware_sim.demo.launch import DemoError, Stage, call

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
        """Let Odoo send a file, which is made where an earlier demo has not. ``DemoError`` if it does not want to."""
        files = (await call(self._stage.odoo, "GET", "/sim/firmware"))["firmware"]
        file = next((file for file in files if file["version"] == VERSION), None)
        if file is None:
            file = await call(self._stage.odoo, "POST", "/sim/firmware", {"version": VERSION})
        sent = await call(self._stage.odoo, "POST", "/sim/updates", {"device_id": device, "firmware": file["id"]})
        self.device, self._update_id = device, sent["update_id"]
        await self.look()

    async def look(self) -> None:
        """Ask Odoo how it stands; while it cannot be asked, that is not known."""
        if not self._update_id:
            return
        with suppress(DemoError, httpx.HTTPError):
            update = await call(self._stage.odoo, "GET", f"/sim/updates/{self._update_id}")
            self.state = update["state"]
            last = update["history"][-1] if update["history"] else {}
            self.error = str(last.get("error") or update["problem"] or "")

    def in_words(self) -> str:
        """For the line that shows how things are."""
        return f"{VERSION} {self.state}" if self.state else "not sent"
