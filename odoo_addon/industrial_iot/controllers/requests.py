"""What every route of the contract does: whose key it is, JSON in and out, problem documents, and a fresh look where
two requests got into each other's way.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Callable
from typing import Any

import werkzeug.exceptions
from odoo import http
from odoo.http import request

from ..lib import json_text
from ..lib.attempts import Attempts
from ..lib.batch import MAX_BODY_BYTES
from ..lib.problems import MEDIA_TYPE, RefusalError
from ..models.failures import is_transient

_logger = logging.getLogger(__name__)

MAX_TRIES = 5
DRAINED_BYTES = 2 * MAX_BODY_BYTES
"""Of a body that is refused: an answer before the body was read looks like a broken connection to who sends it."""

OF_THE_GATEWAY = frozenset(("gateway_disabled", "wrong_database"))

_attempts = Attempts()


def contract_route(
    path: str, *, methods: list[str], keyless: bool = False, repeats_alone: bool = False, for_device: bool = False
) -> Callable[[Any], Any]:
    """A route of the contract. The method gets the gateway whose key came, as the gateways' user sees it.

    ``repeats_alone``: what has run into another transaction is done again while no other batch is handled.
    ``for_device``: a refusal reaches the device as final, so what is only wrong with its gateway is said as 503.
    """
    names = re.findall(r"<\w+:(\w+)>", path)

    def decorate(method: Callable[..., Any]) -> Any:
        @http.route(path, type="http", auth="none", methods=methods, csrf=False, save_session=False, readonly=False)
        def endpoint(self, **params: Any) -> http.Response:
            # what came in a query is not part of the contract
            named = {name: params[name] for name in names}
            handle = functools.partial(method, self, **named)
            return _answer(handle, keyless=keyless, repeats_alone=repeats_alone, for_device=for_device)

        endpoint.__doc__ = method.__doc__
        return endpoint

    return decorate


def json_body() -> Any:
    """The body's JSON; ``RefusalError`` for what is none, has no length, or is too long."""
    incoming = request.httprequest
    if incoming.mimetype != "application/json":
        raise RefusalError(415, "unsupported_media_type", "send application/json")
    length = incoming.content_length
    if length is None:
        raise RefusalError(411, "length_required", "send the Content-Length")
    if length > MAX_BODY_BYTES:
        raise RefusalError(413, "too_large", f"at most {MAX_BODY_BYTES} bytes")
    try:
        content = incoming.get_data()  # kept by the request: a repeat reads it again
    except (werkzeug.exceptions.HTTPException, OSError):
        raise RefusalError(400, "bad_request", "the body ended early") from None
    if len(content) != length:
        raise RefusalError(400, "bad_request", "the body ended early")
    try:
        return json_text.loads(content)
    except ValueError:
        raise RefusalError(400, "bad_request", "the body is not JSON") from None


def json_answer(value: Any, status: int = 200) -> http.Response:
    """A body of the contract."""
    return request.make_response(
        json_text.dumps(value), headers=[("Content-Type", "application/json; charset=utf-8")], status=status
    )


def bearer_key() -> str:
    """The key that came with the request, perhaps empty."""
    scheme, _, key = request.httprequest.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def count_wrong(place: str, refusal: RefusalError) -> RefusalError:
    """The refusal of a wrong key, code or token; or, where too many came from there lately, 429."""
    address = request.httprequest.remote_addr or "?"
    wait_s = _attempts.note_wrong((place, address))
    if wait_s is None:
        return refusal
    headers = {"Retry-After": str(int(wait_s) + 1)}
    return RefusalError(429, "rate_limited", "too many wrong attempts from this address", headers=headers)


def _answer(handle: Callable[..., Any], *, keyless: bool, repeats_alone: bool, for_device: bool) -> http.Response:
    for left in reversed(range(MAX_TRIES)):
        try:
            if repeats_alone and left < MAX_TRIES - 1:
                request.env["iiot.inbox"]._exclude_others()
            arguments = () if keyless else (_gateway_of_key(),)
            response = handle(*arguments)
            request.env.cr.flush()  # what is wrong with it must show here, not where Odoo would wait and try again
            return response
        except RefusalError as refusal:
            _begin_again()
            if for_device and refusal.code in OF_THE_GATEWAY:
                headers = {"Retry-After": "60"}
                return _problem(RefusalError(503, refusal.code, str(refusal), headers=headers, **refusal.extra))
            return _problem(refusal)
        except Exception as error:
            _begin_again()
            if not is_transient(error):
                _logger.exception("%s failed", request.httprequest.path)
                return _problem(RefusalError(500, "internal", "failed: the log of Odoo says why"))
            if not left:
                _logger.warning("%s: %s tries ran into other transactions", request.httprequest.path, MAX_TRIES)
                return _problem(RefusalError(503, "unavailable", "try again", headers={"Retry-After": "1"}))
    raise AssertionError


def _begin_again() -> None:
    """Nothing of what was done so far; the next look at the database is a fresh one."""
    request.env.cr.rollback()
    request.env.transaction.reset()
    request.env.registry.reset_changes()


def _gateway_of_key() -> Any:
    """The gateway whose key came with the request, seen by the gateways' user and by nobody else."""
    key = bearer_key()
    user = request.env.ref("industrial_iot.user_gateway", raise_if_not_found=False)
    gateway_id = request.env["iiot.gateway.key"].sudo()._owner(key) if key and user else None
    if gateway_id is None:
        headers = {"WWW-Authenticate": "Bearer"}
        raise count_wrong("key", RefusalError(401, "unauthorized", "API key missing or wrong", headers=headers))
    request.update_env(user=user.id, context={"iiot_gateway_id": gateway_id, "lang": "en_US", "tz": "UTC"})
    gateway = request.env["iiot.gateway"].sudo().browse(gateway_id)
    if not gateway.is_enabled or not gateway.active:
        raise RefusalError(403, "gateway_disabled", "this gateway is switched off in Odoo")
    return gateway


def _problem(refusal: RefusalError) -> http.Response:
    _drain()
    headers = [("Content-Type", MEDIA_TYPE), *refusal.headers.items()]
    return request.make_response(json_text.dumps(refusal.document()), headers=headers, status=refusal.status)


def _drain() -> None:
    """Read what is left of the body, where that is not too much."""
    incoming = request.httprequest
    if incoming.content_length is not None and incoming.content_length <= DRAINED_BYTES:
        with contextlib.suppress(werkzeug.exceptions.HTTPException, OSError):
            incoming.get_data()
