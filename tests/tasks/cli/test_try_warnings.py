"""Test that each probable mistake in a page has its warning, and that a sound page has none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from settings import get_settings
from sources.contract import LEFT_OUT, Page, Response
from sources.http.json_body import read_json
from tasks.cli.try_items import try_page
from tasks.cli.try_warnings import find_problem, find_warnings, largest_array
from tests.sources.csv_folder import daily_files
from tests.upstreams import FETCHED, canned

KEYS = {"source_asset_id": "x1", "symbol": "BTC", "name": "Bitcoin", "quote_currency": "USD", "price": "1.5"}
DAYS = [f"2026-01-0{day}T00:00:00Z" for day in range(1, 7)]


def items(*times: str, **fields: Any) -> list[dict[str, Any]]:
    return [{**KEYS, "observed_at": at, **fields} for at in times]


def warnings(
    body: Any,
    *,
    request: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    is_last: bool = False,
    **functions: Callable[[Any], Any],
) -> list[str]:
    """Return the warnings about one page with this JSON body."""
    source = canned(**functions)
    data, request = json.dumps(body).encode(), dict(request or {})
    response = Response(data, 200, "application/json", request, FETCHED, headers=headers or {})
    tried = try_page(source, "", Page.of(response, None), get_settings(), is_last=is_last)
    return list(find_warnings(source, tried))


@pytest.mark.parametrize(
    "body",
    [
        items(*DAYS),
        items(*reversed(DAYS)),
        [*items(DAYS[0], DAYS[2]), *items(DAYS[1], DAYS[3], source_asset_id="x2")],
        [],
    ],
    ids=["ascending", "descending", "two listings", "empty"],
)
def test_a_sound_page_has_no_warning(body: Any) -> None:
    assert warnings(body) == []


def test_too_few_quotes_are_shown() -> None:
    rejected = items(*DAYS[:3], price="much")
    assert warnings([*items(DAYS[0], DAYS[1]), *rejected]) == [
        "A run would be `partial`: 2 of 5 items became quotes, where `least_good` is 0.5."
    ]
    assert warnings([*items(*DAYS[:3]), *rejected]) == []


def test_times_out_of_order_are_shown_with_their_listing() -> None:
    [warning] = warnings(items(DAYS[0], DAYS[1], DAYS[4], DAYS[3]))
    assert warning == (
        "The times of x1 in USD are out of order: 2026-01-04T00:00:00+00:00 follows 2026-01-05T00:00:00+00:00; "
        "is a day read as a month?"
    )


def test_equal_times_are_shown() -> None:
    body = [*items(DAYS[0]), *items(DAYS[0], source_asset_id="x2")]
    assert warnings(body) == ["Every quote has the same time, 2026-01-01T00:00:00+00:00; is it the time of the price?"]
    [warning] = warnings([{**item, "observed_at": FETCHED.isoformat()} for item in body])
    assert warning.startswith("All times are the time of the fetch")


def test_fields_that_nothing_uses_are_named() -> None:
    body = items(DAYS[0], extra="1", empty=None, nested={"used": "2", "unused": "3"}, whole={"a": 1})

    def normalize(item: Any) -> Any:
        str(item["whole"])
        return {name: item[name] for name in (*KEYS, "observed_at")} | {"high": item["nested"]["used"]}

    assert warnings(body, normalize=normalize) == ["Nothing uses these fields of the items: extra, nested.unused."]
    copied = warnings(body, normalize=lambda item: {**item, "extra": None, "nested": None} and normalize(item))
    assert copied == ["Nothing uses these fields of the items: nested.unused."]


def test_unused_columns_of_a_file_are_named() -> None:
    files = daily_files(
        constants={},
        columns={"observed_at": "day", "price": "price"},
        templates=dict.fromkeys(list(KEYS)[:4], "{coin}"),
    )
    row = {"day": "2026-01-01", "price": "1", "coin": "USD", "note": "x"}
    item = {"file": "a.csv", "line": 2, "row": row}
    found = warnings([item], normalize=lambda item: files.record(item["file"], item["row"], item.get("currency")))
    assert found == ["Nothing uses these fields of the items: note."]


def test_floats_are_named() -> None:
    body = items(DAYS[0], price=1.5, more={"low": [1.25]})
    decoded = warnings(body, parse=lambda page: json.loads(page.body), normalize=dict)
    assert (
        decoded[0] == "`parse` returns floats in price, more.low, so digits are lost; decode the body with read_json."
    )
    [warning] = warnings(items(DAYS[0]), normalize=lambda item: {**item, "price": float(item["price"])})
    assert warning.startswith("`normalize` returns floats in price, ")


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("Bitcoin", None),
        ("Bitcoin Cash", None),
        ("Česko", None),
        ("'t Hooft", None),
        (" BTC", "has white space around it"),
        ("B\u200bTC", "has an invisible or a control character"),
        ("\ufeffBTC", "has an invisible or a control character"),
        ("B\tTC", "has an invisible or a control character"),
        ('"BTC"', "has quotation marks around it"),
        ('="BTC"', "has quotation marks around it"),
        ("C\u030cesko", "is not in the Unicode form NFC"),
    ],
)
def test_a_key_that_needs_cleaning_has_a_problem(key: str, problem: str | None) -> None:
    assert find_problem(key) == problem


def test_a_key_that_needs_cleaning_is_shown_once_with_its_item() -> None:
    found = warnings([*items(DAYS[0]), *items(DAYS[1], DAYS[2], symbol="B\u200bTC")])
    assert found == ["symbol needs cleaning: 'B\\u200bTC' has an invisible or a control character (item 1)."]


def test_members_of_the_body_that_are_no_items_are_counted() -> None:
    body = {"meta": [1, 2], "data": items(*DAYS)}
    assert warnings(body, parse=lambda page: read_json(page.body)["data"]) == []
    [warning] = warnings(body, parse=lambda page: read_json(page.body)["data"][:4])
    assert warning == (
        "The largest array of the body has 6 members, but `parse` yields 4 items; "
        "yield LEFT_OUT for each one that is no quote."
    )
    assert warnings(body, parse=lambda page: [*read_json(page.body)["data"][:4], LEFT_OUT, LEFT_OUT]) == []


def test_the_largest_array_is_not_a_part_of_an_item() -> None:
    assert largest_array([{"sparkline": [1, 2, 3]}, {"sparkline": [1, 2, 3]}]) == [{"sparkline": [1, 2, 3]}] * 2
    assert largest_array([{"data": [1, 2, 3]}]) == [1, 2, 3]
    assert largest_array({"a": {"b": [1, 2]}, "c": [1]}) == [1, 2]
    assert largest_array("text") == ()


PAGED = {"params": {"page": 1, "per_page": 10}}
SHORT = (
    "`fetch` ends after a page of 6 items instead of 10, but upstreams may drop single items; "
    "go on to an empty page, or use NumberedPages."
)
OTHER_SIZE = "The page has 6 items, although {} were requested; does the upstream ignore or limit the size?"


@pytest.mark.parametrize(
    ("request_", "is_last", "headers", "expected"),
    [
        (PAGED, True, {}, [SHORT]),
        ({"json": {"offset": "0", "limit": "10"}}, True, {}, [SHORT]),
        (PAGED, True, {"x-total-count": "6"}, []),
        ({"params": {"limit": 10}}, True, {}, []),
        (PAGED, False, {}, [OTHER_SIZE.format(10)]),
        ({"params": {"page": 1, "limit": 5}}, True, {}, [OTHER_SIZE.format(5)]),
        ({"params": {"page": 1, "limit": 6}}, True, {}, []),
        ({"params": {"page": 1}}, True, {}, []),
    ],
)
def test_short_pages_and_other_sizes_are_shown(
    request_: Mapping[str, Any], is_last: bool, headers: Mapping[str, str], expected: list[str]
) -> None:
    assert warnings(items(*DAYS), request=request_, is_last=is_last, headers=headers) == expected


def test_a_total_in_the_body_explains_a_short_page() -> None:
    body = {"total": 6, "data": items(*DAYS)}
    assert warnings(body, request=PAGED, is_last=True, parse=lambda page: read_json(page.body)["data"]) == []


@pytest.mark.parametrize(
    ("dates", "is_ambiguous"),
    [
        (["03/02/2026", "04/02/2026"], True),
        (["03.02.2026 10:00"], True),
        (["03/02/2026", "13/02/2026"], False),
        (["03/03/2026"], False),
        (["03/02/2026", "noon"], False),
        (["2026-02-03"], False),
    ],
)
def test_dates_that_two_formats_fit_are_shown(dates: list[str], is_ambiguous: bool) -> None:
    def normalize(item: Any) -> Any:
        at = datetime.fromisoformat(DAYS[0]) + timedelta(days=len(item["day"]) % 3)
        return {**{name: item[name] for name in KEYS}, "observed_at": at.astimezone(UTC)}

    body = [{**KEYS, "source_asset_id": day, "day": day} for day in dates]
    found = [warning for warning in warnings(body, normalize=normalize) if warning.startswith("day fits")]
    assert bool(found) == is_ambiguous
    if found:
        assert f"fits with the day first and with the month first, such as {dates[0][:10]}" in found[0]
