"""Commands that Odoo could not push and the appliance fetched: kept like any other, or kept as refused."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

from pydantic import ValidationError

from appliance.contract.command import SendCommand
from appliance.contract.sync import PendingCommand
from appliance.errors import CommandRefusedError, RequestError, UnknownCommandError
from appliance.services.command_status import request_digest
from appliance.services.commands import CommandService
from appliance.store.refused_commands import RefusedCommand, refuse

log = logging.getLogger(__name__)

DETAIL_CHARACTERS = 300
NOW_IN_VAIN = frozenset(("queue_full",))
"""Reasons that pass: such a command is not refused, it is asked for again."""


class PendingCommands:
    """Takes them over. The same command again, which is the rule until Odoo has heard of it, changes nothing."""

    def __init__(self, *, commands: CommandService) -> None:
        self._commands = commands

    async def take(self, pending: PendingCommand, *, withdrawn: bool = False) -> bool:
        """On return it is on disk: to be delivered, or ``failed`` with the reason, or (``withdrawn``) ``cancelled``.

        False: there is no room for it now. :class:`StoreUnavailableError`.
        """
        try:
            order = SendCommand.model_validate(pending.model_dump())
        except ValidationError as error:
            detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
            reason = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
            await self.refuse(
                command_id=pending.command_id, device_id=pending.device_id, reason="bad_request", detail=reason
            )
            return True
        if withdrawn:
            await self._end(order, state="cancelled", reason="withdrawn", detail="taken back before it was fetched")
            return True
        try:
            await self._commands.send(order)
        except CommandRefusedError as error:
            if error.code in NOW_IN_VAIN:
                return False
            if error.code == "command_id_conflict":
                # what was accepted under this id goes on; Odoo hears of that
                log.warning("Odoo offers another command under the id %s, which is known already", order.command_id)
                return True
            await self._end(order, state="failed", reason=error.code, detail=str(error))
        except UnknownCommandError:
            return False  # it has just been forgotten for its age; the next time it is a new one
        except RequestError as error:
            await self._end(order, state="failed", reason=error.code, detail=str(error))
        return True

    async def refuse(self, *, command_id: str, device_id: str, reason: str, detail: str) -> None:
        """Keep that a command cannot be carried out; ids that the contract does not allow are passed over."""
        try:
            order = SendCommand(command_id=command_id, device_id=device_id, action="?")
        except ValidationError:
            return
        await self._end(order, state="failed", reason=reason, detail=detail, digest=b"")

    async def withdraw(self, command_id: str) -> None:
        """Take one back, as far as that is possible; what is not known or has gone too far stays as it is."""
        with suppress(UnknownCommandError, CommandRefusedError):
            await self._commands.cancel(command_id)

    async def _end(
        self, order: SendCommand, *, state: str, reason: str, detail: str, digest: bytes | None = None
    ) -> None:
        refused = RefusedCommand(
            command_id=order.command_id or "",
            device=order.device_id,
            action=order.action,
            digest=request_digest(order) if digest is None else digest,
            state="cancelled" if state == "cancelled" else "failed",
            reason=reason,
            detail=detail[:DETAIL_CHARACTERS],
        )
        outcome = await self._commands.record(partial(refuse, refused=refused))
        if outcome.changed:
            log.warning("command %s from Odoo for %s is %s: %s", order.command_id, order.device_id, state, detail[:300])
