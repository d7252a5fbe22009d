"""A real Odoo with the add-on, as an administrator uses it, by the calls of Odoo's own web client."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

READINGS_AT_ONCE = 5_000
TIMEOUT_S = 60.0


class OfficeError(Exception):
    """Odoo refused a call; the text is what it would have shown to people."""


class Office:
    """Somebody who is logged in; an async context manager.

    ``call`` may do everything. The methods below are what a person does by hand in the forms.
    """

    def __init__(self, url: str, *, database: str, login: str, password: str) -> None:
        self.url = url
        self._login = {"db": database, "login": login, "password": password}
        self._http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=TIMEOUT_S)

    async def __aenter__(self) -> Self:
        try:
            await self.log_in()
        except BaseException:
            await self._http.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def log_in(self) -> None:
        """``OfficeError`` if Odoo does not know name or password, ``httpx.HTTPError`` if it is away."""
        await self._ask("/web/session/authenticate", self._login)

    async def call(self, model: str, method: str, *arguments: Any, **named: Any) -> Any:
        """A method of a model; for a record's own the first argument is a list of ids."""
        return await self._ask(
            f"/web/dataset/call_kw/{model}/{method}",
            {"model": model, "method": method, "args": list(arguments), "kwargs": named},
        )

    async def create(self, model: str, /, **values: Any) -> int:
        """A new record; its id."""
        made = await self.call(model, "create", [values])
        return int(made[0])

    async def write(self, model: str, record: int, /, **values: Any) -> None:
        """Change a record."""
        await self.call(model, "write", [record], values)

    async def read(self, model: str, record: int, *fields: str) -> dict[str, Any]:
        """Fields of a record."""
        (found,) = await self.call(model, "read", [record], list(fields))
        return dict(found)

    async def find(self, model: str, domain: Sequence[Any], *fields: str, **options: Any) -> list[dict[str, Any]]:
        """Fields of all records that fit."""
        found: list[dict[str, Any]] = await self.call(model, "search_read", list(domain), list(fields), **options)
        return found

    async def _ask(self, path: str, params: dict[str, Any]) -> Any:
        answer = await self._http.post(path, json={"jsonrpc": "2.0", "method": "call", "params": params})
        content = answer.raise_for_status().json()
        if "error" in content:
            data = content["error"].get("data") or {}
            raise OfficeError(str(data.get("message") or content["error"].get("message")))
        return content.get("result")

    # --- what people do in the forms ---------------------------------------------------------------------------

    async def new_code(self, gateway: int) -> str:
        """A code that turns an appliance into this gateway."""
        dialog = await self.call("iiot.gateway", "action_new_code", [gateway])
        return str(dialog["context"]["default_secret"])

    async def new_device(self, *, profile: int, device_id: str, serial: str, **values: Any) -> dict[str, Any]:
        """A device with a token: ``id``, ``device_id``, ``serial`` and ``token``."""
        values = {"profile_id": profile, "device_id": device_id, "serial_number": serial, **values}
        record = await self.create("iiot.device", **values)
        return {"id": record, "device_id": device_id, "serial": serial, "token": await self.new_token(record)}

    async def new_token(self, device: int) -> str:
        """A one-time token, as the dialog shows it."""
        dialog = await self.call("iiot.device", "action_generate_token", [device])
        return str(dialog["context"]["default_token"])

    async def new_field(self, model: str, name: str, label: str, ttype: str = "float") -> int:
        """A field that people add to a model of theirs by hand; its name begins with ``x_``."""
        (target,) = await self.find("ir.model", [("model", "=", model)], "id")
        values = {"model_id": target["id"], "name": name, "field_description": label, "ttype": ttype}
        return await self.create("ir.model.fields", state="manual", **values)

    async def new_rule(self, *, profile: int, path: str, model: str, field: str, **values: Any) -> int:
        """What a reading writes where: into ``field`` of the device's business record, unless ``values`` say else."""
        (target,) = await self.find("ir.model.fields", [("model", "=", model), ("name", "=", field)], "model_id")
        return await self.create(
            "iiot.telemetry.rule",
            **{"name": f"{path} into {field}", "profile_id": profile, "json_path": path, **values},
            target_model_id=target["model_id"][0],
            target_field_id=target["id"],
        )

    async def send_command(self, device: int, action: str, params: dict[str, Any], **options: Any) -> int:
        """A command, as ``send_command`` makes it; its record. ``options`` are those of the context."""
        (command,) = await self.call("iiot.device", "send_command", [device], action, params, context=options)
        return int(command)

    async def new_firmware(self, version: str, content: bytes, **values: Any) -> int:
        """A firmware with its file."""
        return await self.create("iiot.firmware", version=version, file=base64.b64encode(content).decode(), **values)

    async def start_update(self, device: int, firmware: int) -> int:
        """An update that is ordered at once; its record."""
        update = await self.create("iiot.update", device_id=device, firmware_id=firmware)
        await self.call("iiot.update", "action_start", [update])
        return update

    async def readings(self) -> AsyncIterator[tuple[str, str]]:
        """Device id and ``msg_id`` of every reading in the history, in the order in which they were stored."""
        names = {device["id"]: device["device_id"] for device in await self.find("iiot.device", [], "device_id")}
        last = 0
        while True:
            rows = await self.find(
                "iiot.telemetry",
                [("id", ">", last)],
                *("device_id", "payload"),
                order="id",
                limit=READINGS_AT_ONCE,
            )
            for row in rows:
                yield names[row["device_id"][0]], str(row["payload"].get("msg_id"))
            if len(rows) < READINGS_AT_ONCE:
                return
            last = rows[-1]["id"]
