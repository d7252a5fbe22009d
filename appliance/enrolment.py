"""How this appliance gets at its Odoo: settings, or what ``enroll`` has put into the data folder.

Enrolling turns a code from the gateway's form in Odoo into a key. It is also somebody's word that this very copy of the
appliance is the one, and that the database which answers is the right one: see :mod:`appliance.store.standing`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_core import to_json

from appliance import __version__, secret_files
from appliance.contract.sync import EnrollRequest
from appliance.contract.times import Clock, rfc3339
from appliance.errors import DataFolderError, OdooUnavailableError
from appliance.identity import read_identity
from appliance.settings import Settings

FILE_NAME = "odoo.json"
KEY_NAME = "odoo"
_KEY_NAMES = re.compile(rf"{KEY_NAME}(-\d+)?")


@dataclass(frozen=True, slots=True)
class OdooAccess:
    """Where Odoo is and with which key; ``consent`` names the enrolment, ``database_uuid`` what it bound to."""

    base_url: str
    api_key: SecretStr = field(repr=False)
    database: str | None = None
    consent: str | None = None
    database_uuid: str | None = None
    keep_identity: bool = True
    """Whether Odoo is to keep this box's identity: not where it keeps that of another box, which is in its place."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What came of an enrolment. ``overruled``: the environment names another address or key, and goes before it.

    ``successor``: the gateway was another box before, and Odoo may keep that one's identity.
    """

    base_url: str
    database_uuid: str
    path: Path
    overruled: bool
    successor: bool = False


class _File(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    id: str
    base_url: str
    api_key: SecretStr
    database: str | None = None
    database_uuid: str
    enrolled_at: str
    keep_identity: bool = True


def read_access(settings: Settings) -> OdooAccess | None:
    """From the environment, else from the data folder; ``None``: run alone. Touches the disk.

    :class:`DataFolderError` if the file is damaged.
    """
    enrolled = _read(settings.iiot_data_dir / FILE_NAME)
    if settings.odoo_base_url and settings.odoo_api_key is not None:
        ours = enrolled is not None and enrolled.base_url == settings.odoo_base_url
        return OdooAccess(
            base_url=settings.odoo_base_url,
            api_key=settings.odoo_api_key,
            database=settings.odoo_database,
            consent=enrolled.id if enrolled is not None and ours else None,
            database_uuid=enrolled.database_uuid if enrolled is not None and ours else None,
        )
    if enrolled is None:
        return None
    return OdooAccess(
        base_url=enrolled.base_url,
        api_key=enrolled.api_key,
        database=settings.odoo_database or enrolled.database,
        consent=enrolled.id,
        database_uuid=enrolled.database_uuid,
        keep_identity=enrolled.keep_identity,
    )


async def enroll(
    settings: Settings,
    *,
    odoo_url: str,
    code: str,
    database: str | None = None,
    api_url: str | None = None,
    api_key: str | None = None,
    clock: Clock | None = None,
    become: Callable[[str], None] | None = None,
) -> Enrolled:
    """Turn a code into a key, and keep it in the data folder (mode 0600); it counts from the next start on.

    ``api_url`` and ``api_key`` are for Odoo, to call the appliance's API with. ``become`` takes the identity that Odoo
    keeps of the code's gateway, where this box is to be that gateway from now on; what it raises is raised.
    Raises :class:`SettingsError` (address), :class:`OdooRefusedError` (``invalid_code``, ``code_used``,
    ``code_expired``: make another code), :class:`OdooUnavailableError`, :class:`OdooAlarmError`,
    :class:`DataFolderError`.
    """
    from appliance.uplink.client import OdooClient, Timeouts  # takes time, and most commands do not need it

    identity = read_identity(settings)
    path = settings.iiot_data_dir / FILE_NAME
    request = EnrollRequest(
        code=code.strip(),
        gateway_uid=identity.gateway_uid,
        name=settings.mqtt_client_id,
        version=__version__,
        api_url=api_url,
        api_key=api_key,
        ca_pem=None if become else identity.certificates.ca_pem,
        recover=become is not None,
    )
    timeouts = Timeouts(read_s=settings.odoo_timeout_s)
    async with OdooClient(base_url=odoo_url, api_key=None, database=database, timeouts=timeouts) as client:
        _try_to_write(path)  # the code works once: what it brings must not be lost
        answer = await client.enroll(request)
    successor = answer.gateway_uid not in (None, identity.gateway_uid)
    if become is not None:
        if answer.identity is None:
            raise OdooUnavailableError("Odoo's answer does not bring the identity that it was asked for")
        become(answer.identity)
    kept = _File(
        id=str(uuid4()),
        base_url=odoo_url.rstrip("/"),
        api_key=SecretStr(answer.api_key),
        database=database,
        database_uuid=answer.database_uuid,
        enrolled_at=rfc3339((clock or Clock()).now_ms()),
        keep_identity=become is not None or not successor,
    )
    told = kept.model_dump(mode="json", exclude_none=True) | {"api_key": answer.api_key}
    secret_files.write_file(path, to_json(told) + b"\n", replace=True)
    given = settings.odoo_base_url and settings.odoo_api_key is not None
    same = settings.odoo_base_url == kept.base_url and settings.odoo_api_key == kept.api_key
    return Enrolled(kept.base_url, kept.database_uuid, path, overruled=bool(given and not same), successor=successor)


def key_name(taken: Collection[str]) -> str:
    """A name for Odoo's key to the API, beside those that exist: an earlier one ends when an enrolment has worked."""
    names = [KEY_NAME, *(f"{KEY_NAME}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def is_key_name(name: str) -> bool:
    """Whether an enrolment has made the key of this name."""
    return _KEY_NAMES.fullmatch(name) is not None


def _try_to_write(path: Path) -> None:
    secret_files.make_folder(path.parent)
    trial = path.with_suffix(".new")
    secret_files.write_file(trial, b"{}", replace=True)
    try:
        trial.unlink()
    except OSError as error:
        raise DataFolderError(f"{trial}: {error.strerror}") from error


def _read(path: Path) -> _File | None:
    try:
        return _File.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataFolderError(f"{path}: {error.strerror}") from error
    except ValidationError:
        raise DataFolderError(f"{path} is damaged: remove it, and enrol the appliance again") from None
