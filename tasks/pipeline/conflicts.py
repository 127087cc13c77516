"""Tell items that contradict each other from true duplicates: the same listing and time, with other values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from sources.record import VALUE_FIELDS
from sources.record_columns import ListingKey
from tasks.pipeline.numbers_in_text import differ

KEY = ["listing", "observed_at"]

USED = " used"
"""Suffix of the columns with the values of the item that is used."""


@dataclass(frozen=True)
class Conflict:
    """Two items with the same listing and time. values: by differing field, the earlier and the later value."""

    listing: ListingKey
    observed_at: datetime
    values: Mapping[str, tuple[str | None, str | None]]

    def as_json(self) -> dict[str, Any]:
        source_asset_id, quote_currency = self.listing
        return {
            "source_asset_id": source_asset_id,
            "quote_currency": quote_currency,
            "observed_at": self.observed_at.isoformat(),
            "values": {name: list(pair) for name, pair in self.values.items()},
        }


@dataclass(frozen=True)
class Conflicts:
    """The number of items that contradict another item, and the first of these conflicts."""

    count: int = 0
    first: Conflict | None = None

    def __add__(self, others: Conflicts) -> Conflicts:
        return Conflicts(self.count + others.count, self.first or others.first)


def find_conflicts(items: pl.DataFrame, keys: Sequence[ListingKey]) -> Conflicts:
    """Compare the items of each listing and time. The last item is used.

    items: the columns `listing` (an index into keys), `observed_at` and the values as text, sorted by KEY and by the
    order of the items.
    """
    is_first = _differs_from(items, shift=1)
    repeated = items.filter(~(is_first & _differs_from(items, shift=-1)))
    names = [name for name in VALUE_FIELDS if name in items.columns]
    pairs = repeated.with_columns(pl.col(name).last().over(KEY).alias(f"{name}{USED}") for name in names)
    conflicts = pl.Series([False], dtype=pl.Boolean).new_from_index(0, len(pairs))
    for name in names:
        is_other = pairs[name].ne_missing(pairs[f"{name}{USED}"])
        compared = pairs.filter(is_other).select(pl.col(name).alias("new"), pl.col(f"{name}{USED}").alias("stored"))
        conflicts = conflicts.scatter(is_other.arg_true().filter(differ(compared)), True)
    found = pairs.filter(conflicts)
    return Conflicts(len(found), _conflict(found.row(0, named=True), names, keys)) if len(found) else Conflicts()


def _differs_from(items: pl.DataFrame, shift: int) -> pl.Series:
    """Return, for each item, whether the item at this distance has another listing or time."""
    differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(shift)) for name in KEY)
    return items.select(differs.alias("differs"))["differs"]


def _conflict(row: Mapping[str, Any], names: Sequence[str], keys: Sequence[ListingKey]) -> Conflict:
    values = {name: (row[name], row[f"{name}{USED}"]) for name in names if row[name] != row[f"{name}{USED}"]}
    return Conflict(keys[row["listing"]], row["observed_at"], values)
