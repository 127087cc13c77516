"""Compare numbers that are written as text. Different texts can be equal numbers, such as 1e-7 and 0.0000001."""

from __future__ import annotations

from decimal import Decimal

import polars as pl

EXACT_DIGITS = 15
"""Two different numbers of at most this many decimal digits are two different floats."""


def differ(pairs: pl.DataFrame) -> pl.Series:
    """Return, for each pair of the texts `new` and `stored`, whether the two numbers differ. Null is no number."""
    differ, is_long = pairs.select(
        pl.col("new").cast(pl.Float64).ne_missing(pl.col("stored").cast(pl.Float64)).alias("differ"),
        pl.all_horizontal(pl.all().is_not_null())
        & pl.any_horizontal(pl.all().str.strip_chars_start("0.").str.len_bytes() > EXACT_DIGITS),
    )
    exact = [Decimal(new) != Decimal(stored) for new, stored in pairs.filter(is_long).iter_rows()]
    return differ.scatter(is_long.arg_true(), exact)
