"""Test that the quotes of a page become sorted rows and lines for COPY."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest

from sources.contract import Page
from tasks.pipeline.copy_rows import CopyRows, arrange
from tasks.pipeline.normalize import normalize_page
from tests.upstreams import FETCHED, OBSERVED, canned, item

RUN = uuid.UUID(int=7)
TAIL = f"2026-02-01 00:00:00.000000+00\t{RUN}"


def copy_rows(*items: dict[str, Any], ids: Sequence[int] = (1, 2), fetched_at: datetime = FETCHED) -> CopyRows:
    """Return the rows of a page of these items. ids: the listing ids of coin-0 and coin-1."""
    source = canned(parse=lambda _: items)
    quotes = normalize_page(source, Page(b"", "", {}, FETCHED, None), clock_skew=0).quotes
    assert len(quotes) == len(items)
    by_coin = dict(zip(("coin-0", "coin-1"), ids, strict=True))
    listings = [by_coin[listing.source_asset_id] for listing in quotes.listings]
    return CopyRows(arrange(quotes, listings), fetched_at, RUN, listings=None)


def at(**offset: int) -> dict[str, str]:
    return {"observed_at": (OBSERVED + timedelta(**offset)).isoformat()}


def test_rows_are_sorted_by_listing_id_and_time() -> None:
    rows = copy_rows(item(0, **at(days=1)), item(1), item(0), ids=[9, 4])
    assert rows.frame.select("listing_id", "observed_at").rows() == [
        (4, OBSERVED),
        (9, OBSERVED),
        (9, OBSERVED + timedelta(days=1)),
    ]


def test_a_field_without_values_has_no_column() -> None:
    rows = copy_rows(item(0, rank=3), item(1))
    assert rows.frame.columns == ["listing_id", "observed_at", "price", "rank"]
    assert rows.filled == {"price": 2, "rank": 1}


def test_the_spans_contain_the_first_and_last_time_of_each_listing() -> None:
    last = OBSERVED + timedelta(days=2)
    rows = copy_rows(item(1), *(item(0, **at(days=days)) for days in (2, 0, 1)), ids=[5, 3])
    assert rows.spans == {"listings": [3, 5], "since": [OBSERVED, OBSERVED], "until": [OBSERVED, last]}


def test_each_row_becomes_a_line_with_the_fetch_time_and_the_run() -> None:
    rows = copy_rows(item(0, market_cap="7"), item(1, price="2.50"))
    assert rows.text.decode() == (f"1\t2026-01-01 00:00Z\t1.5\t7\t{TAIL}\n2\t2026-01-01 00:00Z\t2.50\t\\N\t{TAIL}\n")
    assert rows.bare_text.decode() == "1\t2026-01-01 00:00Z\t1.5\t7\n2\t2026-01-01 00:00Z\t2.50\t\\N\n"


def test_the_fetch_time_is_written_in_utc() -> None:
    elsewhere = FETCHED.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert copy_rows(item(), fetched_at=elsewhere).text.decode().endswith(f"{TAIL}\n")


@pytest.mark.parametrize(
    ("offset", "text"),
    [
        ({"minutes": 1}, "2026-01-01 00:01Z"),
        ({"seconds": 59}, "2026-01-01 00:00:59Z"),
        ({"milliseconds": 1}, "2026-01-01 00:00:00.001000Z"),
        ({"microseconds": 999_999}, "2026-01-01 00:00:00.999999Z"),
    ],
)
def test_times_are_written_in_the_shortest_exact_format(offset: dict[str, int], text: str) -> None:
    rows = copy_rows(item(0), item(0, **at(**offset)))
    assert rows.bare_text.decode().splitlines()[1].split("\t")[1] == text


def test_a_selection_of_rows_has_only_its_own_lines_and_spans() -> None:
    rows = copy_rows(item(0), item(1))
    _ = rows.text, rows.spans
    second = rows.where(pl.Series([False, True]))
    assert (len(second), second.spans["listings"]) == (1, [2])
    assert second.text.startswith(b"2\t")
    assert (len(rows.empty()), rows.empty().text) == (0, b"")
