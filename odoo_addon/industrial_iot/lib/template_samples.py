"""Trying a command template before it is saved: with its parameters as numbers, as texts, and missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

from .rendering import Renderer, RenderingError

SAMPLE_TEXT = "Ünï \"quoted\" 'ok' \\ 重置"
SAMPLE_NUMBER = 7
OTHER_ACTION = "any_other_action"
MOST_ACTIONS = 20
LONGEST_LIST = 20


@dataclass(frozen=True)
class Trial:
    """One rendering: of what, and what came of it."""

    action: str
    kind: str
    """``numbers``, ``texts`` or ``missing``: what the parameters were."""
    params: dict[str, Any]
    payload: str | None
    error: RenderingError | None


def named_in(template: str) -> tuple[list[str], list[tuple[str | int, ...]]]:
    """The actions that a template compares ``action`` with, and the paths of the parameters that it reads."""
    try:
        tree = Environment(autoescape=True).parse(template)
    except (TemplateSyntaxError, RecursionError):
        return [], []
    actions: list[str] = []
    for compare in tree.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        if any(isinstance(side, nodes.Name) and side.name == "action" for side in sides):
            actions += [text for side in sides for text in _texts(side)]
    # params.items() is the method, params.items a parameter
    methods = {id(call.node) for call in tree.find_all(nodes.Call)}
    read = [node for node in tree.find_all((nodes.Getattr, nodes.Getitem)) if id(node) not in methods]
    paths = {path for node in read if (path := _path(node))}
    return list(dict.fromkeys(actions))[:MOST_ACTIONS], sorted(paths, key=str)


def trials(renderer: Renderer, template: str, *, is_json: bool) -> Iterator[list[Trial]]:
    """For each action that the template knows, and for one that it does not: what comes of it."""
    actions, paths = named_in(template)
    filled = {
        "numbers": _sample(paths, SAMPLE_NUMBER),
        "texts": _sample(paths, SAMPLE_TEXT),
        "missing": {},
    }
    for action in [*actions, OTHER_ACTION]:
        yield [_try(renderer, template, action, kind, params, is_json) for kind, params in filled.items()]


def _try(renderer: Renderer, template: str, action: str, kind: str, params: dict[str, Any], is_json: bool) -> Trial:
    try:
        text = renderer.payload(template, action=action, params=params, device_id="device-01", is_json=is_json)
    except RenderingError as error:
        return Trial(action, kind, params, None, error)
    return Trial(action, kind, params, text, None)


def _texts(node: nodes.Node) -> list[str]:
    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return [text for item in node.items for text in _texts(item)]
    return []


def _path(node: nodes.Node) -> tuple[str | int, ...] | None:
    """``params.a['b'][0]`` as ``("a", "b", 0)``; ``None`` for what does not begin with ``params``."""
    steps: list[str | int] = []
    while True:
        if isinstance(node, nodes.Getattr):
            steps.append(node.attr)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            if not isinstance(node.arg.value, (str, int)):
                return None
            steps.append(node.arg.value)
        elif isinstance(node, nodes.Name) and node.name == "params":
            return tuple(reversed(steps)) or None
        else:
            return None
        node = node.node


def _sample(paths: list[tuple[str | int, ...]], value: Any) -> dict[str, Any]:
    """Parameters in which each path leads to ``value``, or on to what is inside."""
    params: dict[str, Any] = {}
    for path in paths:
        if not any(other[: len(path)] == path for other in paths if other != path):
            _put(params, path, value)
    return params


def _put(place: Any, path: tuple[str | int, ...], value: Any) -> None:
    for position, step in enumerate(path):
        following = path[position + 1] if position + 1 < len(path) else None
        inner: Any = value if following is None else [] if isinstance(following, int) else {}
        if isinstance(place, dict) and isinstance(step, str):
            place = place.setdefault(step, inner)
        elif isinstance(place, list) and isinstance(step, int) and 0 <= step < LONGEST_LIST:
            place += [inner if index == step else {} for index in range(len(place), step + 1)]
            place = place[step]
        else:
            return
