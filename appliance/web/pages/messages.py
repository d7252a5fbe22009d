"""What waits for Odoo and what was parked: look inside, send again, take away, remove for good."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from appliance.contract.odoo import Kind, kind_name
from appliance.contract.times import rfc3339, time_of
from appliance.errors import RequestError
from appliance.store.parked import MOST_PARKED
from appliance.web.auth import while_valid
from appliance.web.bodies import parse
from appliance.web.dead_letters import (
    MOST_AT_ONCE,
    NDJSON,
    DeadLetterRoutes,
    LettersFilter,
    LettersOrder,
    fields_of,
    letter_id,
)
from appliance.web.pages.access import Guarded, PageAccess, change, page
from appliance.web.pages.frame import HTML, Frame
from appliance.web.pages.payloads import indented, readable
from appliance.web.pages.sessions import Session
from appliance.web.routes import Media, describes
from appliance.web.services import WebServices

log = logging.getLogger(__name__)

WAITING_SHOWN, PER_PAGE = 10, 50
PAGE = "/ui/messages"
FILTER = ("device", "kind", "code")
_DONE = {"retried": "sent to Odoo again", "removed": "removed for good"}
_DIGITS = 9


class MessagePages(Guarded):
    """``/ui/messages…``."""

    def __init__(self, services: WebServices, letters: DeadLetterRoutes, access: PageAccess, frame: Frame) -> None:
        self.access = access
        self.frame = frame
        self._services = services
        self._routes = letters

    @describes(HTML, answers={303: None, 422: HTML, 503: HTML}, query=LettersFilter)
    @page
    async def messages(self, request: Request, session: Session) -> Response:
        """The oldest of what waits, and what was parked, in pages."""
        wanted = parse(LettersFilter, _given(request.query_params))
        services = self._services
        found = await services.dead_letters.page(wanted.filter(), limit=PER_PAGE)
        kinds = await services.kinds()
        return self.frame.html(
            "messages.html",
            session,
            waiting=[_line(each) for each in await services.pages.peek.waiting(limit=WAITING_SHOWN)],
            waiting_total=services.backlog().waiting,
            waiting_kinds=kinds.waiting,
            letters=[fields_of(each) for each in found.letters],
            stock=await services.dead_letters.stock(),
            most=MOST_PARKED,
            codes=kinds.parked or {},
            kinds=[kind.wire for kind in Kind],
            filter={name: request.query_params.get(name, "") for name in FILTER},
            after=wanted.after,
            next=found.next,
            done=_done(request.query_params),
            page="messages",
        )

    @describes(HTML, answers={303: None, 404: HTML, 503: HTML})
    @page
    async def message(self, request: Request, session: Session) -> Response:
        """One parked message with its whole payload."""
        letter = await self._services.dead_letters.get(letter_id(request))
        payload = indented(letter.payload or b"")
        return self.frame.html("message.html", session, letter=fields_of(letter), payload=payload, page="messages")

    @describes(
        answers={200: Media(NDJSON, {"$ref": "#/components/schemas/Letter"}), 303: None, 422: HTML},
        query=LettersFilter,
    )
    @page
    async def export(self, request: Request, session: Session) -> Response:
        """What was parked, a JSON object in each line."""
        wanted = parse(LettersFilter, _given(request.query_params))
        answer = self._routes.export_response(wanted, head=request.method == "HEAD")
        if session.key is not None and isinstance(answer, StreamingResponse):
            answer.body_iterator = while_valid(session.key, answer.body_iterator)
        return answer

    @describes(answers={303: None, 403: HTML, 404: HTML, 409: HTML, 422: HTML, 503: HTML}, body=LettersOrder, form=True)
    @change("operate")
    async def retry(self, request: Request, session: Session, fields: Mapping[str, str]) -> Response:
        """Sends one to Odoo again, or those of a filter."""
        if fields.get("id"):
            await self._services.dead_letters.retry(_number(fields["id"]))
            log.info("parked message %s is sent again, by %s", fields["id"], session.who)
            return _see(fields, retried=1)
        order = parse(LettersOrder, {"limit": MOST_AT_ONCE, **_given(fields)})
        changed = await self._services.dead_letters.retry_many(
            order.filter(), limit=order.limit, enough=self._routes.enough()
        )
        log.info("%d parked messages are sent again, %d cannot be, by %s", changed.count, changed.skipped, session.who)
        return _see(fields, retried=changed.count, skipped=changed.skipped, more=int(changed.next is not None))

    @describes(answers={303: None, 403: HTML, 404: HTML, 422: HTML, 503: HTML}, body=LettersOrder, form=True)
    @change("operate")
    async def remove(self, request: Request, session: Session, fields: Mapping[str, str]) -> Response:
        """Removes one for good, or those of a filter; the form must say that it is sure."""
        if fields.get("sure") != "yes":
            raise RequestError("what is removed is gone for good: say that you are sure", status=422)
        if fields.get("id"):
            await self._services.dead_letters.remove(_number(fields["id"]))
            log.warning("parked message %s was removed, by %s", fields["id"], session.who)
            return _see(fields, removed=1)
        order = parse(LettersOrder, {"limit": MOST_AT_ONCE, **_given(fields)})
        changed = await self._services.dead_letters.remove_many(
            order.filter(), limit=order.limit, enough=self._routes.enough()
        )
        log.warning("%d parked messages were removed, by %s", changed.count, session.who)
        return _see(fields, removed=changed.count, more=int(changed.next is not None))


def _given(fields: Mapping[str, str]) -> dict[str, str]:
    """A form sends its empty fields too, and some that are no filter."""
    return {name: fields[name] for name in (*FILTER, "after", "all") if fields.get(name)}


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RequestError("this is no message's number", status=422)
    return int(text)


def _see(fields: Mapping[str, str], **done: int) -> Response:
    """Back to the list, with the filter that was there, and a word on what happened."""
    query = {name: fields[name] for name in FILTER if fields.get(name) and not fields.get("id")} | done
    return Response(status_code=303, headers={"Location": f"{PAGE}?{urlencode(query)}"})


def _done(query: Mapping[str, str]) -> str:
    """The word; from numbers alone, because anybody can make such an address."""
    for name, what in _DONE.items():
        count = query.get(name, "")
        if count.isascii() and count.isdigit() and len(count) <= _DIGITS:
            said = f"{'1 message is' if count == '1' else f'{count} messages are'} {what}."
            skipped = query.get("skipped", "0")
            if skipped.isascii() and skipped.isdigit() and skipped != "0":
                said += f" {skipped[:_DIGITS]} cannot be: they are no whole messages."
            return said + (" There are more: press again." if query.get("more") == "1" else "")
    return ""


def _line(seen: Any) -> dict[str, Any]:
    return {
        "seq": seen.seq,
        "device": seen.device,
        "kind": kind_name(seen.kind),
        "at": rfc3339(time_of(seen.at_ms, seen.received_at_ms, seen.flags)),
        "received_at": rfc3339(seen.received_at_ms),
        "payload": readable(seen.payload, seen.payload_bytes),
    }
