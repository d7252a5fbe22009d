"""Command payloads: rendered from a profile's template, and checked before anything is kept.

The same template gives the same bytes here and in the appliance (``appliance/services/rendering.py``): both pass the
table in ``tests/services/command_templates.json``, and share the sandbox. Variables of a template: ``action``,
``params``, ``device_id``, ``now()`` (RFC 3339 in UTC).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateSyntaxError

from .json_text import loads
from .sandbox import CommandEnvironment, OutputTooLongError
from .times import rfc3339
from .worded import Worded, WordedError, _, worded

DEFAULT_TEMPLATE = '{"action": "{{ action }}", "params": {{ params | tojson }}}'
MAX_OUTPUT_BYTES = 256 * 1024
MAX_TEMPLATE_CHARACTERS = 64 * 1024
MAX_STEPS = 10_000
TEMPLATES_KEPT = 256
_PACKET_ID_BYTES = 2
_LENGTH_PREFIX_BYTES = 2
_OF_THE_SANDBOX = {
    text % {"most": MAX_STEPS}: Worded(text, most=MAX_STEPS)
    for text in (
        _("the template takes more than %(most)s steps"),
        _("range() of more than %(most)s numbers"),
        _("recursive loops are not offered"),
        _("a format may be 99 characters wide at most"),
        _("a number of the template is too large"),
    )
}
"""What the sandbox says, which is the appliance's as well and has no words of languages."""


class RenderingError(WordedError):
    """Why there is no payload: ``code`` as the appliance names it, ``line`` of the template where it is known."""

    def __init__(self, code: str, text: str, /, line: int | None = None, **values: Any) -> None:
        super().__init__(text, **values)
        self.code = code
        self.line = line

    @property
    def template_line(self) -> int:
        """The line of the template, 0 where it is unknown: of a text that is no JSON, ``line`` is its own."""
        return self.line or 0 if self.code == "command_template" else 0


def utc_now() -> datetime:
    """Naive UTC, as all times here."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


class Renderer:
    """Makes command payloads, for one thread at a time; compiled templates are kept."""

    def __init__(self, *, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._environment = CommandEnvironment(max_steps=MAX_STEPS, max_characters=MAX_OUTPUT_BYTES)
        self._compiled: Callable[[str], Template] = lru_cache(TEMPLATES_KEPT)(self._compile)
        self._lock = threading.Lock()

    def payload(
        self,
        template: str,
        *,
        action: str,
        params: dict[str, Any],
        device_id: str,
        is_json: bool = True,
        command_id: str | None = None,
    ) -> str:
        """What is sent. ``command_id`` is added as the last key of an object without one, where it is given.

        ``RenderingError``: ``command_template``, ``command_not_json`` or ``command_too_large``.
        """
        text = self.render(template, action=action, params=params, device_id=device_id)
        try:
            value = loads(text)
        except ValueError as error:
            if is_json:
                told = _(
                    "commands of this configuration template must be JSON, its command template gave something else: "
                    "%(why)s"
                )
                line = getattr(error, "lineno", None)
                raise RenderingError("command_not_json", told, line, why=worded(error)) from None
            return text
        text = text.strip()
        if command_id is not None and type(value) is dict and "command_id" not in value:
            text = _with_id(text, command_id, empty=not value)
        return text

    def render(self, template: str, *, action: str, params: dict[str, Any], device_id: str) -> str:
        """The template's text; ``RenderingError`` with ``command_template`` or ``command_too_large``."""
        with self._lock:
            compiled = self._compiled(template)
            self._environment.restart(params)
            pieces: list[str] = []
            length = 0
            try:
                for piece in compiled.generate(
                    action=action, params=params, device_id=device_id, now=lambda: rfc3339(self._now())
                ):
                    length += len(piece)
                    if length > MAX_OUTPUT_BYTES:
                        raise OutputTooLongError
                    pieces.append(piece)
                text = "".join(pieces)
                # inside the try block: text of a caller may hold half a surrogate pair, which is no UTF-8
                if len(text.encode()) > MAX_OUTPUT_BYTES:
                    raise OutputTooLongError
            except OutputTooLongError:
                raise _too_long() from None
            except Exception as error:  # a template may fail in any way: it is a program
                raise _failed(error) from None
            return text

    def check(self, template: str) -> None:
        """``RenderingError`` with the line where the template is no template."""
        with self._lock:
            self._compiled(template)

    def _compile(self, template: str) -> Template:
        if len(template) > MAX_TEMPLATE_CHARACTERS:
            told = _("the command template is longer than %(most)s characters")
            raise RenderingError("command_template", told, most=MAX_TEMPLATE_CHARACTERS)
        try:
            return self._environment.from_string(template)
        except TemplateSyntaxError as error:
            told = _("the command template is wrong in line %(number)s: %(why)s")
            why = _OF_THE_SANDBOX.get(error.message or "", error.message)
            raise RenderingError("command_template", told, error.lineno, number=error.lineno, why=why) from None
        except Exception as error:  # nested too deeply, for instance
            raise _failed(error) from None


def publish_bytes(topic: str, payload: bytes) -> int:
    """Size of the whole MQTT PUBLISH packet at QoS 1: fixed header, topic, packet id, payload (MQTT 3.1.1 §3.3)."""
    rest = _LENGTH_PREFIX_BYTES + len(topic.encode()) + _PACKET_ID_BYTES + len(payload)
    length_bytes = 1 + (rest >= 1 << 7) + (rest >= 1 << 14) + (rest >= 1 << 21)
    return 1 + length_bytes + rest


def packet_too_large(packet_bytes: int, most: int) -> RenderingError:
    """What is said of a command that the device would not take."""
    told = _("the packet would have %(bytes)s bytes, the device takes %(most)s at most")
    return RenderingError("command_too_large", told, bytes=packet_bytes, most=most)


def _with_id(text: str, command_id: str, *, empty: bool) -> str:
    """``command_id`` as the last key; everything before it stays as the template wrote it."""
    body = text[:-1].rstrip()
    return f'{body}{"" if empty else ", "}"command_id": "{command_id}"{text[len(body) :]}'


def _too_long() -> RenderingError:
    return RenderingError(
        "command_too_large", _("the command would be longer than %(most)s bytes"), most=MAX_OUTPUT_BYTES
    )


def _failed(error: Exception) -> RenderingError:
    # the text may repeat parameters, so it is cut
    why = _OF_THE_SANDBOX.get(str(error)) or f"{type(error).__name__}: {str(error)[:200]}"
    return RenderingError("command_template", _("the command template failed: %(why)s"), _line_of(error), why=why)


def _line_of(error: Exception) -> int | None:
    """The template's line in which a rendering failed: Jinja2 rewrites the traceback to show it."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
