"""Test Parquet files: their types and metadata, and an error before the end of the file."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from typing import cast

import polars as pl
import pytest

from app.exports.parquet import TIME, parquet

TYPES = {"name": pl.String(), "price": pl.Float64(), "rank": pl.Int32(), "observed_at": TIME}


def test_rows_keep_their_values_and_the_file_its_metadata() -> None:
    lines = [',"a,""b""\n",0.0000000031,7,2026-01-31T12:00:00.000007Z', ",,,,"]
    body = b"".join(parquet(iter([lines]), TYPES, {"kasparro.rows": "2"}))
    assert pl.read_parquet(io.BytesIO(body)).rows() == [
        ('a,"b"\n', 3.1e-9, 7, datetime(2026, 1, 31, 12, 0, 0, 7, tzinfo=UTC)),
        (None, None, None, None),
    ]
    assert pl.read_parquet_metadata(io.BytesIO(body))["kasparro.rows"] == "2"


def test_a_file_without_rows_has_the_types_of_its_members() -> None:
    body = b"".join(parquet(iter([]), TYPES, {}))
    assert pl.read_parquet_schema(io.BytesIO(body)) == TYPES


@pytest.mark.parametrize("rows", [1, 45_000])
def test_an_exception_while_reading_rows_is_raised_and_leaves_a_file_without_a_footer(rows: int) -> None:
    def pieces() -> Iterator[Sequence[str]]:
        for first in range(0, rows, 1000):
            yield [f",a,1,{number},2026-01-31T12:00:00Z" for number in range(first, min(first + 1000, rows))]
        raise LookupError("the database is gone")

    body = io.BytesIO()
    with pytest.raises(LookupError, match="the database is gone"):
        body.writelines(parquet(pieces(), TYPES, {}))
    assert not body.getvalue().endswith(b"PAR1")


def test_a_line_that_polars_reads_as_two_rows_is_an_error() -> None:
    lines = [",a,1,1,2026-01-31T12:00:00Z\n,b,1,1,2026-01-31T12:00:00Z"]
    with pytest.raises(RuntimeError, match="polars read 1 exported lines as 2 rows"):
        b"".join(parquet(iter([lines]), TYPES, {}))


def test_the_writer_waits_for_a_client_and_ends_when_the_client_stops_reading() -> None:
    written: list[int] = []

    def pieces() -> Iterator[Sequence[str]]:
        for first in range(0, 1_000_000, 1000):
            written.append(first)
            yield [f",{number},{number * 7919},1,2026-01-31T12:00:00Z" for number in range(first, first + 1000)]

    file = cast(Generator[bytes, None, None], parquet(pieces(), TYPES, {}))
    next(file)
    file.close()
    assert len(written) < 1000
    assert "parquet" not in {thread.name for thread in threading.enumerate()}
