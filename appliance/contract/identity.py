"""A gateway's identity kept at Odoo for a replacement box (``PUT /iiot/gateway/identity``); Odoo cannot read it."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from appliance.contract.sync import DatabaseUuid, Report, Uuid

IDENTITY_PATH = "/iiot/gateway/identity"
MOST_IDENTITY_CHARACTERS = 64 << 10
"""Of base64."""
NO_IDENTITY = "no_identity"
"""Code of the 404 to an enrolment that is to recover a gateway of which nothing is kept; its code stays unused."""


def _base64(text: str) -> str:
    try:
        b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None
    return text


SealedIdentity = Annotated[str, Field(min_length=4, max_length=MOST_IDENTITY_CHARACTERS), AfterValidator(_base64)]
"""Encrypted by the appliance with a passphrase that Odoo never learns, as base64."""


class IdentityBody(Report):
    """Body of ``PUT /iiot/gateway/identity``; answered with ``{"status": "ok"}``. The newest one is kept."""

    contract: Literal[1] = 1
    gateway: Uuid
    start: str | None = None
    """The admission, as in a batch: a copy that was left behind must not overwrite the identity (409 ``fenced``)."""
    database_uuid: DatabaseUuid | None = None
    """As in a batch (409 ``wrong_database``)."""
    identity: SealedIdentity | None = Field(repr=False)
    """``None``: Odoo is to keep none any more."""
