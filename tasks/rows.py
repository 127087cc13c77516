"""A page's quotes as rows of their table, in the order of its key, written out as COPY reads them."""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from sources.contract import Page
from sources.record import VALUES
from tasks.quotes import Quotes

SPAN = {"listings": "listing_id", "since": "since", "until": "until"}


@dataclass(frozen=True)
class Rows:
    """text: the lines, each with the values of `columns`. spans: of each listing the first and the last time."""

    count: int
    columns: Sequence[str]
    text: bytes
    spans: Mapping[str, list[Any]]

    @classmethod
    def of(cls, arranged: pl.DataFrame, page: Page, run: uuid.UUID) -> Rows:
        """arranged: as `arrange` gives them. What all rows share is written as the end of each line."""
        spans = arranged.group_by("listing_id", maintain_order=True).agg(
            pl.col("observed_at").first().alias("since"), pl.col("observed_at").last().alias("until")
        )
        written = io.BytesIO()
        arranged.write_csv(
            written,
            include_header=False,
            separator="\t",
            line_terminator=f"\t{page.fetched_at.isoformat()}\t{run}\n",
            null_value="\\N",
            quote_style="never",
            datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ",
        )
        return cls(
            count=len(arranged),
            columns=(*arranged.columns, "fetched_at", "run"),
            text=written.getvalue(),
            spans={name: spans[column].to_list() for name, column in SPAN.items()},
        )


def arrange(quotes: Quotes, listings: Sequence[int]) -> pl.DataFrame:
    """Quotes as their table has them, in the order of its key. listings: the id of each that they are of."""
    ids = pl.Series(listings, dtype=pl.Int32).gather(quotes.frame["listed"])
    arranged = quotes.frame.select(ids.alias("listing_id"), pl.exclude("listed")).sort("listing_id", "observed_at")
    return arranged.drop(name for name in VALUES if name in arranged and arranged[name].null_count() == len(arranged))
