"""Firmware over HTTP: files for appliances, and the routes with which people and tests make files and send updates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from firmware_sim.standin.bodies import json_object, local_only
from firmware_sim.standin.contract_routes import ContractRoutes
from firmware_sim.standin.faults import Faults
from firmware_sim.standin.files import FILE_PATH, MOST_BYTES, Files, byte_range
from firmware_sim.standin.pending import PendingWork
from firmware_sim.standin.refusal import RefusalError
from firmware_sim.standin.updates import Updates


class FileRoutes:
    """``/iiot/firmware/<id>/file``, ``/sim/firmware`` and ``/sim/updates``."""

    def __init__(
        self, *, files: Files, updates: Updates, work: PendingWork, faults: Faults, contract: ContractRoutes
    ) -> None:
        self._files = files
        self._updates = updates
        self._work = work
        self._faults = faults
        self._contract = contract

    def routes(self) -> list[Route]:
        """For the application."""
        control: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/sim/firmware", self._list),
            ("POST", "/sim/firmware", self._add),
            ("DELETE", "/sim/firmware/{firmware}", self._remove),
            ("GET", "/sim/updates", self._list_updates),
            ("POST", "/sim/updates", self._send_update),
            ("GET", "/sim/updates/{update}", self._one_update),
        ]
        path = FILE_PATH.replace("{firmware}", "{firmware:int}")
        return [
            Route(path, self._contract.guarded("firmware", self._file, has_body=False), methods=["GET"]),
            *(Route(path, local_only(handle), methods=[method]) for method, path, handle in control),
        ]

    async def _file(self, request: Request, _body: bytes) -> Response:
        """The file or a part of it, also to HEAD, which Starlette answers without the body."""
        await self._contract.linger()
        file = self._files.one(request.path_params["firmware"])
        tag, size = f'"{file["sha256"]}"', file["size"]
        headers = {"ETag": tag, "Accept-Ranges": "bytes"}
        part = byte_range(request.headers.get("range"), size)
        if request.headers.get("if-range", tag) != tag:
            part = None
        first, last = part or (0, size - 1)
        if part is not None:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        headers["Content-Length"] = str(last - first + 1)
        corrupt = self._faults.take("corrupt") is not None
        return StreamingResponse(
            self._files.read(file["id"], first, last, corrupt=corrupt),
            status_code=200 if part is None else 206,
            headers=headers,
            media_type="application/octet-stream",
        )

    async def _list(self, request: Request) -> Response:
        return JSONResponse({"firmware": self._files.all()})

    async def _add(self, request: Request) -> Response:
        """JSON makes an image; any other content is one, ``?version=`` is its version."""
        if request.headers.get("content-type", "").startswith("application/json"):
            return JSONResponse(self._files.make(await json_object(request)), 201)
        content = bytearray()
        async for piece in request.stream():
            content += piece
            if len(content) > MOST_BYTES:
                raise RefusalError(413, "too_large", f"at most {MOST_BYTES} bytes")
        return JSONResponse(self._files.add(request.query_params.get("version", ""), bytes(content)), 201)

    async def _remove(self, request: Request) -> Response:
        number = request.path_params["firmware"]
        self._files.remove(int(number) if number.isdecimal() and len(number) < 10 else -1)
        return Response(status_code=204)

    async def _list_updates(self, request: Request) -> Response:
        return JSONResponse({"updates": self._work.updates()})

    async def _send_update(self, request: Request) -> Response:
        update = await self._updates.send(await json_object(request), base_url=str(request.base_url))
        return JSONResponse(update, 201)

    async def _one_update(self, request: Request) -> Response:
        return JSONResponse(self._work.update(request.path_params["update"]))
