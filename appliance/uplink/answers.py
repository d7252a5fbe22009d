"""What Odoo's answers mean: status, headers and body become a value of the contract or one of the ``Odoo…Error``s."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from appliance.contract.odoo import OdooProblem
from appliance.contract.sync import FENCED, WRONG_DATABASE, FencedProblem
from appliance.errors import (
    OdooAlarmError,
    OdooError,
    OdooFencedError,
    OdooRefusedError,
    OdooTooLargeError,
    OdooUnavailableError,
)
from appliance.uplink.retry import bounded_wait_s, parse_retry_after

RESET_MEANS_TOO_LARGE_BYTES = 64 * 1024
"""A connection cut while sending more than this counts as 413: Odoo 17 answers it before it has read the body."""
TEXT_CHARACTERS = 300

FOREIGN_ERRORS = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict, OSError)
"""All that httpx may raise on a request, and what might slip through it."""

_CUT = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_ALARMS = {
    401: "Odoo does not accept this appliance's key: check ODOO_API_KEY",
    403: "Odoo refuses this appliance",
    404: "there is no such address at Odoo: check ODOO_BASE_URL and ODOO_DATABASE, and that the add-on is installed",
}
_STANDING = frozenset(("behind", WRONG_DATABASE, FENCED))
"""Codes of 409: how appliance and Odoo stand to each other must be found out by a sync."""
_DEVICE_ANSWERS = frozenset({400, 403, 404, 409, 410, 422})

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer; ``now_ms`` is when it came, by the gateway's clock."""

    status: int
    headers: httpx.Headers
    content: bytes
    now_ms: int

    def read(self, model: type[_Model]) -> _Model:
        """The body of a 200. Anything else in it counts as no answer: Odoo may have stored, a repeat is harmless."""
        body = _parse(model, self.content)
        if body is None:
            kind = printable(self.headers.get("content-type", "no content type"), 60)
            raise OdooUnavailableError(f"Odoo's answer (200, {kind}) does not speak the contract")
        return body

    def batch_error(self, body_bytes: int) -> OdooError:
        """What an answer other than 200 to a batch means (contract, "Retry rules")."""
        problem = _parse(OdooProblem, self.content)
        if self.status == 413:
            return OdooTooLargeError(f"Odoo refuses a body of {body_bytes} bytes (413)", certain=True)
        if problem and (self.status in (400, 422) or (self.status == 409 and problem.code in _STANDING)):
            return OdooRefusedError(printable(problem.text), status=self.status, code=problem.code, floor=problem.floor)
        return self._error(problem)

    def sync_error(self) -> OdooError:
        """What an answer other than 200 to ``sync`` means."""
        problem = _parse(OdooProblem, self.content)
        if problem and (self.status, problem.code) == (409, FENCED):
            fenced = _parse(FencedProblem, self.content)
            return OdooFencedError(printable(problem.text), known=fenced.known if fenced else None)
        if problem and self.status in (400, 409, 422):
            return OdooRefusedError(printable(problem.text), status=self.status, code=problem.code)
        return self._error(problem)

    def enroll_error(self) -> OdooError:
        """What an answer other than 200 to an enrolment means: with a code it is Odoo's word on the code typed in."""
        problem = _parse(OdooProblem, self.content)
        if problem and self.status in _DEVICE_ANSWERS:
            return OdooRefusedError(printable(problem.text), status=self.status, code=problem.code)
        return self._error(problem)

    def config_error(self) -> OdooError:
        """What an answer other than 200 to a configuration request means: with a code it is that device's answer."""
        problem = _parse(OdooProblem, self.content)
        if problem and self.status in _DEVICE_ANSWERS:
            return OdooRefusedError(printable(problem.text), status=self.status, code=problem.code)
        return self._error(problem)

    def _error(self, problem: OdooProblem | None) -> OdooError:
        if self.status in _ALARMS:
            return OdooAlarmError(f"{_ALARMS[self.status]} ({self._text(problem)})", status=self.status)
        if 300 <= self.status < 400:
            text = f"Odoo's address redirects to {self._place()}: set ODOO_BASE_URL to where it really is"
            return OdooAlarmError(f"{text} ({self._text(problem)})", status=self.status)
        wished_s = parse_retry_after(self.headers.get("retry-after"), date=self.headers.get("date"), now_ms=self.now_ms)
        if wished_s is None and problem:
            wished_s = bounded_wait_s(problem.retry_after_s)
        return OdooUnavailableError(f"Odoo answers {self._text(problem)}", retry_after_s=wished_s)

    def _text(self, problem: OdooProblem | None) -> str:
        if problem is not None:
            return f"{self.status} {problem.code}: {printable(problem.text)}"
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return str(self.status)

    def _place(self) -> str:
        """Where a redirect leads, without what may be secret in it."""
        try:
            url = httpx.URL(self.headers.get("location", ""))
            return printable(str(url.copy_with(userinfo=b"", query=None, fragment=None)), 120) or "nowhere"
        except httpx.InvalidURL:
            return "an address that is none"


def translated(error: Exception, body_bytes: int) -> OdooError:
    """A foreign error on a request with a body of this size as one of ours."""
    name = type(error).__name__
    if isinstance(error, _CUT) and body_bytes > RESET_MEANS_TOO_LARGE_BYTES:
        return OdooTooLargeError(f"the connection was cut while sending {body_bytes} bytes ({name})", certain=False)
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return OdooUnavailableError(f"Odoo did not answer in time ({name})")
    return OdooUnavailableError(f"Odoo cannot be reached ({name}: {printable(str(error)) or 'no reason given'})")


def printable(text: str, characters: int = TEXT_CHARACTERS) -> str:
    """Foreign text for a log line or a page: one line, bounded."""
    line = "".join(character if character.isprintable() else " " for character in text[:characters])
    return line + "…" if len(text) > characters else line


def _parse(model: type[_Model], content: bytes) -> _Model | None:
    try:
        return model.model_validate_json(content)
    except ValidationError:
        return None
