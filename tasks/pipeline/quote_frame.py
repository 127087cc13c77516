"""Combine a page's quotes in one frame: one row per listing and instant, sorted by both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import polars as pl

from sources.record import VALUE_FIELDS, Quote
from sources.record_columns import TIME, ListingFields, ValidatedColumns, key_of
from tasks.pipeline.conflicts import Conflicts, find_conflicts


def _empty_frame() -> pl.DataFrame:
    return pl.DataFrame(schema={"listing": pl.UInt32, "observed_at": TIME})


@dataclass(frozen=True)
class QuoteFrame:
    """The quotes of a page.

    listings: the distinct listings of the page.
    frame:    one row per quote, with the columns `listing` (an index into listings) and `observed_at`, and the values
              as text.
    conflicts: the items that are not used, although their values differ from those of the used item.
    """

    listings: Sequence[ListingFields] = ()
    frame: pl.DataFrame = field(default_factory=_empty_frame)
    conflicts: Conflicts = field(default_factory=Conflicts)

    @classmethod
    def of(cls, validated: ValidatedColumns, single_quotes: Sequence[tuple[int, Quote]]) -> QuoteFrame:
        """Combine the rows that were validated as columns with the quotes that were validated one by one.

        If two items are quotes of one listing at one instant, the later item is used. If a listing has two names, the
        later name is used. single_quotes: quotes with their index among the page's items.
        """
        frame, listings = validated.accepted, list(validated.listings)
        if single_quotes:
            frame = pl.concat([frame, _as_frame(single_quotes, first=len(listings))], how="diagonal")
            listings += [
                ListingFields(quote.source_asset_id, quote.symbol, quote.name, quote.quote_currency)
                for _, quote in single_quotes
            ]
        listings, new_indexes = _unique(listings, frame)
        items = frame.with_columns(
            pl.Series(new_indexes, dtype=pl.UInt32).gather(frame["listing"]).alias("listing")
        ).sort("listing", "observed_at", "item")
        used = items.filter(
            (pl.col("listing") != pl.col("listing").shift(-1)).fill_null(value=True)
            | (pl.col("observed_at") != pl.col("observed_at").shift(-1))
        )
        has_duplicates = len(used) < len(items)
        conflicts = find_conflicts(items, [key_of(listing) for listing in listings]) if has_duplicates else Conflicts()
        return cls(listings, used.drop("item"), conflicts)

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[Quote]:
        """Yield each quote as a record."""
        for index, at, *texts in self.rows():
            numbers = (None if text is None else Decimal(text) for text in texts)
            values: dict[str, Any] = dict(zip(VALUE_FIELDS, numbers, strict=True))
            values["rank"] = None if values["rank"] is None else int(values["rank"])
            yield Quote(**self.listings[index]._asdict(), observed_at=at, **values)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield, for each quote, its index into listings, its time, and all its values as text."""
        present = self.frame.columns
        values = [pl.col(name) if name in present else pl.lit(None, pl.String).alias(name) for name in VALUE_FIELDS]
        return self.frame.select("listing", "observed_at", *values).iter_rows()


def _as_frame(single_quotes: Sequence[tuple[int, Quote]], first: int) -> pl.DataFrame:
    """Return the quotes as a frame with the columns of a validated frame. first: index of the first quote's listing."""
    rows = [
        [index, listing, quote.observed_at, *(_text(getattr(quote, name)) for name in VALUE_FIELDS)]
        for listing, (index, quote) in enumerate(single_quotes, first)
    ]
    schema: dict[str, Any] = {
        "item": pl.UInt32,
        "listing": pl.UInt32,
        "observed_at": TIME,
        **dict.fromkeys(VALUE_FIELDS, pl.String),
    }
    return pl.DataFrame(rows, schema, orient="row")


def _text(value: Decimal | int | None) -> str | None:
    return None if value is None else str(value)


def _unique(listings: Sequence[ListingFields], frame: pl.DataFrame) -> tuple[list[ListingFields], list[int]]:
    """Return the frame's distinct listings, named as in the latest item, and the new index of each old listing."""
    latest = frame.group_by("listing").agg(pl.col("item").max()).sort("item")["listing"]
    by_key = {key_of(listings[index]): listings[index] for index in latest}
    indexes = {key: index for index, key in enumerate(by_key)}
    return list(by_key.values()), [indexes.get(key_of(listing), 0) for listing in listings]
