"""Test that cursors round-trip, and that they work only for the list that returned them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.web import pagination
from app.web.problems import Code, Problem
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows


def test_the_link_header_points_to_the_next_page(api: FlaskClient, rows: Rows) -> None:
    listing = rows.listing()
    for minutes in range(3):
        rows.quote(listing, NOON + timedelta(minutes=minutes), str(minutes))
    first = api.get("/data?limit=2&source=coingecko&source=coinpaprika")
    target, relation = first.headers["Link"].split("; ")
    assert relation == 'rel="next"'
    second = api.get(target.strip("<>"))
    assert second.json is not None
    assert [row["price"] for row in second.json["data"]] == ["0"]
    assert "Link" not in second.headers


def test_a_cursor_works_only_with_its_own_filters_order_and_path(api: FlaskClient, rows: Rows) -> None:
    listing = rows.listing()
    rows.quote(listing, NOON)
    rows.quote(listing, NOON + timedelta(minutes=1))
    cursor = get(api, "/data", limit=1, source="coingecko")["pagination"]["next_cursor"]
    assert len(get(api, "/data", limit=7, source="coingecko", fields="price", cursor=cursor)["data"]) == 1
    for path, query in (
        ("/data", {}),
        ("/data", {"source": "coinpaprika"}),
        ("/data", {"source": "coingecko", "order": "asc"}),
        ("/data/latest", {"source": "coingecko"}),
    ):
        response = api.get(path, query_string={**query, "cursor": cursor})
        assert response.status_code == 422
        assert response.json is not None
        assert response.json["code"] == "invalid_cursor"


Key = tuple[pagination.Id, pagination.Word]


def test_a_cursor_still_works_if_only_the_limit_and_the_members_change() -> None:
    cursor = pagination.encode("/data", {"source": ["a"], "limit": 1, "members": ("price",)}, (7, "name"))
    assert pagination.decode(cursor, "/data", {"source": ["a"], "limit": 9, "count": "none"}, Key) == (7, "name")


@pytest.mark.parametrize("key", [(-1, "name"), (2**31, "name"), (7, "NUL\0"), (7,), ["7", "name"], {"a": 1}])
def test_a_cursor_with_an_impossible_key_is_reported_as_damaged(key: Any) -> None:
    with pytest.raises(Problem, match="The cursor is damaged") as raised:
        pagination.decode(pagination.encode("/data", {}, key), "/data", {}, Key)
    assert raised.value.code is Code.INVALID_CURSOR


@pytest.mark.parametrize("text", ["", "=", "e30", "\xe9", "W10", "x" * 2000])
def test_any_other_text_is_reported_as_a_damaged_cursor(text: str) -> None:
    with pytest.raises(Problem, match="The cursor is damaged"):
        pagination.decode(text, "/data", {}, Key)


def test_a_cursor_of_another_list_is_rejected_with_the_reason() -> None:
    cursor = pagination.encode("/data", {"order": "asc"}, (7, "name"))
    with pytest.raises(Problem, match="belongs to another path, other filters or another order"):
        pagination.decode(cursor, "/data", {"order": "desc"}, Key)
