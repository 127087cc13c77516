"""Validate many normalized items at once as columns, and accept those that are certainly valid. Pure.

The row validator (sources/record.py) validates all other items one by one, drops their invalid side values, and reports
the reasons for rejects. It would accept every item that this module accepts, with the same values. An unusual spelling
therefore only takes longer to validate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import polars as pl
from marshmallow import ValidationError

from sources.record import EARLIEST, KEY_FIELDS, MAX_DIGITS, VALUE_FIELDS, Record
from sources.record_rules import RANGE_TOLERANCE

TIME = pl.Datetime("us", "UTC")

PLAIN_ZERO = re.compile(r"[+-]?(?:0+\.?0*|\.0+)")
WHOLE_NUMBER = r"^[0-9]{1,9}$"
# These bounds are well within the record's own bounds, since floats are approximate. Floats are used only for these
# checks.
LARGEST, SMALLEST = 1e39, 1e-59
CERTAIN_TOLERANCE = 0.95 * RANGE_TOLERANCE

FLOAT_DIGITS = 15
"""Two decimal numbers with at most this many digits are equal if their floats are."""

DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
# Exclude second 60: polars accepts leap seconds, Python does not.
CLOCK = r"[0-9]{2}:[0-9]{2}:[0-5][0-9]"
# Two formats: polars takes five times as long for one with a fraction, even if no text has a fraction.
CLOCK_FORMATS = {CLOCK: "%H:%M:%S", rf"{CLOCK}\.[0-9]{{1,6}}": "%H:%M:%S%.f"}
UTC_OFFSET = r"(?:Z|\+00:00)$"
AWARE_FORMATS, NAIVE_FORMATS = (
    {
        f"^{DATE}{separator}{clock}{end}": f"%Y-%m-%d{separator}{clock_format}"
        for clock, clock_format in CLOCK_FORMATS.items()
        for separator in "T "
    }
    for end in (UTC_OFFSET, "$")
)
NAIVE_FORMATS[f"^{DATE}$"] = "%Y-%m-%d"


class ListingFields(NamedTuple):
    """The key fields of a listing, as its source spells them."""

    source_asset_id: str
    symbol: str
    name: str
    quote_currency: str


ListingKey = tuple[str, str]
"""source_asset_id and quote_currency: a listing's key within its source."""


def key_of(listing: ListingFields) -> ListingKey:
    return listing.source_asset_id, listing.quote_currency


class ValidatedColumns(NamedTuple):
    """The result of the columnar validation.

    accepted:  a frame of the valid items. `item` is the item's index in the page, and `listing` is an index into
               `listings`. The other columns are `observed_at` and the values as text.
    listings:  the distinct listings of all rows.
    undecided: the indexes of the items that the row validator must check.
    """

    accepted: pl.DataFrame
    listings: Sequence[ListingFields]
    undecided: Sequence[int]


def validate_columns(frame: pl.DataFrame, latest: datetime) -> ValidatedColumns:
    """Validate the frame of a `sources.contract.Columns`. latest: see `sources.record.Record`."""
    missing = [name for name in (*KEY_FIELDS, "observed_at", "price") if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
    listings, listing_of_row = _listings(frame, Record(latest))
    times = frame["observed_at"]
    times = times if times.dtype == TIME else read_iso(times, naive=False)
    columns = [frame["item"], listing_of_row.alias("listing"), times]
    columns += [frame[name].cast(pl.String) for name in VALUE_FIELDS if name in frame.columns]
    rows = pl.DataFrame(columns)
    is_valid = _with_floats(rows).select(pl.all_horizontal(*_checks(rows, latest)).fill_null(value=False)).to_series()
    return ValidatedColumns(rows.filter(is_valid), listings, frame["item"].filter(~is_valid).to_list())


def read_iso(texts: pl.Series, *, naive: bool) -> pl.Series:
    """Parse ISO 8601 texts as times in UTC; null for a text in an unusual format.

    naive: whether the texts have no offset, and are in UTC. Otherwise only texts with the offset of UTC are parsed.
    """
    formats = NAIVE_FORMATS if naive else AWARE_FORMATS
    first = texts.drop_nulls().head(1).to_list()
    # Try the format of the first text first, since most texts have it.
    patterns = sorted(formats, key=lambda pattern: not any(re.search(pattern, text) for text in first))
    times = _parse_times(texts, patterns[0], formats[patterns[0]])
    for pattern in patterns[1:]:
        unread = times.is_null() & texts.is_not_null()
        if unread.any():
            times = times.scatter(unread.arg_true(), _parse_times(texts.filter(unread), pattern, formats[pattern]))
    return times.dt.replace_time_zone("UTC").alias(texts.name)


def _parse_times(texts: pl.Series, pattern: str, time_format: str) -> pl.Series:
    """Parse the texts that match the pattern, as Python would; null for all others."""
    plain = pl.col("text").str.replace(UTC_OFFSET, "") if pattern.endswith(UTC_OFFSET) else pl.col("text")
    time = plain.str.to_datetime(time_format, strict=False, time_unit="us")
    return texts.to_frame("text").select(pl.when(pl.col("text").str.contains(pattern)).then(time)).to_series()


def _listings(frame: pl.DataFrame, record: Record) -> tuple[list[ListingFields], pl.Series]:
    """Return the distinct listings, normalized by the record, and each row's index into them, null if invalid.

    Most files have all rows of a listing together, or alternate between few listings. A listing is therefore validated
    once for each distinct spelling, not once for each row.
    """
    starts_series = frame.select(
        pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in KEY_FIELDS)
        | (pl.int_range(pl.len()) == 0)
    ).to_series()
    indexes: dict[ListingFields, int] = {}
    index_of_texts: dict[tuple[str | None, ...], int | None] = {}
    index_of_series = []
    for texts in frame.filter(starts_series).select(KEY_FIELDS).iter_rows():
        if texts not in index_of_texts:
            listing = _validated_listing(texts, record)
            index_of_texts[texts] = None if listing is None else indexes.setdefault(listing, len(indexes))
        index_of_series.append(index_of_texts[texts])
    index_of_row = pl.Series(index_of_series, dtype=pl.UInt32).gather(starts_series.cum_sum() - 1)
    return list(indexes), index_of_row


