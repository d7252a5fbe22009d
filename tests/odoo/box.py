"""An appliance as Odoo sees it, by hand: what it asks and tells over HTTP, with devices that do as they are told."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import httpx

from tests.odoo.people import Person


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class HandBox:
    """The gateway of that name, made and given a key by ``person``."""

    def __init__(self, person: Person, name: str) -> None:
        self.gateway = person.create("iiot.gateway", name=name)
        key = person.call("iiot.gateway", "action_new_key", [self.gateway])["context"]["default_secret"]
        self._http = httpx.Client(
            base_url=person.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60
        )
        self._uid, self._epoch, self._start = (str(uuid.uuid4()) for _ in range(3))
        self._database: str | None = None
        self.sync()

    def sync(self, **told: Any) -> dict[str, Any]:
        """What Odoo has for it; ``told`` goes beside what is always told, or in its place."""
        body = {
            "contract": 1,
            "gateway": self._uid,
            "name": "by-hand",
            "version": "1.0",
            "time": now(),
            "uptime_s": 5.0,
            "start": self._start,
            "starts": [{"start": self._start, "first_seq": 1}],
            "database_uuid": self._database,
            "epochs": [{"epoch": self._epoch, "last_seq": 100, "floor": 1, "settled": 0, "stored": 0}],
            **told,
        }
        answer: dict[str, Any] = self._post("/iiot/gateway/sync", body)
        self._database = answer["database_uuid"]
        return answer

    def pair(self, serial: str, token: str) -> str:
        """A device was given its token and asks for its configuration; its id."""
        answer = self._post("/iiot/config", {"serial": serial, "token": token, "request_id": "r-1"})
        device = str(answer["device_id"])
        self.tell(device, "presence", {"status": "online", "since": now()})
        return device

    def tell(self, device: str, kind: str, payload: dict[str, Any]) -> None:
        """A message of that device or about it."""
        at = now()
        body = {"kind": kind, "at": at, "received_at": at, "lane": "live", "payload": payload}
        assert self._post(f"/iiot/webhook/{device}", body)["status"] == "stored"

    def close(self) -> None:
        self._http.close()

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()
