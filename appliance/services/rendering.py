"""Command payloads: rendered from the device's template, or given by the caller; checked before anything is sent.

Variables of a template: ``action``, ``params``, ``device_id``, ``now()`` (RFC 3339 in UTC). What ``{{ … }}`` prints is
made for JSON:

- Text is escaped as inside a JSON string, so ``"{{ action }}"`` cannot end its own quotes. Numbers, true, false, null,
  lists and objects print as JSON. ``| safe`` switches the escaping off.
- ``tojson`` keeps the order of keys and writes Unicode as it is. It does not write ``<``, ``>``, ``&`` and ``'`` as
  ``\\u003c`` and so on, as Jinja2 does for HTML pages: a device is no browser, and a small JSON reader that does not
  know ``\\u`` would get a broken download address.
- ``params.items`` is the parameter of that name, never the method of the dictionary; where there is no such parameter,
  ``params.items()`` still works.

What a template may not do stands in :mod:`appliance.services.sandbox`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateSyntaxError
from pydantic_core import from_json, to_json

from appliance.contract.command import SendCommand
from appliance.contract.odoo import DeviceConfig
from appliance.contract.times import Clock, rfc3339
from appliance.errors import CommandRefusedError
from appliance.services.sandbox import CommandEnvironment, OutputTooLongError

MAX_OUTPUT_BYTES = 256 * 1024
MAX_TEMPLATE_CHARACTERS = 64 * 1024
MAX_STEPS = 10_000
TEMPLATES_KEPT = 256
_PACKET_ID_BYTES = 2
_LENGTH_PREFIX_BYTES = 2


class Renderer:
    """Makes command payloads. For the event loop's thread alone; compiled templates are kept.

    ``max_output_bytes`` bounds what a template may print and what a caller may hand over; ``max_steps`` what it may do.
    """

    def __init__(self, *, clock: Clock, max_output_bytes: int = MAX_OUTPUT_BYTES, max_steps: int = MAX_STEPS) -> None:
        self._clock = clock
        self._max_output_bytes = max_output_bytes
        self._environment = CommandEnvironment(max_steps=max_steps, max_characters=max_output_bytes)
        self._compiled: Callable[[str], Template] = lru_cache(TEMPLATES_KEPT)(self._compile)

    def command_payload(self, order: SendCommand, *, command_id: str, config: DeviceConfig, topic: str) -> bytes:
        """The bytes to send for an order.

        :class:`CommandRefusedError` with ``command_template``, ``command_not_json`` or ``command_too_large``.
        """
        if order.payload is None:
            payload = self._rendered(order, command_id, config)
        else:
            payload = _given(order.payload)
            if len(payload) > self._max_output_bytes:
                raise _too_long(self._max_output_bytes)
        packet_bytes = publish_bytes(topic, payload)
        if config.max_packet_bytes is not None and packet_bytes > config.max_packet_bytes:
            message = f"the packet would have {packet_bytes} bytes, the device takes {config.max_packet_bytes} at most"
            raise CommandRefusedError(message, code="command_too_large")
        return payload

    def render(self, template: str, *, action: str, params: dict[str, Any], device_id: str) -> str:
        """The template's text. :class:`CommandRefusedError` with ``command_template`` or ``command_too_large``."""
        compiled = self._compiled(template)
        self._environment.restart(params)
        pieces: list[str] = []
        length = 0
        try:
            for piece in compiled.generate(action=action, params=params, device_id=device_id, now=self._now):
                length += len(piece)
                if length > self._max_output_bytes:
                    raise OutputTooLongError
                pieces.append(piece)
            text = "".join(pieces)
            # inside the try block: text of a caller may hold half a surrogate pair, which is no UTF-8
            if len(text.encode()) > self._max_output_bytes:
                raise OutputTooLongError
        except OutputTooLongError:
            raise _too_long(self._max_output_bytes) from None
        except Exception as error:  # a template may fail in any way: it is a program
            raise _failed(error) from None
        return text

    def _rendered(self, order: SendCommand, command_id: str, config: DeviceConfig) -> bytes:
        text = self.render(config.command_template, action=order.action, params=order.params, device_id=order.device_id)
        try:
            value = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            if config.command_is_json:
                message = f"the device's commands must be JSON, the template gave something else: {error}"
                raise CommandRefusedError(message, code="command_not_json") from None
            return text.encode()
        text = text.strip()
        if config.command_add_id and type(value) is dict and "command_id" not in value:
            text = _with_id(text, command_id, empty=not value)
        return text.encode()

    def _compile(self, template: str) -> Template:
        if len(template) > MAX_TEMPLATE_CHARACTERS:
            raise CommandRefusedError(f"the command template is longer than {MAX_TEMPLATE_CHARACTERS} characters")
        try:
            return self._environment.from_string(template)
        except TemplateSyntaxError as error:
            message = f"the command template is wrong in line {error.lineno}: {error.message}"
            raise CommandRefusedError(message) from None
        except Exception as error:  # nested too deeply, for instance
            raise _failed(error) from None

    def _now(self) -> str:
        return rfc3339(self._clock.now_ms())


def publish_bytes(topic: str, payload: bytes) -> int:
    """Size of the whole MQTT PUBLISH packet at QoS 1: fixed header, topic, packet id, payload (MQTT 3.1.1 §3.3)."""
    rest = _LENGTH_PREFIX_BYTES + len(topic.encode()) + _PACKET_ID_BYTES + len(payload)
    length_bytes = 1 + (rest >= 1 << 7) + (rest >= 1 << 14) + (rest >= 1 << 21)
    return 1 + length_bytes + rest


def _given(payload: str | dict[str, Any] | list[Any]) -> bytes:
    """A caller's own payload, as it is: it was rendered and checked where it comes from, and nothing is added."""
    try:
        return payload.encode() if isinstance(payload, str) else to_json(payload, inf_nan_mode="constants")
    except ValueError as error:  # half a surrogate pair; nested too deeply
        raise CommandRefusedError(f"the payload cannot be written as UTF-8: {error}", code="bad_request") from None


def _with_id(text: str, command_id: str, *, empty: bool) -> str:
    """``command_id`` as the last key; everything before it stays as the template wrote it."""
    body = text[:-1].rstrip()
    return f'{body}{"" if empty else ", "}"command_id": "{command_id}"{text[len(body) :]}'


def _too_long(limit_bytes: int) -> CommandRefusedError:
    return CommandRefusedError(f"the command would be longer than {limit_bytes} bytes", code="command_too_large")


def _failed(error: Exception) -> CommandRefusedError:
    # the text may repeat parameters, so it is cut
    return CommandRefusedError(f"the command template failed: {type(error).__name__}: {str(error)[:200]}")
