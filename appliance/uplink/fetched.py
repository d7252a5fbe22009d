"""Handing out what a ``sync`` brought: changes of devices first, then commands, then updates.

Everything may come again until Odoo has heard that it was done; those who take it know a repeat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Protocol

from appliance.contract.sync import DeviceChange, PendingCommand, PendingUpdate, SyncAnswer
from appliance.contract.sync_answer import Flaw
from appliance.errors import ApplianceError, StoreUnavailableError

log = logging.getLogger(__name__)


class Commands(Protocol):
    """Who takes commands."""

    async def take(self, pending: PendingCommand, *, withdrawn: bool = False) -> bool:
        """Keep a command, or that it was refused. False: there is no room now, ask again later."""

    async def refuse(self, *, command_id: str, device_id: str, reason: str, detail: str) -> None:
        """Keep that a command cannot be carried out."""

    async def withdraw(self, command_id: str) -> None:
        """Take one back, as far as that is possible."""


class Updates(Protocol):
    """Who takes firmware updates."""

    async def take(self, pending: PendingUpdate, /) -> object:
        """Keep an update."""


class Devices(Protocol):
    """Who takes changes of devices."""

    async def apply(self, changes: Sequence[DeviceChange], revoked: Sequence[str]) -> None:
        """Make them; all of it is durable on return."""

    async def complete(self) -> None:
        """All that Odoo had to tell of devices was told."""


class FetchedWork:
    """Gives each its own. ``updates`` and ``devices`` may be missing where nobody takes them."""

    def __init__(self, *, commands: Commands, updates: Updates | None = None, devices: Devices | None = None) -> None:
        self._commands = commands
        self._updates = updates
        self._devices = devices
        self.devices_are_current = False
        """Whether the last changes of devices are on disk."""

    async def take(self, answer: SyncAnswer, flaws: Sequence[Flaw]) -> list[Flaw]:
        """Hand out all of it; what could not be done. :class:`StoreUnavailableError`: nothing can be kept now."""
        found = await self._take_devices(answer)
        withdrawn = set(answer.cancel_commands)
        per_device = groupby(sorted(answer.commands, key=attrgetter("device_id")), key=attrgetter("device_id"))
        lanes = [self._take_commands(list(commands), withdrawn) for _, commands in per_device]
        for result in await asyncio.gather(*lanes, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        for flaw in flaws:
            if flaw.list_name == "commands" and flaw.item_id and flaw.device_id:
                await self._commands.refuse(
                    command_id=flaw.item_id, device_id=flaw.device_id, reason="bad_request", detail=flaw.reason
                )
        for command_id in answer.cancel_commands:
            await self._commands.withdraw(command_id)
        return found + await self._take_updates(answer.updates)

    async def _take_devices(self, answer: SyncAnswer) -> list[Flaw]:
        self.devices_are_current = False
        if self._devices is None:
            return []
        try:
            if answer.devices or answer.revoked:
                await self._devices.apply(answer.devices, answer.revoked)
            if not answer.more:
                await self._devices.complete()
        except StoreUnavailableError:
            raise
        except ApplianceError as error:
            return [Flaw("devices", str(error))]
        self.devices_are_current = True
        return []

    async def _take_commands(self, commands: Sequence[PendingCommand], withdrawn: set[str]) -> None:
        """Those of one device, in their order: where one must wait, so must those behind it."""
        for command in commands:
            if not await self._commands.take(command, withdrawn=command.command_id in withdrawn):
                return

    async def _take_updates(self, updates: Sequence[PendingUpdate]) -> list[Flaw]:
        found: list[Flaw] = []
        if self._updates is None:
            return found
        for update in updates:
            try:
                await self._updates.take(update)
            except StoreUnavailableError:
                raise
            except ApplianceError as error:
                found.append(Flaw("updates", str(error), update.update_id, update.device_id))
        return found
