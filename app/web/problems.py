"""Describe errors to clients: problem details (RFC 9457) with a code from a closed list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from typing import Any
from urllib.parse import quote

from flask import Response, json, request

MEDIA_TYPE = "application/problem+json"
MAX_QUOTED_CHARS = 60


class Code(Enum):
    """Every problem code, with its HTTP status, title, meaning and next step.

    OpenAPI shows the texts as Markdown, which would parse a bare `<name>` as HTML. Write it in backticks.
    """

    def __init__(self, status: int, title: str, about: str, hint: str):
        self.status, self.title, self.about, self.hint = status, title, about, hint

    MALFORMED_REQUEST = (
        400,
        "Malformed request",
        "The request is not valid HTTP or JSON.",
        "Correct the request and send it again.",
    )
    TOKEN_REQUIRED = (
        401,
        "Token required",
        "The request has no bearer token, or the service has no API_TOKEN.",
        "Send `Authorization: Bearer <API_TOKEN>`.",
    )
    TOKEN_INVALID = (
        401,
        "Invalid token",
        "The bearer token does not match the API_TOKEN of the service.",
        "Send the API_TOKEN that the service was started with.",
    )
    NOT_FOUND = 404, "Path not found", "The API has no such path.", "See `/openapi.json` for every path."
    UNKNOWN_SOURCE = 404, "Unknown source", "No source has this name.", "List the sources with `GET /sources`."
    UNKNOWN_ASSET = 404, "Unknown asset", "No asset has this slug.", "List the assets with `GET /assets`."
    UNKNOWN_CHANGE = (
        404,
        "Unknown change",
        "No decision or field change has this id.",
        "List decisions with `GET /decisions`, and field changes with `GET /sources/<name>/drift`.",
    )
    UNKNOWN_RUN = 404, "Unknown run", "No run has this id.", "List the runs with `GET /runs`."
    UNKNOWN_QUOTE = (
        404,
        "Unknown quote",
        "The source has no quote of this listing at this time.",
        "Copy the values of a quote from `GET /data`.",
    )
    NO_REJECTS = (
        404,
        "No matching rejects",
        "No quarantined reject matches the body of the request.",
        "List the quarantined rejects with `GET /rejects?state=quarantined`.",
    )
    METHOD_NOT_ALLOWED = (
        405,
        "Method not allowed",
        "The path does not support this method.",
        "Use a method that the `Allow` header lists.",
    )
    RUN_CONFLICT = (
        409,
        "Conflicting run",
        "The source has an unfinished run of this kind with other parameters.",
        "Wait for the run that `detail` names to finish, or cancel it.",
    )
    SOURCE_BROKEN = (
        409,
        "Broken source",
        "The source's module, declaration or settings are wrong, so it cannot run.",
        "Correct what `detail` names, then restart the service.",
    )
    DECISION_CONFLICT = (
        409,
        "Conflicting decision",
        "The decision contradicts an earlier decision about these listings.",
        "Read the conflict in `detail`, and list earlier decisions with `GET /decisions`.",
    )
    RUN_FINISHED = (
        409,
        "Run already finished",
        "The run finished before it could be cancelled.",
        "No action is needed: the data that the run loaded stays.",
    )
    BODY_TOO_LARGE = (
        413,
        "Body too large",
        "The body of the request is larger than 64 KiB.",
        "Send a smaller body.",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        415,
        "Unsupported media type",
        "The body was not sent as JSON.",
        "Send JSON with `Content-Type: application/json`.",
    )
    INVALID_PARAMETER = (
        422,
        "Invalid parameter",
        "A query parameter or header is unknown or has an invalid value.",
        "Correct each parameter that `errors` names.",
    )
    INVALID_CURSOR = (
        422,
        "Invalid cursor",
        "The cursor is damaged, or it belongs to another path or to other filters.",
        "Repeat the request without `cursor`.",
    )
    INVALID_BODY = (
        422,
        "Invalid body",
        "A member of the body is missing, unknown or invalid.",
        "Correct each member that `errors` names.",
    )
    IDEMPOTENCY_MISMATCH = (
        422,
        "Idempotency-Key reused",
        "The same Idempotency-Key was sent before with another body.",
        "Use a new key for a new request.",
    )
    INTERNAL_ERROR = (
        500,
        "Internal error",
        "An unexpected error occurred.",
        "Search the log of the service for the `request_id`.",
    )
    DATABASE_UNAVAILABLE = (
        503,
        "Database unavailable",
        "The database is unreachable or cannot process the request now.",
        "Retry after the number of seconds in `Retry-After`.",
    )
    SCHEMA_BEHIND = (
        503,
        "Schema behind",
        "The database has the schema of an older version.",
        "Run `alembic upgrade head` against DATABASE_URL, then retry.",
    )
    TOO_MANY_EXPORTS = (
        503,
        "Too many exports",
        "The maximum number of concurrent exports is already running.",
        "Retry after the number of seconds in `Retry-After`.",
    )
    QUERY_TIMEOUT = (
        503,
        "Query timed out",
        "A database query exceeded its time limit.",
        "Narrow the request with filters or a smaller `limit`, or retry later.",
    )

    @property
    def slug(self) -> str:
        return self.name.lower()


class Problem(Exception):
    """A request that cannot be served.

    errors: for each invalid part of the request, `{"in", "name", "detail"}`.
    hint: the next step; default: the hint of the code.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        hint: str | None = None,
        errors: Iterable[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(detail)
        self.code, self.detail, self.hint, self.errors = code, detail, hint, list(errors)
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = {
            "type": f"/problems/{self.code.slug}",
            "title": self.code.title,
            "status": self.code.status,
            "detail": self.detail,
            "instance": quote(request.path, errors="replace"),
            "code": self.code.slug,
            "hint": self.hint or self.code.hint,
            "errors": self.errors,
        }
        return Response(
            json.dumps(body, sort_keys=False, separators=(",", ":")),
            self.code.status,
            self.headers,
            mimetype=MEDIA_TYPE,
        )


def invalid_parameter(name: str, detail: str, *, where: str = "query") -> Problem:
    """Return the problem for one invalid query parameter, or for an invalid header if `where` is `header`."""
    return Problem(Code.INVALID_PARAMETER, f"{name}: {detail}", errors=[{"in": where, "name": name, "detail": detail}])


def quoted(value: Any) -> str:
    """Return a client's value in quotation marks, in ASCII and shortened, for a response or a log line."""
    text = ascii(value)
    return text if len(text) <= MAX_QUOTED_CHARS else f"{text[:MAX_QUOTED_CHARS]}..."


def suggestion(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean …?` with the most similar choice, or an empty string if none is similar."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = get_close_matches(name[:100].lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[matches[0]]!r}?" if matches else ""
