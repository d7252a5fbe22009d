"""Keeps at Odoo what another box needs to become this gateway, encrypted; put there when it changes, rarely."""

from __future__ import annotations

import asyncio
import logging
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from appliance import __version__, recovery
from appliance.contract.identity import IdentityBody
from appliance.contract.odoo import Sender
from appliance.contract.times import Clock, rfc3339
from appliance.errors import DataFolderError, OdooError
from appliance.settings import Settings
from appliance.settings_file import settings_text
from appliance.store.devices import DeviceRegistry
from appliance.uplink.client import OdooClient

log = logging.getLogger(__name__)

LOOK_S = 60.0
"""A secret that is rotated is there a minute later; many at once go together."""
UNADMITTED_S = 1.0
"""Between two looks whether Odoo has answered at all."""
MOST_WAIT_S = 3600.0
SEALED_WITHIN_S = 60.0


class IdentityKeeper:
    """Looks once a minute. :meth:`run` is a task that its owner cancels."""

    def __init__(
        self,
        *,
        settings: Settings,
        gateway_uid: str,
        registry: DeviceRegistry,
        client: OdooClient,
        sender: Callable[[], Sender | None],
        clock: Clock,
        wanted: bool = True,
        look_s: float = LOOK_S,
    ) -> None:
        """``wanted``: whether Odoo is to keep it; what it kept before goes otherwise."""
        self._settings = settings
        self._wanted = wanted
        self._folder: Path = settings.iiot_data_dir
        self._gateway_uid = gateway_uid
        self._registry = registry
        self._client = client
        self._sender = sender
        self._clock = clock
        self._look_s = look_s
        self._said = ""
        self.puts = 0
        """How often Odoo took it, since the start."""

    async def run(self) -> None:
        """Look, put if there is something new, and wait longer where that does not work."""
        failures = 0
        while True:
            wait_s = self._look_s if self._sender() is not None else min(UNADMITTED_S, self._look_s)
            try:
                await self.look()
                failures = 0
            except (OdooError, DataFolderError, OSError, TimeoutError) as error:
                failures += 1
                self._say(f"this gateway's identity cannot be kept at Odoo now: {error}")
            await asyncio.sleep(min(wait_s * 2**failures, MOST_WAIT_S))

    async def look(self) -> bool:
        """Put it to Odoo if it is another than the one there; whether it was."""
        sender = self._sender()
        if sender is None:
            return False
        kept = await asyncio.to_thread(recovery.read_kept, self._folder)
        if not self._wanted:
            return await self._take_away(sender, kept)
        found = await asyncio.to_thread(self._read)
        if found is None:
            return False
        key, plain = found
        digest = recovery.digest_of(plain, key)
        if kept is not None and (kept.digest, kept.database_uuid) == (digest, sender.database_uuid):
            return False
        sealed = await _sealed(recovery.seal_input(key, plain))
        if len(sealed) > recovery.MOST_SEALED_BYTES:
            raise DataFolderError(f"it has {len(sealed)} bytes: too many devices had their secrets changed")
        await self._put(sender, b64encode(sealed).decode())
        at = rfc3339(self._clock.now_ms())
        kept = recovery.Kept(digest=digest, at=at, database_uuid=sender.database_uuid)
        await asyncio.to_thread(recovery.write_kept, self._folder, kept)
        self._say("this gateway's identity is kept at Odoo, encrypted: another box can take its place", logging.INFO)
        return True

    async def _take_away(self, sender: Sender, kept: recovery.Kept | None) -> bool:
        if kept is None or kept.database_uuid != sender.database_uuid:
            return False
        await self._put(sender, None)
        await asyncio.to_thread(recovery.write_kept, self._folder, None)
        self._say("Odoo does not keep this gateway's identity any more", logging.INFO)
        return True

    async def _put(self, sender: Sender, identity: str | None) -> None:
        body = IdentityBody(
            gateway=self._gateway_uid, start=sender.start, database_uuid=sender.database_uuid, identity=identity
        )
        await self._client.put_identity(body)
        self.puts += 1

    def _read(self) -> tuple[recovery.KeyFile, bytes] | None:
        key = recovery.read_key(self._folder)
        if key is None:
            return None
        try:
            master = (self._folder / "master.key").read_bytes()
            authority = (self._folder / "tls" / "authority.pem").read_text("ascii")
            own = self._folder / "api_key"
            api_key = own.read_text("ascii").strip() if own.exists() else None
        except (OSError, ValueError) as error:
            raise DataFolderError(f"{self._folder}: {error}") from error
        held = recovery.held_secrets(
            (device.device_id, recovery.Held(device.valid_from, device.generation)) for device in self._registry.all()
        )
        identity = recovery.Identity.model_validate(
            {
                "version": __version__,
                "gateway_uid": self._gateway_uid,
                "name": self._settings.mqtt_client_id,
                "master_key": b64encode(master).decode(),
                "authority": authority,
                "api_key": api_key,
                "settings": settings_text(self._settings, without=("odoo_",)),
                "held": held,
            }
        )
        return key, identity.plain()

    def _say(self, text: str, level: int = logging.WARNING) -> None:
        if text != self._said:
            log.log(level, "%s", text)
            self._said = text


async def _sealed(content: bytes) -> bytes:
    # -P: a file in the working directory is no part of the appliance
    command = (sys.executable, "-P", "-m", "appliance.sealing")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        out, said = await asyncio.wait_for(process.communicate(content), SEALED_WITHIN_S)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        raise DataFolderError(f"it cannot be encrypted: {said.decode(errors='replace').strip()[-200:]}")
    return out
