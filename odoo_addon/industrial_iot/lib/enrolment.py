"""What an appliance asks for when it is enrolled, and what it lets Odoo keep of itself for a replacement box."""

from __future__ import annotations

import binascii
from base64 import b64decode
from dataclasses import dataclass, field

from . import checks

MAX_IDENTITY_CHARACTERS = 64 << 10
MAX_PEM_CHARACTERS = 64 << 10


@dataclass(frozen=True)
class EnrolmentRequest:
    """Body of ``POST /iiot/gateway/enroll``."""

    code: str = field(repr=False)
    gateway_uid: str
    name: str
    version: str
    api_url: str | None
    api_key: str | None = field(repr=False)
    ca_pem: str | None = field(repr=False)
    recover: bool


@dataclass(frozen=True)
class IdentityRequest:
    """Body of ``PUT /iiot/gateway/identity``; ``identity`` is base64, ``None`` ends that one is kept."""

    gateway: str
    start: str | None
    database_uuid: str | None
    identity: str | None = field(repr=False)


def read_enrolment(body: object) -> EnrolmentRequest:
    """The request; ``RefusalError`` where it makes no sense."""
    body = checks.of_this_contract(body)
    recover = body.get("recover", False)
    if not isinstance(recover, bool):
        raise checks.bad_request("recover must be true or false")
    api_url = checks.optional_text(body, "api_url", most=2000)
    if api_url is not None and not api_url.startswith(("https://", "http://")):
        raise checks.bad_request("api_url must be an address")
    return EnrolmentRequest(
        code=checks.text(body, "code", most=200).strip().upper(),
        gateway_uid=checks.uuid(body, "gateway_uid"),
        name=checks.text(body, "name", most=200),
        version=checks.text(body, "version", most=200),
        api_url=api_url,
        api_key=checks.optional_text(body, "api_key", most=512),
        ca_pem=checks.optional_text(body, "ca_pem", most=MAX_PEM_CHARACTERS),
        recover=recover,
    )


def read_identity(body: object) -> IdentityRequest:
    """The request; ``RefusalError`` where it makes no sense."""
    body = checks.of_this_contract(body)
    if "identity" not in body:
        raise checks.bad_request("identity is missing")
    identity = body["identity"]
    if identity is not None:
        identity = checks.text(body, "identity", most=MAX_IDENTITY_CHARACTERS)
        try:
            b64decode(identity, validate=True)
        except (binascii.Error, ValueError):
            raise checks.bad_request("identity must be base64") from None
    return IdentityRequest(
        gateway=checks.uuid(body, "gateway"),
        start=checks.optional_text(body, "start"),
        database_uuid=checks.optional_text(body, "database_uuid"),
        identity=identity,
    )
