"""Parked messages: what was refused and why, to look at, to send again, to remove, to take away."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from appliance.contract.odoo import Kind, kind_name
from appliance.contract.times import Clock, rfc3339, time_of
from appliance.errors import UnknownDeadLetterError
from appliance.store.dead_letters import Changed, DeadLetter, DeadLetters, Filter
from appliance.store.parked import MOST_PARKED, MOST_PARKED_BYTES
from appliance.web.answers import Letter, LettersAnswer, Removed, RemovedMany, Retried, RetriedMany
from appliance.web.bodies import json_response, parse, read_json
from appliance.web.routes import Media, describes

log = logging.getLogger(__name__)

MOST_PER_PAGE = 500
MOST_AT_ONCE = 10_000
MANY_WITHIN_S = 30.0
"""A request for many that takes longer ends, and says where to go on; so it does when the appliance stops."""
PAYLOAD_BYTES = 64 << 10
"""A longer payload is not part of a list; alone, and in the export, it is whole."""
NDJSON = "application/x-ndjson"
_KINDS = {kind.wire: kind for kind in Kind}
_ID_DIGITS = 18


def _kind(value: object) -> object:
    if isinstance(value, str):
        if value not in _KINDS:
            raise ValueError(f"one of {', '.join(_KINDS)}")
        return _KINDS[value]
    return value


KindName = Annotated[Kind, BeforeValidator(_kind), WithJsonSchema({"enum": list(_KINDS)})]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
RowId = Annotated[int, Field(ge=0, lt=1 << 62)]


class LettersFilter(BaseModel):
    """Which dead letters: those that fit all that is given, with ids above ``after`` and not above ``up_to``."""

    # a filter that is misspelt must not stand for all
    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Name | None = None
    kind: KindName | None = None
    code: Name | None = None
    after: RowId = 0
    up_to: RowId | None = None

    def filter(self) -> Filter:
        """As the store takes it."""
        return Filter(device=self.device, kind=self.kind, code=self.code, after=self.after, up_to=self.up_to)


class LettersQuery(LettersFilter):
    """Query of ``GET /api/v1/dead-letters``; ``payload=true`` shows payloads of up to 64 KiB."""

    limit: Annotated[int, Field(ge=1, le=MOST_PER_PAGE)] = 100
    payload: bool = False


class LettersOrder(LettersFilter):
    """Body of ``POST …/retry`` and query of ``DELETE …``: at most ``limit`` of what fits."""

    all: bool = False
    limit: Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] = 1000

    @model_validator(mode="after")
    def _on_purpose(self) -> LettersOrder:
        if not self.all and self.device is None and self.kind is None and self.code is None:
            raise ValueError("name a device, kind or code, or say all=true")
        return self


class DeadLetterRoutes:
    """``/api/v1/dead-letters/…``."""

    def __init__(self, letters: DeadLetters, *, clock: Clock, stopping: Callable[[], bool]) -> None:
        self._letters = letters
        self._clock = clock
        self._stopping = stopping

    @describes(LettersAnswer, query=LettersQuery)
    async def list(self, request: Request) -> Response:
        """The oldest first; ``next`` is the ``after`` of the next page, if there is one."""
        query = parse(LettersQuery, dict(request.query_params))
        page = await self._letters.page(
            query.filter(), limit=query.limit, payload_up_to=PAYLOAD_BYTES if query.payload else 0
        )
        stock = await self._letters.stock()
        head = {
            "rows": stock.rows,
            "most_rows": MOST_PARKED,
            "payload_bytes": stock.payload_bytes,
            "most_payload_bytes": MOST_PARKED_BYTES,
            "next": page.next,
        }
        return json_response(
            to_json(head)[:-1] + b',"dead_letters":[' + b",".join(_encode(letter) for letter in page.letters) + b"]}"
        )

    @describes(Letter, problems={404: "no such dead letter"})
    async def show(self, request: Request) -> Response:
        """One, with its whole payload."""
        return json_response(_encode(await self._letters.get(letter_id(request))))

    @describes(Retried, problems={404: "no such dead letter", 409: "it is no whole message"})
    async def retry(self, request: Request) -> Response:
        """One becomes a new message with its old times, and waits for Odoo like any other."""
        number = letter_id(request)
        seq = await self._letters.retry(number)
        log.info("parked message %d is sent again as message %d", number, seq)
        return json_response(to_json({"id": number, "seq": seq}))

    @describes(RetriedMany, body=LettersOrder)
    async def retry_many(self, request: Request) -> Response:
        """All that fit, up to ``limit``; what is no whole message is skipped, and counted as that."""
        order = parse(LettersOrder, await read_json(request))
        changed = await self._letters.retry_many(order.filter(), limit=order.limit, enough=self.enough())
        log.info("%d parked messages are sent again, %d cannot be", changed.count, changed.skipped)
        return json_response(to_json({"retried": changed.count, "skipped": changed.skipped, **_rest(changed)}))

    @describes(Removed, problems={404: "no such dead letter"})
    async def remove(self, request: Request) -> Response:
        """One is removed for good; the ledger counts it as removed."""
        number = letter_id(request)
        await self._letters.remove(number)
        log.warning("an operator removed parked message %d", number)
        return json_response(to_json({"id": number, "removed": 1}))

    @describes(RemovedMany, query=LettersOrder)
    async def remove_many(self, request: Request) -> Response:
        """All that fit, up to ``limit``, are removed for good and counted."""
        order = parse(LettersOrder, dict(request.query_params))
        changed = await self._letters.remove_many(order.filter(), limit=order.limit, enough=self.enough())
        log.warning("an operator removed %d parked messages", changed.count)
        return json_response(to_json({"removed": changed.count, **_rest(changed)}))

    def enough(self) -> Callable[[], bool]:
        """When to leave the rest to the next request: it must be answered while the client, and the server, wait."""
        end = self._clock.monotonic() + MANY_WITHIN_S
        return lambda: self._stopping() or self._clock.monotonic() > end

    @describes(Media(NDJSON, {"$ref": "#/components/schemas/Letter"}), query=LettersFilter)
    async def export(self, request: Request) -> Response:
        """All that fit and are there now, a JSON object in each line; what the client has not read is not loaded."""
        query = parse(LettersFilter, dict(request.query_params))
        return self.export_response(query, head=request.method == "HEAD")

    def export_response(self, query: LettersFilter, *, head: bool) -> Response:
        """The same for who has been let in already."""
        headers = {"Content-Disposition": 'attachment; filename="dead-letters.ndjson"'}
        if head:
            return Response(media_type=NDJSON, headers=headers)
        return StreamingResponse(self._lines(query.filter()), media_type=NDJSON, headers=headers)

    async def _lines(self, wanted: Filter) -> AsyncIterator[bytes]:
        async for letters in self._letters.export(wanted):
            # a line each: JSON may hold line breaks between its tokens, and nowhere else
            yield b"".join(_encode(letter).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" for letter in letters)


def letter_id(request: Request) -> int:
    """The number in the path; :class:`UnknownDeadLetterError` if it is none."""
    text: str = request.path_params["dead_letter_id"]
    if not (text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS):
        raise UnknownDeadLetterError("the id of a parked message is a number")
    return int(text)


def _rest(changed: Changed) -> dict[str, Any]:
    return {"next": changed.next, "up_to": changed.up_to}


def fields_of(letter: DeadLetter) -> dict[str, Any]:
    """What is told of one beside its payload; times as on the wire."""
    return {
        "id": letter.id,
        "seq": letter.seq,
        "device": letter.device,
        "kind": kind_name(letter.kind),
        "at": rfc3339(time_of(letter.at_ms, letter.received_at_ms, letter.flags)),
        "received_at": rfc3339(letter.received_at_ms),
        "parked_at": rfc3339(letter.parked_at_ms),
        "code": letter.code,
        "message": letter.message,
        "messages": letter.messages,
        "retryable": bool(letter.retryable),
        "payload_bytes": letter.payload_bytes,
    }


def _encode(letter: DeadLetter) -> bytes:
    """As JSON; the payload is JSON already and spliced in."""
    head = to_json(fields_of(letter))
    if letter.payload is None:
        return head
    return head[:-1] + b',"payload":' + letter.payload + b"}"
