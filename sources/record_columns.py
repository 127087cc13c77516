"""The columnar validator: of many normalized items at once, those that the reference validator surely takes. Pure.

It errs on the side of caution. What it takes, sources/record.py takes, with the same values; of what it leaves, that
one judges each by itself and writes the reasons. A number in an odd spelling costs time, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import polars as pl
from marshmallow import ValidationError

from sources.record import EARLIEST, KEY_FIELDS, MAX_DIGITS, VALUE_FIELDS, Record

TIME = pl.Datetime("us", "UTC")

PLAIN_ZERO = re.compile(r"[+-]?(?:0+\.?0*|\.0+)")
WHOLE_NUMBER = r"^[0-9]{1,9}$"
# Well within the record's own limits: a float is only near the number, and nothing else is done with it.
LARGEST, SMALLEST = 1e39, 1e-59

DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
# No second 60: polars knows leap seconds, Python does not.
CLOCK = r"[0-9]{2}:[0-9]{2}:[0-5][0-9]"
# Apart: a format with a fraction takes polars five times as long, whether there is one or not.
CLOCKS = {CLOCK: "%H:%M:%S", rf"{CLOCK}\.[0-9]{{1,6}}": "%H:%M:%S%.f"}
OFFSET = r"(?:Z|\+00:00)$"
WITH_OFFSET, WITHOUT = (
    {f"^{DAY}{sign}{clock}{end}": f"%Y-%m-%d{sign}{written}" for clock, written in CLOCKS.items() for sign in "T "}
    for end in (OFFSET, "$")
)
WITHOUT[f"^{DAY}$"] = "%Y-%m-%d"


class ListingFields(NamedTuple):
    """What a quote is of, as its source has it."""

    source_asset_id: str
    symbol: str
    name: str
    quote_currency: str


ListingKey = tuple[str, str]
"""source_asset_id and quote_currency: a listing's key within its source."""


def key_of(listed: ListingFields) -> ListingKey:
    return listed.source_asset_id, listed.quote_currency


class ValidatedColumns(NamedTuple):
    """taken: `item`, `listed` (a place in `listed`), `observed_at`, and the values as text. left: places of items."""

    taken: pl.DataFrame
    listed: Sequence[ListingFields]
    left: Sequence[int]


def validate_columns(frame: pl.DataFrame, latest: datetime) -> ValidatedColumns:
    """Judge a frame as sources/contract.py's Columns has it. latest: as of sources/record.py's Record."""
    missing = [name for name in (*KEY_FIELDS, "observed_at", "price") if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
    listed, of_row = _listed(frame, Record(latest))
    at = frame["observed_at"]
    at = at if at.dtype == TIME else read_iso(at, naive=False)
    columns = [frame["item"], of_row.alias("listed"), at]
    columns += [frame[name].cast(pl.String) for name in VALUE_FIELDS if name in frame.columns]
    judged = pl.DataFrame(columns)
    surely = _with_near(judged).select(pl.all_horizontal(*_checks(judged, latest)).fill_null(value=False)).to_series()
    return ValidatedColumns(judged.filter(surely), listed, frame["item"].filter(~surely).to_list())


def read_iso(text: pl.Series, *, naive: bool) -> pl.Series:
    """ISO texts as times in UTC; null for what is not in a usual spelling. naive: without an offset, else with one."""
    spellings = WITHOUT if naive else WITH_OFFSET
    first = text.drop_nulls().head(1).to_list()
    # Most are like the first.
    likely = sorted(spellings, key=lambda pattern: not any(re.search(pattern, one) for one in first))
    found = _read(text, likely[0], spellings[likely[0]])
    for pattern in likely[1:]:
        unread = found.is_null() & text.is_not_null()
        if unread.any():
            found = found.scatter(unread.arg_true(), _read(text.filter(unread), pattern, spellings[pattern]))
    return found.dt.replace_time_zone("UTC").alias(text.name)


def _read(text: pl.Series, pattern: str, written: str) -> pl.Series:
    """As polars reads it, where the pattern leaves it no choice."""
    plain = pl.col("text").str.replace(OFFSET, "") if pattern.endswith(OFFSET) else pl.col("text")
    read = plain.str.to_datetime(written, strict=False, time_unit="us")
    return text.to_frame("text").select(pl.when(pl.col("text").str.contains(pattern)).then(read)).to_series()


def _listed(frame: pl.DataFrame, record: Record) -> tuple[list[ListingFields], pl.Series]:
    """The different things that the rows are of, as the record spells them; and for each row which, null if none.

    Of many rows in a row it is the same, or of few things in turn.
    """
    begins = frame.select(
        pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in KEY_FIELDS)
        | (pl.int_range(pl.len()) == 0)
    ).to_series()
    places: dict[ListingFields, int] = {}
    known: dict[tuple[str | None, ...], int | None] = {}
    of_begin = []
    for texts in frame.filter(begins).select(KEY_FIELDS).iter_rows():
        if texts not in known:
            listed = _spelled(texts, record)
            known[texts] = None if listed is None else places.setdefault(listed, len(places))
        of_begin.append(known[texts])
    of_row = pl.Series(of_begin, dtype=pl.UInt32).gather(begins.cum_sum() - 1)
    return list(places), of_row


