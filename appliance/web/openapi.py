"""``GET /openapi.json``: the API as an OpenAPI 3.1 document, made from the table of routes and the models they use."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from appliance.contract.problems import MEDIA_TYPE as PROBLEM_TYPE
from appliance.contract.problems import ProblemCode
from appliance.web.bodies import json_response
from appliance.web.mqtt_socket import PATH as MQTT_PATH
from appliance.web.routes import JSON, Description, Line, Media, describes

_Schemas = dict[type[BaseModel], dict[str, Any]]
_REF = "#/components/schemas/"
_ALWAYS = {
    400: "the request cannot be understood",
    413: "the body is too large",
    429: "too many requests; Retry-After says when to come again",
    500: "an unexpected error; the appliance's log has it",
}
_KEYED = {
    401: "no key, or none that is valid",
    403: "the key's scope is not enough",
    503: "the store cannot be asked now; Retry-After says when to come again",
}
_BODY = {408: "the body did not arrive in time", 415: "the body is no JSON", 422: "a field of the body is wrong"}
_QUERY = {422: "a parameter is wrong"}
_PROBLEM = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"enum": list(get_args(ProblemCode)), "description": "Stable, for programs."},
        "detail": {"type": "string", "description": "For people."},
        "retry_after_s": {"type": "integer", "description": "As the header Retry-After."},
        "request_id": {"type": "string", "description": "Of a request for a configuration."},
        "errors": {
            "type": "array",
            "description": "What is wrong with which field.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key; the scope is named as a role."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in its own header."},
    "device": {"type": "http", "scheme": "basic", "description": "A paired device: its id and its secret."},
}


class OpenApiRoute:
    """``/openapi.json``; ``lines`` may still grow until the first request."""

    def __init__(self, lines: Sequence[Line], *, version: str, sockets: bool) -> None:
        self._lines = lines
        self._version = version
        self._sockets = sockets
        self._document: bytes | None = None

    @describes(Media(JSON, {"type": "object"}))
    async def document(self, _: Request) -> Response:
        """This document."""
        if self._document is None:
            self._document = to_json(document(self._lines, version=self._version, sockets=self._sockets))
        return json_response(self._document)


def document(lines: Iterable[Line], *, version: str, sockets: bool) -> dict[str, Any]:
    """All lines that are described, as an OpenAPI 3.1 document."""
    described = [(line, line.description) for line in lines]
    known = [(line, description) for line, description in described if description is not None]
    models = list(dict.fromkeys(_models(description for _, description in known)))
    references, definitions = models_json_schema(models, ref_template=_REF + "{model}")
    schemas: _Schemas = {model: references[model, mode] for model, mode in models}
    components = {**definitions.get("$defs", {}), "Problem": _PROBLEM}
    paths: dict[str, dict[str, Any]] = {}
    for line, description in known:
        paths.setdefault(line.path, {})[line.method.lower()] = _operation(line, description, schemas, components)
    if sockets:
        paths[MQTT_PATH] = {"get": _SOCKET}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "IIoT Edge Appliance",
            "version": version,
            "description": "For Odoo and for people. Every error is a problem document with a stable `code`.",
            "license": {"name": "LGPL-3.0-or-later", "identifier": "LGPL-3.0-or-later"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY},
    }


def _models(descriptions: Iterable[Description]) -> Iterator[tuple[type[BaseModel], JsonSchemaMode]]:
    for description in descriptions:
        for model in (description.body, description.query):
            if model is not None:
                yield model, "validation"
        for answer in description.answers.values():
            if inspect.isclass(answer) and issubclass(answer, BaseModel):
                yield answer, "serialization"


def _operation(line: Line, description: Description, schemas: _Schemas, components: dict[str, Any]) -> dict[str, Any]:
    text = inspect.cleandoc(line.endpoint.__doc__ or "")
    summary, _, more = text.partition("\n\n")
    owner = type(getattr(line.endpoint, "__self__", None)).__name__.removesuffix("Routes").removesuffix("Route")
    operation: dict[str, Any] = {
        "operationId": f"{owner}_{line.endpoint.__name__}",
        "tags": [owner],
        "summary": _plain(summary),
        "parameters": [*_path_parameters(line.path), *_query_parameters(description.query, schemas, components)],
        "responses": _answers(line, description, schemas),
        "security": _security(line, description),
    }
    if more:
        operation["description"] = _plain(more)
    if description.body is not None:
        media_type = "application/x-www-form-urlencoded" if description.form else JSON
        operation["requestBody"] = {
            "required": not description.body_optional,
            "content": {media_type: {"schema": schemas[description.body]}},
        }
    return operation


def _plain(text: str) -> str:
    """A docstring's text on one line."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)", path)
    ]


def _query_parameters(
    model: type[BaseModel] | None, schemas: _Schemas, components: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if model is None:
        return
    schema = components[schemas[model]["$ref"].removeprefix(_REF)]
    for name, field in schema["properties"].items():
        yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": field}


def _security(line: Line, description: Description) -> list[dict[str, list[str]]]:
    if line.needs is not None:
        return [{"bearer": [line.needs]}, {"header": [line.needs]}]
    # an empty requirement: without any of them will do too
    schemes: list[dict[str, list[str]]] = [{scheme: []} for scheme in description.security]
    return [{}, *schemes] if schemes else []


def _answers(line: Line, description: Description, schemas: _Schemas) -> dict[str, Any]:
    found = {str(status): _answer(status, answer, schemas) for status, answer in description.answers.items()}
    problems = dict(_ALWAYS)
    if line.needs is not None:
        problems |= _KEYED
    if description.query is not None:
        problems |= _QUERY
    if description.body is not None and not description.form:
        problems |= _BODY
    for status, text in description.problems.items():
        problems[status] = f"{problems[status]}; {text}" if status in problems else text
    for status, text in problems.items():
        schema = {"schema": {"$ref": f"{_REF}Problem"}}
        present = found.setdefault(str(status), {"description": text})
        present.setdefault("content", {})[PROBLEM_TYPE] = schema
        if status in (429, 503):
            present["headers"] = {"Retry-After": {"description": "Whole seconds.", "schema": {"type": "integer"}}}
    return dict(sorted(found.items()))


def _answer(status: int, answer: Any, schemas: _Schemas) -> dict[str, Any]:
    text = "what was asked for" if status < 300 else "elsewhere" if status < 400 else "not as wished"
    if answer is None:
        return {"description": text}
    if isinstance(answer, Media):
        answer = [answer]
    if isinstance(answer, list):
        return {"description": text, "content": {each.media_type: {"schema": dict(each.schema)} for each in answer}}
    return {"description": text, "content": {JSON: {"schema": schemas[answer]}}}


_SOCKET = {
    "operationId": "Mqtt_socket",
    "tags": ["Mqtt"],
    "summary": "MQTT over WebSocket, sub-protocol mqtt.",
    "responses": {
        "101": {"description": "MQTT in binary frames from here on"},
        **{
            status: {"description": text, "content": {PROBLEM_TYPE: {"schema": {"$ref": f"{_REF}Problem"}}}}
            for status, text in (
                ("400", "the sub-protocol mqtt was not offered"),
                ("426", "a plain request"),
                ("429", _ALWAYS[429]),
                ("503", "the appliance stops"),
            )
        },
    },
    "security": [],
}
