"""The OpenAPI 3.1 document: what is really taken and sent, written by the schemas that take and send it."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from types import ModuleType
from typing import Any

import flask_smorest
from flask import Flask
from marshmallow import Schema, fields

from app.web.arguments import Arguments, CommaSeparated, Envelope, Text
from app.web.context import context_of
from app.web.formats import Amount, Instant
from app.web.problems import MEDIA_TYPE, Code
from settings import VERSION

KEY = "openapi"
METHODS = {"get", "post"}

DESCRIPTION = """
Market data of many upstreams in one shape.

* **Times** are RFC 3339 in UTC (`2026-01-31T12:00:00Z`), with microseconds only where there are any.
* **Prices and supplies** are text in plain notation (`"0.0000001"`): every digit, where a JSON number would lose some.
* **Lists** answer `data` and `pagination`. Follow `next_cursor`; any page is as quick as the first.
* **Nothing is ignored**: an unknown parameter, source or member is a 422 that names the nearest known one.
* **Every answer** carries `request_id` (yours, where you send `X-Request-ID`) and `api_latency_seconds`.
* **Writes** need `Authorization: Bearer <API_TOKEN>`.

Errors are `application/problem+json` (RFC 9457). Their `code` is one of:

| code | status | meaning |
| --- | --- | --- |
"""


class PartSchema(Schema):
    """A part of the request that is at fault."""

    in_ = fields.String(data_key="in", metadata={"enum": ["query", "body", "header", "path"]})
    name = fields.String()
    detail = fields.String()


class ProblemSchema(Envelope):
    """Why the answer is not what was asked for, and what to do about it (RFC 9457)."""

    type = fields.String(metadata={"format": "uri-reference", "description": "Where the code is explained."})
    title = fields.String()
    status = fields.Integer()
    detail = fields.String(metadata={"description": "What is wrong in this case."})
    instance = fields.String(metadata={"format": "uri-reference"})
    code = fields.String(metadata={"enum": [code.slug for code in Code]})
    hint = fields.String(metadata={"description": "What to do."})
    errors = fields.List(fields.Nested(PartSchema))


class _Api(flask_smorest.Api):
    ERROR_SCHEMA = ProblemSchema

    def _register_responses(self) -> None:
        for name, status in {**HTTPStatus.__members__, "DEFAULT_ERROR": None}.items():
            answer = {
                "description": status.phrase if status else "Any other problem.",
                "content": {MEDIA_TYPE: {"schema": ProblemSchema}},
            }
            self.spec.components.response(name, answer, lazy=True)

    def _register_error_handlers(self) -> None:
        """app/web/problems.py has them."""


def install(app: Flask, resources: Iterable[ModuleType]) -> None:
    app.config.update(API_TITLE="Kasparro", API_VERSION=VERSION, OPENAPI_VERSION="3.1.0")
    codes = "\n".join(f"| `{code.slug}` | {code.status} | {code.about} |" for code in Code)
    api = _Api(app, spec_kwargs={"info": {"description": DESCRIPTION + codes}})
    for field in (Text, Amount):
        api.register_field(field, "string", None)
    api.register_field(Instant, "string", "date-time")
    api.ma_plugin.converter.add_attribute_function(_choices)
    api.ma_plugin.converter.add_parameter_attribute_function(_separated_by_commas)
    for resource in resources:
        api.register_blueprint(resource.blueprint)
    app.extensions[KEY] = _finished(api, reads_need_token=context_of(app).settings.reads_need_token)


def document(app: Flask) -> Any:
    return app.extensions[KEY]


def _choices(converter: Any, field: fields.Field[Any], **_: Any) -> dict[str, Any]:
    if not isinstance(field, CommaSeparated):
        return {}
    return {
        "type": "array",
        "items": {"type": "string", "enum": list(field.choices)},
        "minItems": 1,
        "default": list(field.choices),
    }


def _separated_by_commas(converter: Any, field: fields.Field[Any], **_: Any) -> dict[str, Any]:
    return {"style": "form", "explode": False} if isinstance(field, CommaSeparated) else {}


def _finished(api: _Api, *, reads_need_token: bool) -> dict[str, Any]:
    """The generated document, with what the generator does not see: docstrings, what is always there, who may."""
    found: dict[str, Any] = api.spec.to_dict()
    schemas = found["components"]["schemas"]
    for key, name in api.ma_plugin.converter.refs.items():
        _describe(schemas[name], key[0])
    found["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "The API_TOKEN that the service was started with."}
    }
    found["components"]["responses"].setdefault("UNAUTHORIZED", _unauthorized())
    used = {tag for path in found["paths"].values() for method in METHODS & set(path) for tag in path[method]["tags"]}
    found["tags"] = [tag for tag in found["tags"] if tag["name"] in used]
    if reads_need_token:
        found["security"] = [{"token": []}]
    for path in found["paths"].values():
        for method in METHODS & set(path):
            operation = path[method]
            if method == "post":
                operation["security"] = [{"token": []}]
            if method == "post" or (reads_need_token and operation.get("security") != []):
                operation["responses"]["401"] = {"$ref": "#/components/responses/UNAUTHORIZED"}
    return found


def _describe(schema: dict[str, Any], written_by: type[Schema]) -> None:
    if written_by.__doc__ and "__doc__" in vars(written_by):
        schema["description"] = written_by.__doc__.strip()
    if not issubclass(written_by, Arguments) and not getattr(written_by, "partial_answer", False):
        schema["required"] = list(schema["properties"])
    schema.update(getattr(written_by, "also", {}))


def _unauthorized() -> dict[str, Any]:
    return {
        "description": "The bearer token is missing or wrong.",
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
