"""Enrolment: a code from the gateway's form works once and turns into a key that is kept as its SHA-256.

With it goes what an appliance lets Odoo keep of itself for a replacement box.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any

from pydantic import ValidationError

from appliance.contract.identity import NO_IDENTITY, IdentityBody
from appliance.contract.sync import EnrollRequest
from appliance.contract.times import Clock
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.registry import new_token
from firmware_sim.standin.state import State

CODE_VALID_S = 3600.0


class Enrolment:
    """Codes and the keys that were made for them. ``api_key`` is one more, good for every gateway."""

    def __init__(self, *, state: State, api_key: str, clock: Clock | None = None) -> None:
        self._state = state
        self._api_key = api_key.encode()
        self._clock = clock or Clock()

    def new_code(self, valid_s: object = None, made_for: object = None) -> dict[str, str]:
        """A code as the gateway's form shows it; ``made_for`` is the uid of a gateway that was enrolled before."""
        valid_s = CODE_VALID_S if valid_s is None else valid_s
        if isinstance(valid_s, bool) or not isinstance(valid_s, (int, float)) or not 0 <= valid_s < 1e9:
            raise RefusalError(422, "bad_request", "valid_s must be a number of seconds")
        if made_for is not None and not isinstance(made_for, str):
            raise RefusalError(422, "bad_request", "gateway must be a text")
        code = new_token()
        expires_at_ms = self._clock.now_ms() + round(valid_s * 1000)
        self._state.connection.execute(
            "INSERT INTO codes (code, expires_at_ms, made_for) VALUES (?, ?, ?)", (code, expires_at_ms, made_for)
        )
        return {"code": code}

    def enroll(self, body: object) -> tuple[dict[str, Any], EnrollRequest]:
        """Answer ``POST /iiot/gateway/enroll``, and what the appliance said of itself."""
        try:
            request = EnrollRequest.model_validate(body)
        except ValidationError as error:
            raise RefusalError(422, "bad_request", str(error.errors()[0]["msg"])) from None
        key = secrets.token_urlsafe(32)
        with self._state.transaction() as connection:
            former = self._check_code(request.code)
            kept = self._state.row("SELECT identity FROM identities WHERE gateway = ?", former)
            if request.recover and kept is None:
                raise RefusalError(404, NO_IDENTITY, "no identity of this gateway is kept here")
            owner = former if request.recover else request.gateway_uid
            connection.execute("UPDATE codes SET gateway = ? WHERE code = ?", (owner, request.code))
            connection.execute("INSERT INTO keys VALUES (?, ?)", (_digest(key), owner))
            if not request.recover:  # the gateway's form goes on with another box, and what it keeps stays
                connection.execute("UPDATE OR REPLACE identities SET gateway = ? WHERE gateway = ?", (owner, former))
        answer = {"api_key": key, "database_uuid": self._state.meta("database_uuid"), "gateway_uid": former}
        if request.recover and kept is not None:
            answer["identity"] = kept[0]
        return answer, request

    def _check_code(self, code: str) -> str | None:
        """The gateway that it was made for, if that was enrolled before."""
        row = self._state.row("SELECT expires_at_ms, gateway, made_for FROM codes WHERE code = ?", code)
        if row is None:
            raise RefusalError(403, "invalid_code", "no such code")
        if row[1] is not None:
            raise RefusalError(410, "code_used", "this code has been used: make another one")
        if self._clock.now_ms() >= row[0]:
            raise RefusalError(410, "code_expired", "this code has expired: make another one")
        return row[2] if row[2] is None else str(row[2])

    def keep_identity(self, request: IdentityBody) -> None:
        """Answer ``PUT /iiot/gateway/identity``: the newest one is kept."""
        with self._state.transaction() as connection:
            connection.execute("DELETE FROM identities WHERE gateway = ?", (request.gateway,))
            if request.identity is not None:
                row = (request.gateway, request.identity, self._clock.now_ms())
                connection.execute("INSERT INTO identities VALUES (?, ?, ?)", row)

    def owner(self, key: str) -> str | None:
        """The gateway that a key was made for, ``""`` for the common one, ``None`` for one that is wrong."""
        if hmac.compare_digest(key.encode(), self._api_key):
            return ""
        row = self._state.row("SELECT gateway FROM keys WHERE digest = ?", _digest(key))
        return None if row is None else str(row[0])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