def _validated_listing(texts: tuple[str | None, ...], record: Record) -> ListingFields | None:
    try:
        values = [record.fields[name].deserialize(text) for name, text in zip(KEY_FIELDS, texts, strict=True)]
        return ListingFields(*map(str, values))
    except ValidationError:
        return None


def _with_floats(rows: pl.DataFrame) -> pl.DataFrame:
    """Add each number as a float; null for a text that is not a number, or a number that a float cannot represent.

    polars accepts every spelling that the record accepts. It also accepts infinities and exponents of any size, but
    these are out of range. Matching each text against the record's pattern would take longer than all other checks.
    """
    numbers = [name for name in rows.columns if name in VALUE_FIELDS and name != "rank"]
    floats = rows.select(pl.col(name).cast(pl.Float64, strict=False) for name in numbers)
    for name in numbers:
        text, number = rows[name], floats[name]
        # A number that is too small for a float becomes 0. The row validator checks it.
        small = [spelling for spelling in text.filter(number == 0).unique() if not PLAIN_ZERO.fullmatch(spelling)]
        if small:
            number = number.set(text.is_in(small), None)
            floats = floats.with_columns(number)
    return pl.concat([rows, floats.rename(_float_name)], how="horizontal")


def _float_name(name: str) -> str:
    return f"{name} as a float"


def _checks(rows: pl.DataFrame, latest: datetime) -> Iterator[pl.Expr]:
    """Yield the conditions of a valid row. A condition that is null counts as false."""
    yield pl.col("listing").is_not_null()
    yield pl.col("observed_at").is_between(EARLIEST, latest)
    yield pl.col("price").is_not_null()
    for name in set(rows.columns).intersection(VALUE_FIELDS):
        check = _is_rank(name) if name == "rank" else _is_number(name)
        yield pl.col(name).is_null() | check
    yield from _relations(set(rows.columns))


def _relations(columns: set[str]) -> Iterator[pl.Expr]:
    """Yield the conditions of values that do not contradict each other. See `find_contradictions`."""
    if {"high", "low"} <= columns:
        yield _at_most("low", "high")
    has_open = "open" in columns
    for lower, upper in (("low", "price"), ("price", "high")):
        if not {lower, upper} <= columns:
            continue
        is_near = pl.col(_float_name(lower)) < CERTAIN_TOLERANCE * pl.col(_float_name(upper))
        yield _at_most(lower, upper) | (is_near & pl.col("open").is_null() if has_open else is_near)
        if has_open:
            yield _at_most(*("open" if name == "price" else name for name in (lower, upper)))


def _at_most(lower: str, upper: str) -> pl.Expr:
    """Return whether a number is certainly at most another; true if one of them is unknown."""
    lower_text, upper_text = pl.col(lower), pl.col(upper)
    lower_float, upper_float = pl.col(_float_name(lower)), pl.col(_float_name(upper))
    is_exact = (lower_text.str.len_bytes() <= FLOAT_DIGITS) & (upper_text.str.len_bytes() <= FLOAT_DIGITS)
    is_equal = (lower_float == upper_float) & (is_exact | (lower_text == upper_text))
    # If the text of a null float is not null, it is no number, and another condition is false.
    return ((lower_float < upper_float) | is_equal).fill_null(value=True)


def _is_number(name: str) -> pl.Expr:
    number, is_short = pl.col(_float_name(name)), pl.col(name).str.len_bytes() <= MAX_DIGITS
    if name == "price":
        return is_short & number.is_between(SMALLEST, LARGEST)
    is_in_range = number.is_between(SMALLEST, LARGEST) | (number == 0)
    is_change = name == "change_24h_pct"
    return is_short & (is_in_range | number.is_between(-LARGEST, -SMALLEST) if is_change else is_in_range)


def _is_rank(name: str) -> pl.Expr:
    return pl.col(name).str.contains(WHOLE_NUMBER) & (pl.col(name).cast(pl.Int64, strict=False) >= 1)
