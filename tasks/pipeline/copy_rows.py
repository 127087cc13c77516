"""A page's quotes as rows of their table, in the order of its key, written out as COPY reads them."""

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
from tasks.pipeline.quote_frame import QuoteFrame

SPAN = {"listings": "listing_id", "since": "since", "until": "until"}

# Postgres reads a time the faster the shorter it is: a history's without seconds in a third of the time; and one that
# all rows share a quarter faster with a blank in its middle than with a T.
MINUTES, SECONDS, MICROSECONDS = "%Y-%m-%d %H:%MZ", "%Y-%m-%d %H:%M:%SZ", "%Y-%m-%d %H:%M:%S%.6fZ"


@dataclass(frozen=True)
class CopyRows:
    """frame: the rows, as `arrange` gives them. What they share is when their page was fetched, and the run."""

    frame: pl.DataFrame
    fetched_at: datetime
    run: uuid.UUID

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, mask: pl.Series) -> CopyRows:
        return replace(self, frame=self.frame.filter(mask))

    def none(self) -> CopyRows:
        return replace(self, frame=self.frame.clear())

    @cached_property
    def spans(self) -> Mapping[str, list[Any]]:
        """Of each listing the first and the last time."""
        spans = self.frame.group_by("listing_id", maintain_order=True).agg(
            pl.col("observed_at").first().alias("since"), pl.col("observed_at").last().alias("until")
        )
        return {name: spans[column].to_list() for name, column in SPAN.items()}

    @property
    def filled(self) -> dict[str, int]:
        """By value how many have it; without those that none has."""
        return {name: len(self) - self.frame[name].null_count() for name in VALUE_FIELDS if name in self.frame.columns}

    @cached_property
    def text(self) -> bytes:
        """A line for each row, with what they share at the end of each."""
        return self._written(f"\t{self.fetched_at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f+00}\t{self.run}\n")

    @property
    def bare_text(self) -> bytes:
        """A line for each row, without what they share."""
        return self._written("\n")

    def _written(self, line_end: str) -> bytes:
        written = io.BytesIO()
        self.frame.write_csv(
            written,
            include_header=False,
            separator="\t",
            line_terminator=line_end,
            null_value="\\N",
            quote_style="never",
            datetime_format=_shortest(self.frame["observed_at"]),
        )
        return written.getvalue()


def arrange(quotes: QuoteFrame, listings: Sequence[int]) -> pl.DataFrame:
    """Quotes as their table has them, in the order of its key. listings: the id of each that they are of."""
    ids = pl.Series(listings, dtype=pl.Int32).gather(quotes.frame["listed"])
    arranged = quotes.frame.select(ids.alias("listing_id"), pl.exclude("listed")).sort("listing_id", "observed_at")
    return arranged.drop(
        name for name in VALUE_FIELDS if name in arranged and arranged[name].null_count() == len(arranged)
    )


def _shortest(times: pl.Series) -> str:
    """The shortest format that keeps all of these times as they are."""
    for unit, written in (("1m", MINUTES), ("1s", SECONDS)):
        if (times == times.dt.truncate(unit)).all():
            return written
    return MICROSECONDS
