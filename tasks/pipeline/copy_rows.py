"""Convert a page's quotes to rows of the table `quotes`, sorted by its primary key, and to lines for COPY."""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import polars as pl

from sources.record import VALUE_FIELDS
from sources.record_columns import ListingKey
from tasks.pipeline.quote_frame import QuoteFrame

SPAN_COLUMNS = {"listings": "listing_id", "since": "since", "until": "until"}
"""The query parameters for spans, and the column of each parameter."""

# Postgres parses short times faster. A time without seconds takes a third as long to parse. A space instead of the T
# saves a quarter of the time.
MINUTES, SECONDS, MICROSECONDS = "%Y-%m-%d %H:%MZ", "%Y-%m-%d %H:%M:%SZ", "%Y-%m-%d %H:%M:%S%.6fZ"


@dataclass(frozen=True)
class KnownListings:
    """The listings of a page. keys: by the id of a listing, its key within the source."""

    source: str
    keys: Mapping[int, ListingKey]


@dataclass(frozen=True)
class CopyRows:
    """The rows of one page.

    frame: the result of `arrange`.
    fetched_at, run: values of these columns in all rows.
    listings: the listings that the ids in `frame` must belong to. None for rows that are compared and never written.
    ingested_at: value of this column in all rows; None for the column's default, the start of the transaction.
    seen: the keys of all quotes of the page, even if they have no row. None unless the run retracts missing quotes.
    """

    frame: pl.DataFrame
    fetched_at: datetime
    run: uuid.UUID
    listings: KnownListings | None
    ingested_at: datetime | None = None
    seen: pl.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, mask: pl.Series) -> CopyRows:
        return replace(self, frame=self.frame.filter(mask))

    def empty(self) -> CopyRows:
        return replace(self, frame=self.frame.clear())

    @cached_property
    def spans(self) -> Mapping[str, list[Any]]:
        """Return each listing's first and last time, as parallel lists: listings, since, until."""
        spans = self.frame.group_by("listing_id", maintain_order=True).agg(
            pl.col("observed_at").first().alias("since"), pl.col("observed_at").last().alias("until")
        )
        return {name: spans[column].to_list() for name, column in SPAN_COLUMNS.items()}

    @cached_property
    def proof(self) -> Mapping[str, Any]:
        """Return the SQL parameters that verify the ids of the spans' listings: their source, ids and keys.

        Without known listings, return empty lists.
        """
        if self.listings is None:
            return {"source": "", "proven": [], "ids": [], "currencies": []}
        proven = self.spans["listings"]
        keys = [self.listings.keys[listing] for listing in proven]
        ids, currencies = [key[0] for key in keys], [key[1] for key in keys]
        return {"source": self.listings.source, "proven": proven, "ids": ids, "currencies": currencies}

    @property
    def filled(self) -> dict[str, int]:
        """Return the number of non-null values by column. Columns without values are left out."""
        return {name: len(self) - self.frame[name].null_count() for name in VALUE_FIELDS if name in self.frame.columns}

    @cached_property
    def text(self) -> bytes:
        """Return one line per row for COPY, with the shared values at the end of each line."""
        return self._as_lines("".join(f"\t{value}" for value in self.shared.values()) + "\n")

    @property
    def shared(self) -> dict[str, str]:
        """Return the columns that have one value in all rows, with this value as text for COPY."""
        times = {"fetched_at": self.fetched_at, "ingested_at": self.ingested_at}
        texts = {name: f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f+00}" for name, at in times.items() if at}
        return {**texts, "run": str(self.run)}

    @property
    def bare_text(self) -> bytes:
        """Return one line per row for COPY, without the shared values."""
        return self._as_lines("\n")

    def _as_lines(self, line_end: str) -> bytes:
        lines = io.BytesIO()
        self.frame.write_csv(
            lines,
            include_header=False,
            separator="\t",
            line_terminator=line_end,
            null_value="\\N",
            quote_style="never",
            datetime_format=_shortest_format(self.frame["observed_at"]),
        )
        return lines.getvalue()


def arrange(quotes: QuoteFrame, listings: Sequence[int]) -> pl.DataFrame:
    """Return the quotes as rows of their table, sorted by its primary key. listings: the id of each listing."""
    ids = pl.Series(listings, dtype=pl.Int32).gather(quotes.frame["listing"])
    frame = quotes.frame.select(ids.alias("listing_id"), pl.exclude("listing")).sort("listing_id", "observed_at")
    return frame.drop(name for name in VALUE_FIELDS if name in frame and frame[name].null_count() == len(frame))


def _shortest_format(times: pl.Series) -> str:
    """Return the shortest format that represents these times exactly."""
    for unit, time_format in (("1m", MINUTES), ("1s", SECONDS)):
        if (times == times.dt.truncate(unit)).all():
            return time_format
    return MICROSECONDS
