"""The Jinja2 environment of command templates: what it prints is JSON, and what it may do has bounds.

Steps are counted in each rendering: passes of loops, calls, filters, and pieces of the text they handle. No text, and
not the result, may be longer than a limit. Loops cannot be ``recursive``, and filters and methods that make long texts
out of short ones (``center``, ``indent``, ``"…".format`` …) are not offered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from jinja2 import TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

CHARACTERS_PER_STEP = 256
MAX_INTEGER_BITS = 4096
_FILTERS = (
    "abs capitalize count d default dictsort first float int items last length list lower map max min reject rejectattr"
    " reverse round safe select selectattr sort string sum title trim truncate unique upper urlencode"
)
_TEXT_METHODS = (
    "capitalize count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace isupper"
    " lower lstrip removeprefix removesuffix rfind rindex rsplit rstrip split splitlines startswith strip title upper"
)
_SAFE_TEXT_METHODS = frozenset(_TEXT_METHODS.split())
_SAFE_LIST_METHODS = frozenset({"count", "index"})
_SAFE_DICT_METHODS = frozenset({"get", "items", "keys", "values"})
_wide_format = re.compile(r"\*|\d{3}").search


class OutputTooLongError(Exception):
    """A text, or the whole result, is longer than allowed."""


class _Missing(Undefined):
    """Something that is not there; the four reading methods of a dictionary are found only when they are called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self._undefined_obj, dict) and self._undefined_name in _SAFE_DICT_METHODS:
            return getattr(self._undefined_obj, self._undefined_name)(*args, **kwargs)
        return self._fail_with_undefined_error()


