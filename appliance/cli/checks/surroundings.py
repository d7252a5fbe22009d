"""What checks look at: settings, data folder, the running appliance, Odoo; each asked once, when it is needed first."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.cli.box import is_in_use, local_address
from appliance.contract.times import Clock
from appliance.errors import DataFolderError, OdooError, SettingsError
from appliance.settings import Findings, Settings

if TYPE_CHECKING:
    from appliance.enrolment import OdooAccess
    from appliance.store.inspection import Contents

ONLINE_S = 15.0
ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class OdooAnswer:
    """What came of asking Odoo for something that it must refuse."""

    error: OdooError | SettingsError | None
    """``None``: it took what nobody can take."""
    clock_ahead_s: float | None
    """How much its clock is ahead of ours, to a second; ``None``: it did not say."""


class Surroundings:
    """The machine as the settings describe it."""

    def __init__(self, findings: Findings, *, env_file: Path | None = None, clock: Clock | None = None) -> None:
        self.findings = findings
        self.env_file = env_file
        self.clock = clock or Clock()

    @property
    def usable(self) -> bool:
        """Whether there are settings at all."""
        return self.findings.settings is not None

    @property
    def settings(self) -> Settings:
        """Only where they are usable."""
        assert self.findings.settings is not None  # noqa: S101 - who asks has looked
        return self.findings.settings

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self.settings.iiot_data_dir

    @property
    def database_path(self) -> Path:
        """Of the buffer."""
        return self.folder / "appliance.db"

    @cached_property
    def running(self) -> bool:
        """Whether an appliance works on the data folder."""
        return is_in_use(self.folder)

    @cached_property
    def access(self) -> OdooAccess | None:
        """How to get at Odoo, if one is known. :class:`DataFolderError`."""
        from appliance.enrolment import read_access

        return read_access(self.settings)

    @cached_property
    def odoo(self) -> OdooAnswer | None:
        """What Odoo says; ``None``: there is none. :class:`DataFolderError`."""
        access = self.access
        if access is None:
            return None
        try:
            return asyncio.run(_ask(access, self._gateway_uid(), self.clock))
        except SettingsError as error:
            return OdooAnswer(error, None)

    @cached_property
    def health(self) -> dict[str, Any] | str:
        """What the running appliance says of itself, or why it does not."""
        import json

        text = self.ask("/health")
        try:
            found = json.loads(text)
        except ValueError:
            return text
        return found if isinstance(found, dict) and "reasons" in found else "what answers is no appliance"

    def ask(self, path: str) -> str:
        """What the running appliance answers to a ``GET``, or why it does not."""
        import httpx

        settings = self.settings
        scheme = "https" if settings.http_use_tls else "http"
        url = f"{scheme}://{local_address(settings.host)}:{settings.port}{path}"
        try:
            key = settings.iiot_api_key
            own = key.get_secret_value() if key else (self.folder / "api_key").read_text("ascii", "replace").strip()
            verify = self._authority() if settings.http_use_tls else False
            with httpx.Client(verify=verify, timeout=ASK_S, trust_env=False) as client:
                answer = client.get(url, headers={"X-API-Key": own}, extensions={"sni_hostname": "localhost"})
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        except (OSError, ValueError) as error:
            return str(error)
        return answer.text

    def _authority(self) -> ssl.SSLContext:
        """Its own alone: nobody else is shown the key."""
        pem = (self.folder / "tls" / "authority.pem").read_text("ascii", "replace")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(
            cadata=pem.partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
        )
        return context

    def flaws(self, within_s: float) -> list[str] | None:
        """What is wrong with the buffer file; ``None`` if there was no time for all of it. :class:`StoreError`."""
        from appliance.store.inspection import find_flaws, look_into

        with look_into(self.database_path) as connection:
            return find_flaws(connection, within_s)

    @cached_property
    def contents(self) -> Contents:
        """What is in the buffer, in numbers. :class:`StoreError`."""
        from appliance.store.inspection import look_into, read_contents

        with look_into(self.database_path) as connection:
            return read_contents(connection)

    def _gateway_uid(self) -> str:
        path = self.folder / "gateway_uid"
        try:
            return path.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise DataFolderError(f"{path}: {error.strerror}") from error


async def _ask(access: OdooAccess, gateway_uid: str, clock: Clock) -> OdooAnswer:
    """Ask with a batch that no Odoo can take: it looks at the key first, and changes nothing."""
    from pydantic_core import to_json

    from appliance.uplink.client import OdooClient, Timeouts

    timeouts = Timeouts(connect_s=ONLINE_S, read_s=ONLINE_S, write_s=ONLINE_S, pool_s=ONLINE_S)
    async with OdooClient(
        base_url=access.base_url, api_key=access.api_key, database=access.database, timeouts=timeouts, clock=clock
    ) as client:
        try:
            await client.post_batch(to_json({"gateway": gateway_uid}))
        except OdooError as error:
            return OdooAnswer(error, client.clock_ahead_s)
        return OdooAnswer(None, client.clock_ahead_s)
