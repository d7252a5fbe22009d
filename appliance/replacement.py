"""A box that takes the place of one that died: it enrols as that gateway, and becomes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from appliance import enrolment, recovery
from appliance.contract.times import Clock
from appliance.errors import DataFolderError, SealError
from appliance.services.api_keys import ApiKeys
from appliance.settings import Settings
from appliance.store.database import Database
from appliance.store.device_rows import count_devices

MOST_TRIES = 5
KEY_NAME = "odoo"


async def replace_box(
    settings: Settings,
    *,
    odoo_url: str,
    code: str,
    passphrase: Callable[[str], str],
    database: str | None = None,
    api_url: str | None = None,
    clock: Clock | None = None,
) -> enrolment.Enrolled:
    """Become the gateway that the code is from: its keys, its certificates, its name for Odoo; its devices follow.

    ``passphrase`` is asked for the recovery passphrase, with the reason where the one before was wrong; what it raises
    ends it. Odoo gets a key of the API if ``api_url`` says where that is. Nobody else may use the data folder then, and
    no device be paired in it. Raises what :func:`appliance.enrolment.enroll` raises, :class:`SealError`,
    :class:`StoreError`, and :class:`DataFolderError`.
    """
    folder = settings.iiot_data_dir
    clock = clock or Clock()
    given = passphrase("")
    store = await Database.open(folder, quota_bytes=settings.iiot_buffer_quota_mb << 20, clock=clock)
    try:
        if await store.run(count_devices):
            raise DataFolderError(
                f"{folder} has devices of its own: another gateway's place is for an empty box to take"
            )
        keys = ApiKeys(database=store, own_keys=[], clock=clock)
        await keys.load()
        for earlier in [key for key in keys.all() if key.name == KEY_NAME]:
            await keys.revoke(earlier.key_id)
        key, text = await keys.create(KEY_NAME, "operate") if api_url else (None, None)
        aside = folder / f"before-recovery-{datetime.fromtimestamp(clock.now_ms() / 1000, UTC):%Y%m%dT%H%M%SZ}"

        def become(sealed: str) -> None:
            identity, right = _opened(sealed, given, passphrase)
            recovery.become(identity, folder, passphrase=right, aside=aside)

        try:
            return await enrolment.enroll(
                settings,
                odoo_url=odoo_url,
                code=code,
                database=database,
                api_url=api_url,
                api_key=text,
                clock=clock,
                become=become,
            )
        except BaseException:
            if key is not None:
                await keys.revoke(key.key_id)
            raise
    finally:
        await store.close()


def _opened(sealed: str, given: str, passphrase: Callable[[str], str]) -> tuple[recovery.Identity, str]:
    """The identity, and the passphrase that was right. The code is spent by now: a slip must not cost another one."""
    for _ in range(MOST_TRIES):
        try:
            return recovery.unseal(sealed, given), given
        except SealError as error:
            given = passphrase(str(error))
    return recovery.unseal(sealed, given), given