class _Bounds(NodeTransformer):
    """Sends every loop and every ``~`` through a filter of ours."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise TemplateSyntaxError("recursive loops are not offered", node.lineno)
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_steps", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_concat", [], [], None, None, lineno=node.lineno)


class CommandEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox; for one thread. It overrides Jinja2's own hooks, and ``_parse``, where a tree can be changed."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, max_steps: int, max_characters: int) -> None:
        # autoescape marks what is finished JSON; finalize does the escaping, so nothing is ever escaped for HTML
        super().__init__(autoescape=True, finalize=self._finalize, undefined=_Missing, optimized=False, cache_size=0)
        self._max_steps = max_steps
        self._max_characters = max_characters
        self._steps_left = max_steps
        self._params: dict[str, Any] = {}
        self._encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
        filters: dict[str, Callable[..., Any]] = {name: self.filters[name] for name in _FILTERS.split()}
        filters |= {"tojson": self._tojson, "join": self._join, "replace": self._replace, "format": self._format}
        self.filters = {name: self._charged(function) for name, function in filters.items()}
        self.filters |= {"_steps": self._counted, "_concat": self._concat}
        self.globals = {"range": self._range}

    def restart(self, params: dict[str, Any]) -> None:
        """Call before each rendering, with the parameters it gets: plain JSON, as long as its text."""
        self._steps_left = self._max_steps
        self._params = params

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Bounds().visit(super()._parse(source, name, filename))
        return tree

    # --- names: a dictionary has its own keys and nothing else -----------------------------------------------

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.attribute``"""
        return self.getitem(obj, attribute) if isinstance(obj, dict) else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``"""
        if not isinstance(obj, dict):
            return super().getitem(obj, argument)
        try:
            return obj[argument]
        except (KeyError, TypeError):
            return self.undefined(obj=obj, name=argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Plain values offer a few methods that cannot do harm."""
        if isinstance(obj, str):
            return attr in _SAFE_TEXT_METHODS
        if isinstance(obj, (list, tuple)):
            return attr in _SAFE_LIST_METHODS
        if obj is None or isinstance(obj, (int, float)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """``"…".format`` has no bounds; the filter ``format`` does."""

    # --- bounds ----------------------------------------------------------------------------------------------

    def _step(self, steps: int = 1) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise SecurityError(f"the template takes more than {self._max_steps} steps")

    def _fits(self, length: int) -> None:
        if length > self._max_characters:
            raise OutputTooLongError
        self._step(length // CHARACTERS_PER_STEP)

    def _charged(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # keeps Jinja2's marks of what the filter is to be handed
        def charged(*args: Any, **kwargs: Any) -> Any:
            sizes = [len(arg) for arg in args if isinstance(arg, (str, list, tuple, dict))]
            self._step(1 + sum(sizes) // CHARACTERS_PER_STEP)
            return function(*args, **kwargs)

        return charged

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def _range(self, *args: int) -> range:
        values = range(*args)
        if len(values) > self._max_steps:
            raise SecurityError(f"range() of more than {self._max_steps} numbers")
        return values

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call in a template comes through here; the odd names are Jinja2's."""
        __self._step()
        if isinstance(__obj, _Missing):
            return __obj(*args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators that can make something large."""
        if operator == "+":
            return self._plus(left, right)
        if operator == "%" and isinstance(left, str):
            return self._format(left, *(right if isinstance(right, tuple) else (right,)))
        if operator == "*":
            return self._times(left, right)
        if operator == "**":
            _check_bits(left, right, lambda base, power: base.bit_length() * abs(power))
        return super().call_binop(context, operator, left, right)

    def _plus(self, left: Any, right: Any) -> Any:
        if isinstance(left, str) and isinstance(right, str):
            return self._concat([left, right])
        if isinstance(left, list) and isinstance(right, list):
            self._fits(len(left) + len(right))
        return left + right

    def _times(self, left: Any, right: Any) -> Any:
        for value, times in ((left, right), (right, left)):
            if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                self._fits(len(value) * max(times, 0))
        _check_bits(left, right, lambda one, other: one.bit_length() + other.bit_length())
        return left * right

    # --- texts: beside a part that is finished JSON the plain parts are escaped, and the whole is finished -----

    def _finalize(self, value: Any) -> Any:
        """What ``{{ value }}`` prints."""
        if isinstance(value, Markup):
            return value
        if isinstance(value, str):
            return _finished(_escaped(value))
        if isinstance(value, Undefined):
            return self._printed_missing(value)
        return self._tojson(value)

    @staticmethod
    def _printed_missing(value: Undefined) -> str:
        if value._undefined_exception is SecurityError:
            value._fail_with_undefined_error()
        return ""

    def _tojson(self, value: Any, indent: int | None = None) -> Markup:
        if value is self._params and indent is None:
            text = self._encoder.encode(value)
            self._fits(len(text))
            return _finished(text)
        encoder = self._encoder
        if indent is not None:
            encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=min(max(indent, 0), 8))
        pieces: list[str] = []
        length = 0
        # piece by piece: lists that hold one list many times can stand for gigabytes
        for piece in encoder.iterencode(value):
            length += len(piece)
            if length > self._max_characters:
                raise OutputTooLongError
            pieces.append(piece)
        self._step(length // CHARACTERS_PER_STEP)
        return _finished("".join(pieces))

    def _concat(self, parts: Iterable[Any]) -> str:
        texts = [part if isinstance(part, str) else str(self._finalize(part)) for part in parts]
        self._fits(sum(map(len, texts)))
        if not any(isinstance(text, Markup) for text in texts):
            return "".join(texts)
        return _finished("".join(text if isinstance(text, Markup) else _escaped(text) for text in texts))

    def _join(self, values: Iterable[Any], separator: str = "") -> str:
        parts = list(values)
        if any(isinstance(part, Markup) for part in parts):
            # the separator is the template's own text
            separator = _finished(separator)
        joined = [item for part in parts for item in (separator, part)]
        return self._concat(joined[1:])

    def _replace(self, value: Any, old: str, new: str) -> str:
        text = value if isinstance(value, str) else str(self._finalize(value))
        if isinstance(text, Markup) and not isinstance(new, Markup):
            new = _escaped(new)
        self._fits(len(text) + str(text).count(old) * max(len(new) - len(old), 0))
        return type(text)(str(text).replace(old, str(new)))

    def _format(self, value: str, *args: Any, **kwargs: Any) -> str:
        if _wide_format(value):
            raise SecurityError("a format may be 99 characters wide at most")
        text = str(value) % (kwargs or args)
        self._fits(len(text))
        return text


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _finished(text: str) -> Markup:
    """Text that goes out as it stands; Markup is the mark that Jinja2 carries through its filters."""
    return Markup(text)  # noqa: S704 - no HTML is made here


def _check_bits(left: Any, right: Any, bits: Callable[[int, int], int]) -> None:
    if isinstance(left, int) and isinstance(right, int) and bits(left, right) > MAX_INTEGER_BITS:
        raise SecurityError("a number of the template is too large")
