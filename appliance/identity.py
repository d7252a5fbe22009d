"""What makes this box itself: its uid, its keys, its certificates; read at the start, made at the very first."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

from appliance import certificates, secret_files
from appliance.addresses import own_names
from appliance.recovery import Inheritance, read_inheritance
from appliance.services.credentials import Credentials
from appliance.settings import Settings


@dataclass(frozen=True, slots=True)
class Identity:
    """What the data folder says this box is."""

    gateway_uid: str
    credentials: Credentials
    certificates: certificates.Certificates
    api_key: str = field(repr=False)
    names: list[str]
    inheritance: Inheritance | None = None
    """Where this box has taken another's place and has not heard of all its devices yet."""


def read_identity(settings: Settings) -> Identity:
    """Read, or make at the first start, what tells this box from others. Touches the disk."""
    folder = settings.iiot_data_dir
    names = own_names()
    if settings.iiot_advertised_host:
        names.insert(0, settings.iiot_advertised_host)
    uid = secret_files.secret_file(folder / "gateway_uid", lambda: f"{uuid4()}\n".encode())
    own_key = settings.iiot_api_key.get_secret_value() if settings.iiot_api_key else secret_files.api_key(folder)
    return Identity(
        gateway_uid=uid.decode("ascii", "replace").strip(),
        credentials=Credentials(secret_files.master_key(folder)),
        certificates=certificates.ensure(folder / "tls", names),
        api_key=own_key,
        names=names,
        inheritance=read_inheritance(folder),
    )