def _spelled(texts: tuple[str | None, ...], record: Record) -> ListingFields | None:
    try:
        spelled = [record.fields[name].deserialize(text) for name, text in zip(KEY_FIELDS, texts, strict=True)]
        return ListingFields(*map(str, spelled))
    except ValidationError:
        return None


def _with_near(judged: pl.DataFrame) -> pl.DataFrame:
    """With each number as a float beside it; null for what is no number, or is one that a float does not tell of.

    polars takes what the record's pattern takes, infinities, and exponents of any size: both are out of range. To hold
    each text against a pattern takes longer than all else here.
    """
    numbers = [name for name in judged.columns if name in VALUE_FIELDS and name != "rank"]
    near = judged.select(pl.col(name).cast(pl.Float64, strict=False) for name in numbers)
    for name in numbers:
        text, number = judged[name], near[name]
        # What is too small for a float is no zero.
        small = [spelled for spelled in text.filter(number == 0).unique() if not PLAIN_ZERO.fullmatch(spelled)]
        if small:
            number = number.set(text.is_in(small), None)
            near = near.with_columns(number)
    return pl.concat([judged, near.rename(_near)], how="horizontal")


def _near(name: str) -> str:
    return f"{name} as a float"


def _checks(judged: pl.DataFrame, latest: datetime) -> Iterator[pl.Expr]:
    yield pl.col("listed").is_not_null()
    yield pl.col("observed_at").is_between(EARLIEST, latest)
    yield pl.col("price").is_not_null()
    for name in set(judged.columns).intersection(VALUE_FIELDS):
        check = _is_rank(name) if name == "rank" else _is_number(name)
        yield pl.col(name).is_null() | check
    if {"high", "low"} <= set(judged.columns):
        high, low = pl.col("high"), pl.col("low")
        yield high.is_null() | low.is_null() | (high == low) | (pl.col(_near("high")) > pl.col(_near("low")))


def _is_number(name: str) -> pl.Expr:
    near, sized = pl.col(_near(name)), pl.col(name).str.len_bytes() <= MAX_DIGITS
    if name == "price":
        return sized & near.is_between(SMALLEST, LARGEST)
    is_in_range = near.is_between(SMALLEST, LARGEST) | (near == 0)
    return sized & (is_in_range | near.is_between(-LARGEST, -SMALLEST) if name == "change_24h_pct" else is_in_range)


def _is_rank(name: str) -> pl.Expr:
    return pl.col(name).str.contains(WHOLE_NUMBER) & (pl.col(name).cast(pl.Int64, strict=False) >= 1)
