"""Generate normalized items for property-based tests, and validate single items."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from sources.contract import Reject
from sources.record import Quote, Record
from tests.upstreams import item

LATEST = datetime(2026, 2, 1, tzinfo=UTC)
RECORD = Record(latest=LATEST)
FIELDS = [field.name for field in fields(Quote)]
TEXTS = ["source_asset_id", "symbol", "name"]
NUMBERS = ["open", "high", "low", "volume_24h", "market_cap", "circulating_supply", "total_supply", "max_supply"]
TICK = timedelta(microseconds=1)

NAN, INFINITY = Decimal("NaN"), Decimal("Infinity")
deep: Any = []
for _ in range(5000):
    deep = [deep]

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.builds(Decimal, st.tuples(st.integers(0, 1), st.tuples(st.integers(1, 9)), st.integers(-(10**17), 10**17)))
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs", "Cc", "Nd"]))
    | st.from_regex(r"[+-]?[0-9]{1,9}(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,6})?", fullmatch=True)
    | st.datetimes()
    | st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))]))
    | st.datetimes().map(lambda moment: moment.isoformat() + "Z")
)
values = leaves | st.lists(leaves, max_size=3) | st.dictionaries(st.text(max_size=3), leaves, max_size=3)


def validated(normalized: dict[str, Any]) -> Quote | Reject:
    try:
        return RECORD.judge(normalized).quote
    except Reject as reject:
        return reject


def codes(normalized: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the (field, code) of each reason to reject an item. The list is empty for a valid item."""
    result = validated(normalized)
    return [(reason["field"], reason["code"]) for reason in result.reasons] if isinstance(result, Reject) else []


def dropped(normalized: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the (field, code) of each value that is dropped from an item, and assert that these fields are null."""
    quote, values = RECORD.judge(normalized)
    assert all(getattr(quote, value.field) is None for value in values)
    return [(value.field, value.code) for value in values]


def code(field: str, value: Any) -> str:
    """Return the code of the only reason to reject an item with this value, or to drop the value.

    Return an empty string for a valid value.
    """
    normalized = item(**{field: value})
    match codes(normalized) or dropped(normalized):
        case []:
            return ""
        case [(name, code)]:
            assert name == field
            return code
        case reasons:
            raise AssertionError(f"expected one reason, got {reasons}")
