"""Build list responses: their pagination, the link to the next page, and the rows as objects or as JSON text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from flask import Response, json, jsonify, request
from marshmallow import Schema, ValidationError, fields, validates_schema

from app.web.arguments import PageArguments

LINK_HEADER = {"Link": {"description": "The next page, as `rel=next`.", "schema": {"type": "string"}}}
"""The header of a list, for the OpenAPI document."""

PAGING_PARAMETERS = ("limit", "cursor", "count")


class PageOrFileArguments(PageArguments):
    """The parameters of a list that is also available as a file. The subclass declares the `format`."""

    @validates_schema(pass_original=True)
    def _reject_paging_of_files(self, query: dict[str, Any], original: Mapping[str, Any], **_: Any) -> None:
        paging = [name for name in PAGING_PARAMETERS if name in original]
        if paging and query["format"] != "json":
            detail = f"expected none with format={query['format']}, which sends all rows in one file"
            raise ValidationError({name: [detail] for name in paging})


class Pagination(Schema):
    limit = fields.Integer(required=True)
    next_cursor = fields.String(required=True, allow_none=True, metadata={"description": "Null on the last page."})
    has_more = fields.Boolean(required=True)


def raw_list_response(data: str, members: Mapping[str, Any], cursor: str | None) -> Response:
    """Return a list response whose rows are JSON text from Postgres, without parsing it.

    members: the other members of the response. cursor: the cursor of the next page; None on the last page.
    """
    rest = json.dumps(members, sort_keys=False, separators=(",", ":"))
    headers = {"Link": _next_link(cursor)} if cursor else {}
    return Response(f'{{"data":{data},{rest[1:]}', headers=headers, mimetype="application/json")


def list_response(rows: Any, limit: int, next_cursor: str | None, **members: Any) -> Response:
    """Return a list response whose rows are Python objects. members: further members of the response."""
    pagination = {"limit": limit, "next_cursor": next_cursor, "has_more": next_cursor is not None}
    response = jsonify({"data": rows, "pagination": pagination, **members})
    if next_cursor:
        response.headers["Link"] = _next_link(next_cursor)
    return response


def _next_link(cursor: str) -> str:
    """Return the Link header that points to the next page."""
    query = [(name, value) for name, value in request.args.items(multi=True) if name != "cursor"]
    return f'<{request.path}?{urlencode([*query, ("cursor", cursor)])}>; rel="next"'
