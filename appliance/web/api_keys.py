"""The keys of this API: who has one, make one, revoke one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.times import rfc3339
from appliance.services.api_keys import ApiKey, ApiKeys, Scope
from appliance.store.api_keys import MOST_KEYS
from appliance.web.answers import KeysAnswer, NewKey, RevokedKey
from appliance.web.bodies import json_response, parse, read_json
from appliance.web.routes import describes

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class NewApiKey(BaseModel):
    """Body of ``POST /api/v1/api-keys``."""

    # a scope that is misspelt must not become the default
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]
    scope: Scope = "read"


class ApiKeyRoutes:
    """``/api/v1/api-keys``."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    @describes(KeysAnswer)
    async def list(self, _: Request) -> Response:
        """All of them, the appliance's own first; never a key itself."""
        content = {"api_keys": [_shown(key) for key in self._keys.all()], "most": MOST_KEYS}
        return json_response(to_json(content))

    @describes(NewKey, status=201, body=NewApiKey, problems={409: "the name is taken, or there are too many"})
    async def create(self, request: Request) -> Response:
        """Make a key. It is told in this answer and never again."""
        wanted = parse(NewApiKey, await read_json(request))
        key, text = await self._keys.create(wanted.name, wanted.scope)
        return json_response(to_json({**_shown(key), "key": text}), 201)

    @describes(RevokedKey, problems={404: "no such key", 409: "the appliance's own key"})
    async def revoke(self, request: Request) -> Response:
        """It opens nothing any more, and what is being sent with it ends."""
        key = await self._keys.revoke(request.path_params["key_id"])
        return json_response(to_json({"id": key.key_id, "name": key.name, "revoked": True}))


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "name": key.name,
        "scope": key.scope,
        "builtin": key.builtin,
        "prefix": key.prefix,
        "created_at": None if key.created_at_ms is None else rfc3339(key.created_at_ms),
        "last_used_at": None if key.last_used_at_ms is None else rfc3339(key.last_used_at_ms),
    }
