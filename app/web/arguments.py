"""How a resource takes its arguments: nothing unknown, nothing twice, nothing dropped without a word."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any
from urllib.parse import urlencode

import flask_smorest
from flask import Request, Response, json, jsonify, request
from marshmallow import RAISE, Schema, ValidationError, fields, validate
from webargs.flaskparser import FlaskParser, is_json_request

from app.web.problems import Code, Problem, quoted, suggestion
from sources.registry import SOURCES

View = Callable[..., Any]

MAX_NAMES = 100
DEFAULT_LIMIT, MOST_ROWS = 100, 1000
WHOLE_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


class Arguments(Schema):
    """What a request may carry in one place; anything else is refused."""

    class Meta:
        unknown = RAISE


class Text(fields.Field[str]):
    """Text that Postgres can hold."""

    def __init__(self, longest: int = 300, **options: Any):
        super().__init__(validate=validate.Length(1, longest), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("expected text")
        if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise ValidationError("expected text without NUL or broken characters")
        return value


class CommaSeparated(fields.Field[tuple[str, ...]]):
    """Names from a closed list, separated by commas: each once, in the order given. Default: all of them."""

    def __init__(self, choices: Iterable[str], noun: str, description: str, **options: Any):
        """noun: what one of the names is called in an error."""
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
    """How many rows a page may have."""

    def __init__(self) -> None:
        super().__init__(
            load_default=DEFAULT_LIMIT,
            validate=validate.Range(1, MOST_ROWS, error=f"expected a whole number from 1 to {MOST_ROWS}"),
            metadata={"description": "Most rows of one page."},
        )

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> int:
        if not WHOLE_NUMBER.fullmatch(str(value)):
            raise ValidationError(f"expected a whole number from 1 to {MOST_ROWS}, got {quoted(value)}")
        return int(value)


class ListOf(fields.List[Any]):
    """A parameter that may be given more than once; a row passes that has any of its values."""

    def __init__(self, each: fields.Field[Any], description: str):
        super().__init__(
            each,
            validate=validate.Length(1, MAX_NAMES),
            metadata={"description": f"{description} Repeat it to allow several."},
        )


class OneOf(Text):
    """One of a few words."""

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
    """What every list takes."""

    limit = Limit()
    cursor = Text(longest=2000, metadata={"description": "`pagination.next_cursor` of the page before."})


class Pagination(Schema):
    limit = fields.Integer(required=True)
    next_cursor = fields.String(required=True, allow_none=True, metadata={"description": "Null on the last page."})
    has_more = fields.Boolean(required=True)


LINK_HEADER = {"Link": {"description": "`rel=next`: the next page.", "schema": {"type": "string"}}}
"""The header of a list, for the documentation."""


class Envelope(Schema):
    """What every JSON answer carries beside its own members."""

    request_id = fields.String(metadata={"description": "As sent in X-Request-ID, or made here."})
    api_latency_seconds = fields.Float(metadata={"description": "Time that the service took to answer."})


class Parser(FlaskParser):
    """Reads arguments so that nothing is ignored, and says of each mistake where it is and what is taken."""

    # As webargs declares it, which is not a ClassVar.
    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": RAISE, "json": RAISE}  # noqa: RUF012

    def load_querystring(self, req: Request, schema: Schema) -> Any:
        given = {name: req.args.getlist(name) for name in req.args}
        several = [name for name, field in _parameters(schema).items() if isinstance(field, ListOf)]
        twice = {
            name: [f"given {len(values)} times, takes one value"]
            for name, values in given.items()
            if len(values) > 1 and name not in several and name in _parameters(schema)
        }
        if twice:
            raise ValidationError(twice)
        return {name: values if name in several else values[0] for name, values in given.items()}

    def _raw_load_json(self, req: Request) -> Any:
        body = req.get_data(cache=True)
        if not body.strip():
            raise ValidationError({"_schema": ["the request has no body; it takes a JSON object"]})
        if not is_json_request(req):
            detail = (
                f"The body was sent as {quoted(req.mimetype)}."
                if req.mimetype
                else "The body was sent without a Content-Type."
            )
            raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, detail)
        try:
            return json.loads(body.decode())
        except (ValueError, RecursionError) as error:
            # ValueError: also bytes that are not UTF-8, and a number of thousands of digits.
            raise Problem(Code.MALFORMED_REQUEST, f"The body is not JSON: {quoted(str(error))}.") from None

    def handle_error(self, error: ValidationError, req: Request, schema: Schema, **_: Any) -> Any:
        location, messages = next(iter(error.normalized_messages().items()))
        where = "body" if location == "json" else location
        errors = [{"in": where, "name": name, "detail": detail} for name, detail in _each(messages, schema)]
        code = Code.INVALID_BODY if where == "body" else Code.INVALID_PARAMETER
        detail = "; ".join(
            f"{wrong['name']}: {wrong['detail']}" if wrong["name"] else wrong["detail"] for wrong in errors[:3]
        )
        raise Problem(code, detail, hint=f"It takes: {', '.join(_parameters(schema)) or 'none'}.", errors=errors)


def _parameters(schema: Schema) -> dict[str, fields.Field[Any]]:
    return {field.data_key or name: field for name, field in schema.fields.items()}


def _each(messages: Any, schema: Schema) -> Iterator[tuple[str, str]]:
    if not isinstance(messages, dict):
        messages = {"_schema": messages}
    known = _parameters(schema)
    for name, found in messages.items():
        if name == "_schema":
            yield "", " ".join(map(str, found))
        elif name not in known:
            yield quoted(name).strip("'"), f"is not known here{suggestion(str(name), known)}"
        else:
            yield from _of_field(str(name), found)


def _of_field(name: str, found: Any) -> Iterator[tuple[str, str]]:
    if isinstance(found, dict):  # of a list: by index
        for inner in found.values():
            yield from _of_field(name, inner)
    else:
        yield name, " ".join(map(str, found))


class NoQuery(Arguments):
    """No query parameter at all."""


class Resource(flask_smorest.Blueprint):
    """A blueprint whose views refuse what they do not know, in the query too where they take none."""

    ARGUMENTS_PARSER = Parser()

    def arguments(self, schema: type[Schema], **options: Any) -> Callable[[View], View]:
        """As flask-smorest has it, but for the schema: made here once, and not again for each request."""
        taken: Callable[[View], View] = super().arguments(schema(), **options)
        return taken

    def takes_nothing(self, view: View) -> View:
        """The view has no query parameters; those that come are named, not ignored."""

        @wraps(view)
        def checked(_: Any, **parts: Any) -> Any:
            return view(**parts)

        arguments: View = self.arguments(NoQuery, location="query")(checked)
        return arguments


def source_name(**options: Any) -> OneOf:
    """A source that the registry knows."""
    return OneOf(SOURCES, **options)


def next_link(cursor: str) -> str:
    """The Link header of a page that has another after it."""
    query = [(name, value) for name, value in request.args.items(multi=True) if name != "cursor"]
    return f'<{request.path}?{urlencode([*query, ("cursor", cursor)])}>; rel="next"'


def raw_list_response(data: str, members: Mapping[str, Any], cursor: str | None) -> Response:
    """A list whose rows Postgres has already written as JSON, which nobody reads again on the way out."""
    rest = json.dumps(members, sort_keys=False, separators=(",", ":"))
    headers = {"Link": next_link(cursor)} if cursor else {}
    return Response(f'{{"data":{data},{rest[1:]}', headers=headers, mimetype="application/json")


def list_response(rows: Any, limit: int, following: str | None) -> Response:
    """A list that Python has written."""
    answer = jsonify(
        {"data": rows, "pagination": {"limit": limit, "next_cursor": following, "has_more": following is not None}}
    )
    if following:
        answer.headers["Link"] = next_link(following)
    return answer
