"""Test that numbers in text are equal if they are equal as numbers, to the last digit."""

from __future__ import annotations

from decimal import Decimal

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tasks.pipeline.numbers_in_text import differ

numbers = st.decimals(min_value=-(10**20), max_value=10**20, allow_nan=False, allow_infinity=False).map(str)
pairs = st.tuples(numbers | st.none(), numbers | st.none()) | numbers.map(lambda text: (text, f"{Decimal(text):f}"))


@given(st.lists(pairs, max_size=20))
def test_texts_differ_exactly_if_their_numbers_differ(texts: list[tuple[str | None, str | None]]) -> None:
    frame = pl.DataFrame(texts, {"new": pl.String, "stored": pl.String}, orient="row")
    assert differ(frame).to_list() == [_number(new) != _number(stored) for new, stored in texts]


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
