"""A line for each route: what serves it, which key it needs, and what :mod:`appliance.web.openapi` tells of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from appliance.services.api_keys import Scope
from appliance.web.auth import Endpoint, KeyGuard

JSON = "application/json"
_ATTRIBUTE = "__described__"
EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Media:
    """An answer that is no JSON, or JSON that has no model."""

    media_type: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an endpoint takes and answers, beside what every route of its kind does."""

    answers: Mapping[int, Any]
    """By status: a model of the JSON, a :class:`Media` or a list of them, or ``None`` where there is no body."""
    problems: Mapping[int, str]
    """By status: when there is a problem document in its place."""
    body: type[BaseModel] | None
    body_optional: bool
    form: bool
    """Whether the body is a form in place of JSON."""
    query: type[BaseModel] | None
    security: tuple[str, ...]
    """Further schemes, any of which will do; for routes that are open to everybody."""


def describes(
    answer: Any = None,
    *,
    status: int = 200,
    answers: Mapping[int, Any] | None = None,
    problems: Mapping[int, str] | None = None,
    body: type[BaseModel] | None = None,
    body_optional: bool = False,
    form: bool = False,
    query: type[BaseModel] | None = None,
    security: tuple[str, ...] = (),
) -> Callable[[EndpointT], EndpointT]:
    """Write what an endpoint takes and answers next to it; its docstring is the text.

    ``answer`` is the model of its JSON under ``status`` (or :class:`Media`), ``answers`` are further ones by status,
    ``problems`` says when which status comes with a problem document. What all routes may answer need not be named.
    """
    description = Description(
        answers={**({} if answer is None else {status: answer}), **(answers or {})},
        problems=problems or {},
        body=body,
        body_optional=body_optional,
        form=form,
        query=query,
        security=security,
    )

    def decorate(endpoint: EndpointT) -> EndpointT:
        setattr(endpoint, _ATTRIBUTE, description)
        return endpoint

    return decorate


@dataclass(frozen=True, slots=True)
class Line:
    """One method of one path."""

    method: str
    path: str
    endpoint: Endpoint
    open: bool = False
    """Served without a key."""
    scope: Scope | None = None
    """What the key must be good for; left out: ``read`` for GET, else ``operate``."""

    @property
    def needs(self) -> Scope | None:
        """The scope, or ``None`` where no key is needed."""
        return None if self.open else self.scope or ("read" if self.method == "GET" else "operate")

    @property
    def description(self) -> Description | None:
        """What :func:`describes` says of the endpoint, if it says anything."""
        return getattr(self.endpoint, _ATTRIBUTE, None)


def routes(lines: Iterable[Line], guard: KeyGuard) -> list[Route]:
    """One route for each path. Starlette answers a wrong method by the first route whose path fits, and names only
    that one's methods in ``Allow``: so the methods of a path must share a route."""
    paths: dict[str, dict[str, Endpoint]] = {}
    for line in lines:
        paths.setdefault(line.path, {})[line.method] = (
            line.endpoint if line.needs is None else guard.keyed(line.endpoint, line.needs)
        )
    return [Route(path, _dispatch(methods), methods=list(methods)) for path, methods in paths.items()]


def _dispatch(methods: dict[str, Endpoint]) -> Endpoint:
    async def dispatch(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await methods[method](request)

    return dispatch
