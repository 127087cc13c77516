"""Turn exceptions into problem responses: HTTP errors, database errors, and bugs."""

from __future__ import annotations

from typing import Any

import psycopg2
import structlog
from flask import Flask, current_app, g, request
from psycopg2 import errorcodes
from sqlalchemy import exc
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from app.web.context import context
from app.web.problems import Code, Problem, quoted, suggestion
from store.errors import DatabaseError, SchemaBehind, classify, describe, sqlstate
from store.schema import explain
from tasks.runtime.outdated_schema import schema_log

log = structlog.get_logger(__name__)

TIMEOUTS = (errorcodes.QUERY_CANCELED, errorcodes.LOCK_NOT_AVAILABLE, errorcodes.TRANSACTION_TIMEOUT)

DETAIL_AND_RETRY_AFTER = {
    DatabaseError.CONFLICT: ("The request conflicted with a concurrent transaction.", 1),
    DatabaseError.CONNECTION_LOST: ("The database is unreachable.", 5),
    DatabaseError.UNAVAILABLE: ("The database cannot process the request now.", 5),
    DatabaseError.DISK_FULL: ("The disk of the database is full.", 60),
}
"""The detail for the client, and the seconds after which a retry is worthwhile."""


def install(app: Flask) -> None:
    app.before_request(_reject_nul)
    app.register_error_handler(Problem, Problem.response)
    app.register_error_handler(HTTPException, _handle_http_error)
    for kind in (exc.SQLAlchemyError, psycopg2.Error):
        app.register_error_handler(kind, lambda error: _database_problem(error).response())
    app.register_error_handler(Exception, lambda error: _unexpected_problem(error).response())


def _reject_nul() -> None:
    # Postgres cannot store NUL in text, so no path with NUL exists.
    if "\x00" in request.path:
        raise NotFound


def _handle_http_error(error: HTTPException) -> Any:
    if error.code is not None and error.code < 400:  # a redirect
        return error
    return _http_problem(error).response()


def _http_problem(error: HTTPException) -> Problem:
    if isinstance(error, NotFound):
        hint = suggestion(request.path, _static_paths())
        return Problem(Code.NOT_FOUND, f"There is nothing at {quoted(request.path)}{hint or '.'}")
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        detail = f"{quoted(request.path)} does not support {quoted(request.method)}; expected one of {allowed}."
        return Problem(Code.METHOD_NOT_ALLOWED, detail, headers={"Allow": allowed})
    if isinstance(error, RequestEntityTooLarge):
        max_bytes = current_app.config["MAX_CONTENT_LENGTH"]
        return Problem(Code.BODY_TOO_LARGE, f"The body is larger than the maximum of {max_bytes} bytes.")
    code = Code.UNSUPPORTED_MEDIA_TYPE if error.code == 415 else Code.MALFORMED_REQUEST
    if (error.code or 500) >= 500:
        code = Code.INTERNAL_ERROR
    return Problem(code, f"The request failed with {error.code or 500} {error.name}.")


def _static_paths() -> list[str]:
    return [rule.rule for rule in current_app.url_map.iter_rules() if not rule.arguments]


def _database_problem(raised: exc.SQLAlchemyError | psycopg2.Error) -> Problem:
    error = explain(context().reader, raised)
    state, kind = sqlstate(error), classify(error)
    if isinstance(error, SchemaBehind):
        schema_log.error(error)
        return Problem(Code.SCHEMA_BEHIND, str(error), headers=_retry_after(30))
    if state in TIMEOUTS:
        log.warning("query_timed_out", sqlstate=state)
        detail = "The database query was cancelled because it took too long."
        return Problem(Code.QUERY_TIMEOUT, detail, headers=_retry_after(5))
    if state == errorcodes.UNDEFINED_TABLE:
        log.error("tables_missing")
        detail = "The database lacks a table, although every migration has run."
        hint = "Check DATABASE_URL, or restore the backup."
        return Problem(Code.DATABASE_UNAVAILABLE, detail, hint=hint, headers=_retry_after(30))
    if kind is None:
        return _unexpected_problem(error)
    log.error("database_unavailable", reason=describe(error))
    detail, seconds = DETAIL_AND_RETRY_AFTER[kind]
    return Problem(Code.DATABASE_UNAVAILABLE, detail, headers=_retry_after(seconds))


def _retry_after(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}


def _unexpected_problem(error: Exception) -> Problem:
    log.error("exception_unhandled", exc_info=error)
    detail = f"An unexpected error occurred; the log has its traceback under request {g.get('request_id', 'unknown')}."
    return Problem(Code.INTERNAL_ERROR, detail)
