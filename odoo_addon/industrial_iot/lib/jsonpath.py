"""JSONPath as telemetry rules and metrics use it: plain, bounded, compiled once.

jsonpath-ng reads the path; what it reads is then held against a list of what is offered: names, indices, slices, ``*``,
and one filter with plain comparisons. Not ``..``, not regular expressions, not arithmetic: their time has no bound.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from jsonpath_ng import Child, Fields, Index, Root, Slice, This
from jsonpath_ng.ext import parse
from jsonpath_ng.ext.filter import Expression, Filter

from .worded import WordedError, _

MAX_CHARACTERS = 255
MAX_STEPS = 16
MAX_CONDITIONS = 4
MAX_MATCHES = 1000
_OPERATORS = frozenset(("=", "==", "!=", "<", "<=", ">", ">=", None))


class PathError(WordedError):
    """A path that is no JSONPath or is not offered; the text says what is wrong, for people."""


class Path:
    """A compiled path. ``values(payload)`` are the values it finds, in the order of the payload."""

    def __init__(self, text: str) -> None:
        self.text = text
        steps = _steps(_parsed(text))
        self._keys = _keys(steps)
        self._find: Callable[[Any], Any] = _parsed(text).find if self._keys is None else _nothing

    def values(self, payload: Any) -> list[Any]:
        """What the path finds in a payload, at most 1,000 values; ``PathError`` where it cannot be looked for."""
        if self._keys is None:
            try:
                return [match.value for match in self._find(payload)[:MAX_MATCHES]]
            except Exception as error:  # the library raises what it meets: a comparison of a text with a number
                raise PathError(_("%(path)s: %(why)s"), path=self.text, why=str(error)) from None
        for key in self._keys:
            if isinstance(key, str):
                if not isinstance(payload, dict) or key not in payload:
                    return []
            elif not isinstance(payload, list) or not -len(payload) <= key < len(payload):
                return []
            payload = payload[key]
        return [payload]


def _nothing(payload: Any) -> list[Any]:
    return []


@lru_cache(maxsize=1024)
def compile_path(text: str) -> Path:
    """``text`` as a path; ``PathError`` says why not."""
    return Path(text)


def compile_metric(text: str) -> Path:
    """A metric of a profile: a JSONPath where it begins with ``$``, otherwise the very name of a key."""
    if text.startswith("$"):
        return compile_path(text)
    return compile_path("$['" + text.replace("\\", "\\\\").replace("'", "\\'") + "']")


def _parsed(text: str) -> Any:
    text = text.strip()
    if not text:
        raise PathError(_("the path is empty"))
    if len(text) > MAX_CHARACTERS:
        raise PathError(_("a path has at most %(most)s characters"), most=MAX_CHARACTERS)
    try:
        return parse(text)
    except Exception as error:  # the library raises Exception itself for what it cannot read
        raise PathError(_("%(path)s is not a JSONPath: %(why)s"), path=text, why=str(error)) from None


def _steps(node: Any) -> list[Any]:
    """The steps of a path from left to right; ``PathError`` for one that is not offered."""
    steps: list[Any] = []
    waiting = [node]
    while waiting:
        step = waiting.pop()
        if isinstance(step, Child):
            waiting += [step.right, step.left]
            continue
        # newer releases of the library have a class of its own for what older ones call the field "*"
        if type(step) not in (Root, This, Fields, Index, Slice, Filter) and _name(step) != "Wildcard":
            raise PathError(
                _("%(step)s is not supported in a path: use names, [0], [*] and one plain filter"), step=_name(step)
            )
        steps.append(step)
    if len(steps) > MAX_STEPS:
        raise PathError(_("a path has at most %(most)s steps"), most=MAX_STEPS)
    filters = [step for step in steps if isinstance(step, Filter)]
    if len(filters) > 1:
        raise PathError(_("a path has at most one filter"))
    for condition in filters[0].expressions if filters else ():
        _check_condition(condition)
    if filters and len(filters[0].expressions) > MAX_CONDITIONS:
        raise PathError(_("a filter has at most %(most)s conditions"), most=MAX_CONDITIONS)
    return steps


def _check_condition(condition: Any) -> None:
    if not isinstance(condition, Expression) or condition.op not in _OPERATORS:
        raise PathError(_("a filter compares by ==, !=, <, <=, > or >="))
    for step in _steps(condition.target):
        if not isinstance(step, (This, Root, Fields, Index)):
            raise PathError(_("a filter compares values by their names"))


def _name(step: Any) -> str:
    return ".." if type(step).__name__ == "Descendants" else type(step).__name__


def _keys(steps: list[Any]) -> list[str | int] | None:
    """The keys and indices of a path that leads to one place: looked up directly, ten times as fast as searched."""
    keys: list[str | int] = []
    for step in steps:
        if isinstance(step, (Root, This)):
            continue
        if isinstance(step, Fields) and len(step.fields) == 1 and step.fields[0] != "*":
            keys.append(step.fields[0])
        elif isinstance(step, Index) and _index(step) is not None:
            keys.append(_index(step))
        else:
            return None
    return keys


def _index(step: Any) -> Any:
    """The number of an index; newer releases of the library keep several."""
    if hasattr(step, "index"):
        return step.index
    return step.indices[0] if len(step.indices) == 1 else None
