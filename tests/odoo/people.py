"""Somebody who is logged in to Odoo, by the calls of its web client."""

from __future__ import annotations

from typing import Any

import httpx

from tests.odoo.server import LOGIN, PASSWORD


class Person:
    """Calls methods of models; ``session`` is the cookie with which a browser is the same person."""

    def __init__(self, url: str, database: str, login: str = LOGIN, password: str = PASSWORD) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=60)
        self._ask("/web/session/authenticate", {"db": database, "login": login, "password": password})

    @property
    def session(self) -> str:
        return str(self._http.cookies["session_id"])

    def call(self, model: str, method: str, *arguments: Any, **named: Any) -> Any:
        """A method of a model; for a record's own the first argument is a list of ids."""
        body = {"model": model, "method": method, "args": list(arguments), "kwargs": named}
        return self._ask(f"/web/dataset/call_kw/{model}/{method}", body)

    def find(self, model: str, domain: list[Any], *fields: str, **options: Any) -> list[dict[str, Any]]:
        """Fields of all records that fit."""
        return list(self.call(model, "search_read", domain, list(fields), **options))

    def create(self, model: str, /, **values: Any) -> int:
        """A new record; its id."""
        (record,) = self.call(model, "create", [values])
        return int(record)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What a route of the add-on answers to that."""
        return self._http.post(path, json=body).raise_for_status().json()

    def close(self) -> None:
        self._http.close()

    def _ask(self, path: str, params: dict[str, Any]) -> Any:
        body = {"jsonrpc": "2.0", "method": "call", "params": params}
        answer = self._http.post(path, json=body).raise_for_status().json()
        assert "error" not in answer, answer["error"]["data"]["debug"]
        return answer.get("result")
