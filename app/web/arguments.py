"""Parse and validate requests: reject unknown, repeated and invalid arguments, and report each one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

import flask_smorest
from flask import Request, json
from marshmallow import RAISE, Schema, ValidationError, fields, validate
from webargs.flaskparser import FlaskParser, is_json_request

from app.web.problems import Code, Problem, quoted, suggestion
from sources.registry import BROKEN, SOURCES
from tasks.runtime.logs import hide_secrets

View = Callable[..., Any]

MAX_NAMES = 100
DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
WHOLE_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


class Arguments(Schema):
    """The allowed arguments of a query or body. All others are rejected."""

    class Meta:
        unknown = RAISE


class Text(fields.Field[str]):
    """Text that Postgres can store, without NUL and unpaired surrogates."""

    def __init__(self, max_length: int = 300, **options: Any):
        super().__init__(validate=validate.Length(1, max_length), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("expected text")
        if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise ValidationError("expected text without NUL or unpaired surrogates")
        return value


class CommaSeparated(fields.Field[tuple[str, ...]]):
    """Comma-separated names from a closed list, in the order of the request, without duplicates. Default: all names."""

    def __init__(self, choices: Iterable[str], noun: str, description: str, **options: Any):
        """noun: the word for a name in error messages, such as `member`."""
        self.choices, self._noun = tuple(choices), noun
        super().__init__(load_default=self.choices, metadata={"description": description}, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in str(value).split(",")))
        for name in names:
            if name not in self.choices:
                raise ValidationError(
                    f"there is no {self._noun} {quoted(name)}{suggestion(name, self.choices)} "
                    f"(expected: {', '.join(self.choices)})"
                )
        return names


class Limit(fields.Integer):
    """The maximum number of rows on a page."""

    def __init__(self) -> None:
        super().__init__(
            load_default=DEFAULT_LIMIT,
            validate=validate.Range(1, MAX_LIMIT, error=f"expected a whole number from 1 to {MAX_LIMIT}"),
            metadata={"description": "Maximum number of rows on a page."},
        )

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> int:
        if not WHOLE_NUMBER.fullmatch(str(value)):
            raise ValidationError(f"expected a whole number from 1 to {MAX_LIMIT}, got {quoted(value)}")
        return int(value)


class ListOf(fields.List[Any]):
    """A parameter that may be repeated. A row matches if it has any of the values."""

    def __init__(self, item_field: fields.Field[Any], description: str):
        super().__init__(
            item_field,
            validate=validate.Length(1, MAX_NAMES),
            metadata={"description": f"{description} Repeat the parameter to allow several values."},
        )


class OneOf(Text):
    """One of a closed list of words."""

    def __init__(self, words: Iterable[str], **options: Any):
        self.words = tuple(words)
        options["metadata"] = {**options.get("metadata", {}), "enum": list(self.words)}
        super().__init__(**options)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if value not in self.words:
            hint = suggestion(value, self.words) if isinstance(value, str) else ""
            raise ValidationError(f"expected one of {', '.join(self.words)}, got {quoted(value)}{hint}")
        return str(value)


class PageArguments(Arguments):
    """The parameters of every list."""

    limit = Limit()
    cursor = Text(max_length=2000, metadata={"description": "`pagination.next_cursor` of the previous page."})


class Parser(FlaskParser):
    """Reject unknown arguments, and report the name and expected value of each invalid argument."""

    # webargs does not declare this attribute as a ClassVar, so this class cannot either.
    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": RAISE, "json": RAISE}  # noqa: RUF012 — as in webargs

    def load_querystring(self, req: Request, schema: Schema) -> Any:
        values_by_name = {name: req.args.getlist(name) for name in req.args}
        repeatable = [name for name, field in _parameters(schema).items() if isinstance(field, ListOf)]
        repeated = {
            name: [f"given {len(values)} times, expected once"]
            for name, values in values_by_name.items()
            if len(values) > 1 and name not in repeatable and name in _parameters(schema)
        }
        if repeated:
            raise ValidationError(repeated)
        return {name: values if name in repeatable else values[0] for name, values in values_by_name.items()}

    def _raw_load_json(self, req: Request) -> Any:
        body = req.get_data(cache=True)
        if not body.strip():
            raise ValidationError({"_schema": ["the request has no body, expected a JSON object"]})
        if not is_json_request(req):
            content_type = f"as {quoted(req.mimetype)}" if req.mimetype else "without a Content-Type"
            raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, f"The body was sent {content_type}, expected application/json.")
        try:
            return json.loads(body.decode())
        except (ValueError, RecursionError) as error:
            # ValueError includes bytes that are not UTF-8, and numbers with thousands of digits.
            raise Problem(Code.MALFORMED_REQUEST, f"The body is not JSON: {quoted(str(error))}.") from None

    def handle_error(self, error: ValidationError, req: Request, schema: Schema, **_: Any) -> Any:
        location, messages = next(iter(error.normalized_messages().items()))
        where = "body" if location == "json" else location
        errors = [{"in": where, "name": name, "detail": detail} for name, detail in _errors(messages, schema)]
        code = Code.INVALID_BODY if where == "body" else Code.INVALID_PARAMETER
        detail = "; ".join(
            f"{item['name']}: {item['detail']}" if item["name"] else item["detail"] for item in errors[:3]
        )
        noun = "members" if where == "body" else "parameters"
        hint = f"Allowed {noun}: {', '.join(_parameters(schema)) or 'none'}."
        raise Problem(code, detail, hint=hint, errors=errors)


def _parameters(schema: Schema) -> dict[str, fields.Field[Any]]:
    return {field.data_key or name: field for name, field in schema.fields.items()}


def _errors(messages: Any, schema: Schema) -> Iterator[tuple[str, str]]:
    """Yield the name and the detail of each error."""
    if not isinstance(messages, dict):
        messages = {"_schema": messages}
    parameters = _parameters(schema)
    for name, details in messages.items():
        if name == "_schema":
            yield "", " ".join(map(str, details))
        elif name not in parameters:
            yield quoted(name).strip("'"), f"unknown{suggestion(str(name), parameters)}"
        else:
            yield from _field_errors(str(name), details)


def _field_errors(name: str, details: Any) -> Iterator[tuple[str, str]]:
    if isinstance(details, dict):  # a list's errors, by index
        for inner in details.values():
            yield from _field_errors(name, inner)
    else:
        yield name, " ".join(map(str, details))


class NoQuery(Arguments):
    """No query parameters."""


class Resource(flask_smorest.Blueprint):
    """A blueprint whose views reject unknown arguments, including views that accept no arguments."""

    ARGUMENTS_PARSER = Parser()

    def arguments(self, schema: type[Schema], **options: Any) -> Callable[[View], View]:
        """Return the decorator of flask-smorest, with a schema that is built once instead of for each request."""
        decorator: Callable[[View], View] = super().arguments(schema(), **options)
        return decorator

    def without_query(self, view: View) -> View:
        """Reject every query parameter, for a view that accepts none."""

        @wraps(view)
        def checked(_: Any, **path_parameters: Any) -> Any:
            return view(**path_parameters)

        decorated: View = self.arguments(NoQuery, location="query")(checked)
        return decorated


def require_usable(source: str) -> None:
    """Raise a Problem for a broken source."""
    if source in BROKEN:
        raise Problem(Code.SOURCE_BROKEN, f"{source} is broken: {hide_secrets(BROKEN[source].detail)}")


def source_name(**options: Any) -> OneOf:
    """Return a field for the name of a registered source. A broken source has data that can be read."""
    return OneOf([*SOURCES, *BROKEN], **options)
