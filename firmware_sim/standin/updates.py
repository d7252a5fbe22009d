"""Firmware updates as Odoo sends them: through the appliance's API where it is known, else with the next ``sync``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from firmware_sim.standin.commands import Commands
from firmware_sim.standin.files import Files
from firmware_sim.standin.pending import PendingWork
from firmware_sim.standin.refusal import RefusalError

SEND_PATH = "/api/v1/ota/send"


class Updates:
    """Orders updates; what becomes of them comes as messages. ``public_url`` is where appliances reach this Odoo."""

    def __init__(self, *, work: PendingWork, files: Files, commands: Commands) -> None:
        self._work = work
        self._files = files
        self._commands = commands
        self.public_url = ""

    async def send(self, order: Mapping[str, Any], *, base_url: str) -> dict[str, Any]:
        """``{"device_id", "action"?, "firmware"? or "params"?, "update_id"?, "push"?}``.

        ``firmware`` is the number of a file here. Without a known appliance, with ``"push": false``, and where pushing
        fails, it waits for the next ``sync``. ``base_url`` counts where no public address is known.
        """
        params = order.get("params", {})
        if not isinstance(params, dict):
            raise RefusalError(422, "bad_request", "params must be an object")
        if "firmware" in order:
            params = {**self._params(order["firmware"], base_url), **params}
        push = self._commands.knows_appliance and order.get("push", True) is not False
        update = self._work.order_update({**order, "params": params}, waits=not push)
        if not push:
            return update
        body = {name: update[name] for name in ("update_id", "device_id", "action", "params")}
        problem, final = await self._commands.hand_over(SEND_PATH, body)
        self._work.note_push(update["update_id"], problem, waits=problem is not None and not final)
        return self._work.update(update["update_id"])

    def _params(self, number: object, base_url: str) -> dict[str, Any]:
        if isinstance(number, bool) or not isinstance(number, int):
            raise RefusalError(422, "bad_request", "firmware must be a number")
        file = self._files.one(number)
        url = (self.public_url or base_url).rstrip("/") + file["path"]
        return {"version": file["version"], "url": url, "size": file["size"], "sha256": file["sha256"]}
