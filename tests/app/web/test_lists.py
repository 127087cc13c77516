"""Test the pagination of list responses, and that a file has none."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.web.lists import list_response, raw_list_response

PATH = "/things?source=a&source=b&cursor=old&limit=2"


def test_a_page_links_to_the_next_one_with_the_same_parameters(app: Flask) -> None:
    with app.test_request_context(PATH):
        for response in (list_response([1], 2, "new"), raw_list_response("[1]", {"pagination": {}}, "new")):
            assert response.headers["Link"] == '</things?source=a&source=b&limit=2&cursor=new>; rel="next"'


def test_the_last_page_has_no_link(app: Flask) -> None:
    with app.test_request_context(PATH):
        assert "Link" not in list_response([1], 2, None).headers
        assert "Link" not in raw_list_response("[1]", {"pagination": {}}, None).headers


def test_a_list_has_its_rows_its_pagination_and_further_members(app: Flask) -> None:
    pagination = {"limit": 2, "next_cursor": "new", "has_more": True}
    with app.test_request_context(PATH):
        listed: Any = list_response([1], 2, "new", color="red").json
        raw: Any = raw_list_response("[1]", {"pagination": pagination, "color": "red"}, "new").json
    assert listed == raw == {"data": [1], "pagination": pagination, "color": "red"}


@pytest.mark.parametrize(("path", "name"), [("/data", "limit"), ("/data", "count"), ("/rejects", "limit")])
def test_a_file_has_no_pages(api: FlaskClient, path: str, name: str) -> None:
    response: Any = api.get(f"{path}?format=csv&{name}={'none' if name == 'count' else 5}")
    [error] = response.json["errors"]
    assert (response.status_code, error["name"]) == (422, name)
    assert error["detail"] == "expected none with format=csv, which sends all rows in one file"
