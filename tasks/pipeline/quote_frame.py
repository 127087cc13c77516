"""A page's quotes side by side: one for each listing and instant, in the order of both. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import polars as pl

from sources.record import VALUE_FIELDS, Quote
from sources.record_columns import TIME, ListingFields, ValidatedColumns, key_of


def _none() -> pl.DataFrame:
    return pl.DataFrame(schema={"listed": pl.UInt32, "observed_at": TIME})


@dataclass(frozen=True)
class QuoteFrame:
    """listed: what they are of, each once. frame: `listed`, the place of that; `observed_at`; the values as text."""

    listed: Sequence[ListingFields] = ()
    frame: pl.DataFrame = field(default_factory=_none)

    @classmethod
    def of(cls, judged: ValidatedColumns, closer: Sequence[tuple[int, Quote]]) -> QuoteFrame:
        """What the columnar validator took, and what a closer look did, with its place among the page's items.

        Of two quotes of one listing at one instant the later item stands, and of two names of one listing the later.
        """
        frame, listed = judged.taken, list(judged.listed)
        if closer:
            single = _as_frame(closer, first=len(listed))
            frame = pl.concat([frame, single], how="diagonal")
            listed += [ListingFields(it.source_asset_id, it.symbol, it.name, it.quote_currency) for _, it in closer]
        listed, place_of = _each_once(listed, frame)
        ordered = (
            frame.with_columns(pl.Series(place_of, dtype=pl.UInt32).gather(frame["listed"]).alias("listed"))
            .sort("listed", "observed_at", "item")
            .filter(
                (pl.col("listed") != pl.col("listed").shift(-1)).fill_null(value=True)
                | (pl.col("observed_at") != pl.col("observed_at").shift(-1))
            )
        )
        return cls(listed, ordered.drop("item"))

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[Quote]:
        """Each as a record of its own."""
        for place, at, *values in self.rows():
            numbers = (None if value is None else Decimal(value) for value in values)
            named: dict[str, Any] = dict(zip(VALUE_FIELDS, numbers, strict=True))
            named["rank"] = None if named["rank"] is None else int(named["rank"])
            yield Quote(**self.listed[place]._asdict(), observed_at=at, **named)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Of each its place in `listed`, its time, and all values there are, as text."""
        present = self.frame.columns
        values = [pl.col(name) if name in present else pl.lit(None, pl.String).alias(name) for name in VALUE_FIELDS]
        return self.frame.select("listed", "observed_at", *values).iter_rows()


def _as_frame(closer: Sequence[tuple[int, Quote]], first: int) -> pl.DataFrame:
    rows = [
        [
            place,
            number,
            quote.observed_at,
            *(None if (it := getattr(quote, name)) is None else str(it) for name in VALUE_FIELDS),
        ]
        for number, (place, quote) in enumerate(closer, first)
    ]
    schema: dict[str, Any] = {
        "item": pl.UInt32,
        "listed": pl.UInt32,
        "observed_at": TIME,
        **dict.fromkeys(VALUE_FIELDS, pl.String),
    }
    return pl.DataFrame(rows, schema, orient="row")


def _each_once(listed: Sequence[ListingFields], frame: pl.DataFrame) -> tuple[list[ListingFields], list[int]]:
    """The listings that the rows speak of, each as its latest item names it; and the place there of each that was."""
    latest = frame.group_by("listed").agg(pl.col("item").max()).sort("item")["listed"]
    by_key = {key_of(listed[place]): listed[place] for place in latest}
    places = {key: place for place, key in enumerate(by_key)}
    return list(by_key.values()), [places.get(key_of(one), 0) for one in listed]
