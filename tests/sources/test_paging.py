"""Test that numbered pages are read to their end, whatever an upstream drops, caps or states."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from sources.contract import Response
from sources.paging import NumberedPages

AT = datetime(2026, 1, 31, tzinfo=UTC)


def response(headers: dict[str, str]) -> Response:
    return Response(b"[]", 200, "application/json", {}, AT, headers=headers)


def read(total: int, size: int, pages: int, cap: int, dropped: set[int], *, states: bool) -> tuple[int, int]:
    """Return the number of items that are read, and the number of requests, for an upstream with `total` items."""
    numbered, number, most, items = NumberedPages(size, pages), 1, 0, 0
    while True:
        served = min(size, cap)
        count = max(0, min(total - (number - 1) * served, served) - (number in dropped))
        most, items = max(most, count), items + count
        headers = {"total": str(total), "per-page": str(served)} if states else {}
        if numbered.is_last(number, count, response(headers), most):
            return items, number
        number += 1


@given(
    total=st.integers(1, 2000),
    pages=st.integers(1, 5),
    cap=st.integers(2, 300),
    dropped=st.sets(st.integers(1, 8), max_size=3),
    states=st.booleans(),
)
def test_every_item_up_to_the_limit_is_read(total: int, pages: int, cap: int, dropped: set[int], states: bool) -> None:
    size = 100
    items, requests = read(total, size, pages, cap, dropped, states=states)
    served = min(size, cap)
    assert items >= min(total, size * pages) - len(dropped)
    assert requests <= -(-size * pages // (served - 1)) + 1


@given(st.text(max_size=30))
def test_a_header_that_is_no_number_is_ignored(text: str) -> None:
    assert NumberedPages(100, 4).is_last(1, 100, response({"total": text}), 100) == (
        text.isascii() and text.isdigit() and 0 < int(text) <= 100
    )
