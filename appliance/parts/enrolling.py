"""Enrolment from the status pages: the same as the command ``enroll``, inside the process that runs."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from appliance.enrolment import Enrolled, enroll, is_key_name, key_name
from appliance.errors import RequestError, StoreUnavailableError
from appliance.services.api_keys import ApiKeys
from appliance.settings import Settings


class Enrolling:
    """``api_url``: where Odoo reaches this appliance's API."""

    def __init__(self, *, settings: Settings, api_keys: ApiKeys, api_url: str) -> None:
        self._settings = settings
        self._keys = api_keys
        self._api_url = api_url

    async def __call__(self, odoo_url: str, code: str, database: str | None) -> Enrolled:
        """Turn a code into a key for Odoo, and give Odoo one for the API. Raises what :func:`enroll` raises."""
        key, text = await self._keys.create(key_name({each.name for each in self._keys.all()}), "operate")
        work = enroll(
            self._settings, odoo_url=odoo_url, code=code, database=database, api_url=self._api_url, api_key=text
        )
        try:
            # with a loop of its own: it reads and writes files
            done = await asyncio.to_thread(asyncio.run, work)
        except BaseException:
            await self._revoke(key.key_id)
            raise
        for each in self._keys.all():
            if is_key_name(each.name) and each.key_id != key.key_id:
                await self._revoke(each.key_id)
        return done

    async def _revoke(self, key_id: str) -> None:
        with suppress(RequestError, StoreUnavailableError):  # it has gone already, or opens nothing in this run
            await self._keys.revoke(key_id)
