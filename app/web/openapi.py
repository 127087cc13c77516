"""Generate the OpenAPI 3.1 document from the schemas that parse requests and serialize responses."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from types import ModuleType
from typing import Any

import flask_smorest
from flask import Flask
from marshmallow import Schema, fields

from app.web.arguments import Arguments, CommaSeparated, Text
from app.web.context import context_of
from app.web.envelope import Envelope
from app.web.formats import Amount, Instant
from app.web.problems import MEDIA_TYPE, Code
from settings import VERSION

KEY = "openapi"
METHODS = {"get", "post"}
BODY_ERRORS = {"400": "BAD_REQUEST", "413": "REQUEST_ENTITY_TOO_LARGE", "415": "UNSUPPORTED_MEDIA_TYPE"}
"""The errors of every operation with a body."""

DESCRIPTION = """
Market data from many upstreams in one format.

* **Times** are RFC 3339 in UTC (`2026-01-31T12:00:00Z`), with microseconds only if they are not zero.
* **Prices and supplies** are strings in plain notation (`"0.0000001"`), since JSON numbers can lose digits.
* **Lists** return `data` and `pagination`. Follow `next_cursor`; every page is as fast as the first.
  `/rejects/reasons` and `/dropped-values` return `data` and `has_more`, since they have only one page.
* **Unknown parameters**, members, and sources in a parameter are rejected with a 422 that suggests the nearest known
  name. An unknown source in a path is a 404.
* **Every response** has `request_id` (your `X-Request-ID`, if you send one) and `api_latency_seconds`.
* **Writes** need `Authorization: Bearer <API_TOKEN>`.

Errors are `application/problem+json` (RFC 9457). Each has one of these codes:

| Code | Status | Meaning and next step |
| --- | --- | --- |
"""


class PartSchema(Schema):
    """One invalid part of a request."""

    in_ = fields.String(data_key="in", metadata={"enum": ["query", "body", "header", "path"]})
    name = fields.String()
    detail = fields.String()


class ProblemSchema(Envelope):
    """An error, and the next step (RFC 9457)."""

    type = fields.String(metadata={"format": "uri-reference", "description": "The path that describes the code."})
    title = fields.String()
    status = fields.Integer()
    detail = fields.String(metadata={"description": "What went wrong with this request."})
    instance = fields.String(metadata={"format": "uri-reference"})
    code = fields.String(metadata={"enum": [code.slug for code in Code]})
    hint = fields.String(metadata={"description": "The next step."})
    errors = fields.List(fields.Nested(PartSchema))


class _Api(flask_smorest.Api):
    ERROR_SCHEMA = ProblemSchema

    def _register_responses(self) -> None:
        for name, status in {**HTTPStatus.__members__, "DEFAULT_ERROR": None}.items():
            response = {
                "description": status.phrase if status else "Any other error.",
                "content": {MEDIA_TYPE: {"schema": ProblemSchema}},
            }
            self.spec.components.response(name, response, lazy=True)

    def _register_error_handlers(self) -> None:
        """Register no error handlers: app/web/error_handlers.py registers them."""


def install(app: Flask, resources: Iterable[ModuleType]) -> None:
    app.config.update(API_TITLE="Kasparro", API_VERSION=VERSION, OPENAPI_VERSION="3.1.0")
    codes = "\n".join(f"| `{code.slug}` | {code.status} | {code.about} {code.hint} |" for code in Code)
    api = _Api(app, spec_kwargs={"info": {"description": DESCRIPTION + codes}})
    for field in (Text, Amount):
        api.register_field(field, "string", None)
    api.register_field(Instant, "string", "date-time")
    api.ma_plugin.converter.add_attribute_function(_choices)
    api.ma_plugin.converter.add_parameter_attribute_function(_comma_separated)
    for resource in resources:
        api.register_blueprint(resource.blueprint)
    app.extensions[KEY] = _complete(api, reads_need_token=context_of(app).settings.reads_need_token)


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


def _comma_separated(converter: Any, field: fields.Field[Any], **_: Any) -> dict[str, Any]:
    return {"style": "form", "explode": False} if isinstance(field, CommaSeparated) else {}


def _complete(api: _Api, *, reads_need_token: bool) -> dict[str, Any]:
    """Return the generated document with descriptions, required members, body errors and operations with a token."""
    body_errors = {status: api.spec.components.get_ref("response", name) for status, name in BODY_ERRORS.items()}
    spec: dict[str, Any] = api.spec.to_dict()
    schemas = spec["components"]["schemas"]
    for key, name in api.ma_plugin.converter.refs.items():
        _describe(schemas[name], key[0])
    spec["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "The API_TOKEN of the service."}
    }
    spec["components"]["responses"].setdefault("UNAUTHORIZED", _unauthorized())
    used = {tag for path in spec["paths"].values() for method in METHODS & set(path) for tag in path[method]["tags"]}
    spec["tags"] = [tag for tag in spec["tags"] if tag["name"] in used]
    for path in spec["paths"].values():
        for method in METHODS & set(path):
            if "requestBody" in path[method]:
                path[method]["responses"] |= body_errors
    _require_token(spec, reads_need_token=reads_need_token)
    return spec


def _require_token(spec: dict[str, Any], *, reads_need_token: bool) -> None:
    if reads_need_token:
        spec["security"] = [{"token": []}]
    for path in spec["paths"].values():
        for method in METHODS & set(path):
            operation = path[method]
            if method == "post":
                operation["security"] = [{"token": []}]
            if method == "post" or (reads_need_token and operation.get("security") != []):
                operation["responses"]["401"] = {"$ref": "#/components/responses/UNAUTHORIZED"}


def _describe(schema: dict[str, Any], source: type[Schema]) -> None:
    if source.__doc__ and "__doc__" in vars(source):
        schema["description"] = source.__doc__.strip()
    if not issubclass(source, Arguments) and not getattr(source, "partial_response", False):
        schema["required"] = list(schema["properties"])
    schema.update(getattr(source, "schema_extension", {}))


def _unauthorized() -> dict[str, Any]:
    return {
        "description": "The bearer token is missing or wrong.",
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
