"""A real Odoo as the tests of the contract see it: an administrator makes devices and gateways, appliances have keys.

The tests know one key that is good for every gateway, as the stand-in has it. Odoo has a key for each; so the client
looks at whose request it is, and takes that gateway's. Devices belong to one gateway: whose message a test sends, the
administrator has put there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.contract.sides import NewDevice
from tests.odoo.cluster import running_cluster
from tests.odoo.databases import ADDONS, new_database
from tests.odoo.releases import Odoo
from tests.odoo.server import LOGIN, PASSWORD, OdooServer

TEST_ADDONS = Path(__file__).parent.parent / "odoo" / "addons"
RECORDER = "contract_recorder"


class Administrator:
    """Somebody who is logged in, by what the web client uses."""

    def __init__(self, url: str, database: str) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=60)
        self._ask("/web/session/authenticate", {"db": database, "login": LOGIN, "password": PASSWORD})

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of the test's own model."""
        body = {"model": "contract.effect", "method": method, "args": list(arguments), "kwargs": {}}
        return self._ask("/web/dataset/call_kw", body)

    def close(self) -> None:
        self._http.close()

    def _ask(self, path: str, params: dict[str, Any]) -> Any:
        body = {"jsonrpc": "2.0", "method": "call", "params": params}
        answer = self._http.post(path, json=body).raise_for_status().json()
        assert "error" not in answer, answer["error"]["data"]["debug"]
        return answer["result"]


class Keys(httpx.Auth):
    """The right key for each request that brings none of its own."""

    requires_request_body = True

    def __init__(self, administrator: Administrator) -> None:
        self._administrator = administrator
        self._of_gateway: dict[str, str] = {}
        self._spare: str | None = None
        self._place_of: dict[str, str] = {}

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if "authorization" not in request.headers:
            request.headers["Authorization"] = f"Bearer {self._key(request)}"
        yield request

    def note_device(self, name: str) -> None:
        """It is at no gateway yet."""
        self._place_of[name] = ""

    def _key(self, request: httpx.Request) -> str:
        try:
            body = json.loads(request.content)
        except (ValueError, RecursionError):
            body = None
        body = body if isinstance(body, dict) else {}
        uid = body.get("gateway")
        key = self._gateway_key(uid) if isinstance(uid, str) and uid else self._new_key()
        self._assign(key, [request.url.path.rpartition("/")[2], *_devices(body)])
        return key

    def _gateway_key(self, uid: str) -> str:
        """Whoever has claimed a device before it gave its name is this one."""
        if uid not in self._of_gateway:
            self._of_gateway[uid], self._spare = self._new_key(), None
        return self._of_gateway[uid]

    def _new_key(self) -> str:
        self._spare = self._spare or self._administrator.call("new_key", "")
        return self._spare

    def _assign(self, key: str, names: list[str]) -> None:
        moved = [name for name in dict.fromkeys(names) if self._place_of.get(name, key) != key]
        if moved:
            self._administrator.call("assign", key, moved)
            self._place_of.update(dict.fromkeys(moved, key))


class RealSide:
    """One running Odoo."""

    def __init__(self, url: str, database: str) -> None:
        self._administrator = Administrator(url, database)
        self._keys = Keys(self._administrator)
        self.http = httpx.Client(base_url=url, auth=self._keys, trust_env=False, timeout=60)

    def new_device(self, **config: Any) -> NewDevice:
        name = config.pop("device_id", None) or f"press-{uuid.uuid4().hex[:12]}"
        device = NewDevice(**self._administrator.call("new_device", name, config))
        self._keys.note_device(name)
        return device

    def disable(self, device_id: str) -> None:
        self._administrator.call("disable", device_id)

    def effects(self, device_id: str) -> list[dict[str, Any]]:
        effects: list[dict[str, Any]] = self._administrator.call("effects", device_id)
        return effects

    def new_code(self, gateway_uid: str | None = None) -> str:
        return str(self._administrator.call("new_code", gateway_uid or False))

    def close(self) -> None:
        self.http.close()
        self._administrator.close()


@contextmanager
def real_side(odoo: Odoo) -> Iterator[RealSide]:
    """An Odoo of its own, on a database of its own."""
    with running_cluster() as cluster, new_database(odoo, cluster) as database:
        addons = (*ADDONS, TEST_ADDONS)
        with OdooServer(odoo, cluster, database, addons=addons, options=("-i", RECORDER)) as server:
            side = RealSide(server.url, database)
            try:
                yield side
            finally:
                side.close()


def _devices(body: dict[str, Any]) -> list[str]:
    messages = body.get("messages")
    named = [each.get("device") for each in messages if isinstance(each, dict)] if isinstance(messages, list) else []
    return [name for name in named if isinstance(name, str)]
