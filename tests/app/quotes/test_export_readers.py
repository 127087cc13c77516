"""Test that pandas, polars, DuckDB and pyarrow read 10,000 exported rows as Postgres has them, in every format."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from app.quotes.fields import AMOUNTS, TIMES
from tests.app.rows import NOON, Rows
from tests.processes import ROOT

ROWS = 10_000
NUMBERS = ("price", "open", "high", "volume_24h", "market_cap", "change_24h_pct", "rank", "max_supply")
FORMATS = ("csv", "ndjson", "parquet")

# Each column has a property that misleads programs that infer types from the first rows: the first 5,000 values of
# `open` and `rank` are null, those of `volume_24h` are whole numbers, and `max_supply` exceeds 64 bits.
INSERT = """
    INSERT INTO quotes (listing_id, observed_at, price, open, high, volume_24h, market_cap, change_24h_pct, rank,
                        max_supply, fetched_at, ingested_at, run)
    SELECT CASE WHEN number % 2 = 0 THEN :one ELSE :other END,
           CAST(:noon AS timestamptz) - make_interval(secs => number)
               + number % 3 * interval '7 microseconds',
           CASE number % 5 WHEN 0 THEN 126.711 WHEN 1 THEN 99.963 WHEN 2 THEN 0.0000000031 WHEN 3 THEN 93
                ELSE round(number / 7.0, 11) END,
           CASE WHEN number >= 5000 THEN round(number / 9.0, 8) END,
           CASE WHEN number % 7 = 0 THEN 126.711 WHEN number % 7 = 1 THEN 99.963 END,
           CASE WHEN number < 5000 THEN number ELSE number + 0.25 END,
           CASE number % 3 WHEN 0 THEN 1e-60 WHEN 1 THEN 1e39 + 1 ELSE number / 3.0 END,
           CASE WHEN number % 4 > 0 THEN round((number - 3000) / 13.0, 6) END,
           CASE WHEN number >= 5000 THEN number % 97 + 1 END,
           CASE WHEN number % 2 = 0 THEN 420000000000000000000 ELSE 21000000 END,
           :noon, :noon, gen_random_uuid()
      FROM generate_series(0, :rows - 1) AS number
"""


@pytest.fixture
def exact(engine: Engine, rows: Rows) -> Mapping[str, list[Any]]:
    """Insert the sample, and return each column as Postgres has it, in the order of a file."""
    listings = {"one": rows.listing("ether", symbol="0123"), "other": rows.listing("bitcoin", symbol="NA")}
    columns = (*NUMBERS, *TIMES)
    with engine.begin() as connection:
        connection.execute(text(INSERT), {**listings, "noon": NOON, "rows": ROWS})
        query = (
            f"SELECT symbol, {', '.join(columns)} FROM quotes JOIN listings ON listings.id = listing_id"
            " ORDER BY observed_at DESC, listing_id DESC"
        )
        values = zip(*connection.execute(text(query)).all(), strict=True)
    return dict(zip(("symbol", *columns), map(list, values), strict=True))


class Table:
    """A file as one program reads it. maximum, mean and ascending are computed by that program."""

    def __init__(
        self,
        values: Callable[[str], Sequence[Any]],
        maximum: Callable[[str], Any],
        mean: Callable[[str], Any],
        ascending: Callable[[str], Sequence[Any]],
    ):
        self.values, self.maximum, self.mean, self.ascending = values, maximum, mean, ascending


def pandas_table(frame: pd.DataFrame) -> Table:
    return Table(
        lambda name: [None if pd.isna(value) else value for value in frame[name].tolist()],
        lambda name: frame[name].max(),
        lambda name: frame[name].mean(),
        lambda name: frame.sort_values(name)[name].dropna().tolist(),
    )


def polars_table(frame: pl.DataFrame) -> Table:
    return Table(
        lambda name: frame[name].to_list(),
        lambda name: frame[name].max(),
        lambda name: frame[name].mean(),
        lambda name: frame.sort(name)[name].drop_nulls().to_list(),
    )


def duckdb_table(relation: duckdb.DuckDBPyRelation) -> Table:
    """Return the rows of a file. DuckDB keeps their order."""
    duckdb.execute("SET TimeZone = 'UTC'; CREATE OR REPLACE TEMP TABLE quotes AS FROM relation")

    def query(sql: str) -> list[Any]:
        return [value for (value,) in duckdb.execute(sql).fetchall()]

    return Table(
        lambda name: query(f"SELECT {name} FROM quotes"),
        lambda name: query(f"SELECT max({name}) FROM quotes")[0],
        lambda name: query(f"SELECT avg({name}) FROM quotes")[0],
        lambda name: query(f"SELECT {name} FROM quotes WHERE {name} IS NOT NULL ORDER BY {name}"),
    )


def arrow_table(table: pa.Table) -> Table:
    return Table(
        lambda name: table[name].to_pylist(),
        lambda name: pc.max(table[name]).as_py(),
        lambda name: pc.mean(table[name]).as_py(),
        lambda name: table.sort_by(name)[name].drop_null().to_pylist(),
    )


# How each program reads a file without any options.
PLAIN: Mapping[str, Mapping[str, Callable[[Path], Table]]] = {
    "csv": {
        "pandas": lambda file: pandas_table(pd.read_csv(file)),
        "polars": lambda file: polars_table(pl.read_csv(file)),
        "DuckDB": lambda file: duckdb_table(duckdb.read_csv(str(file))),
        "pyarrow": lambda file: arrow_table(pyarrow.csv.read_csv(file)),
    },
    "ndjson": {
        "pandas": lambda file: pandas_table(pd.read_json(file, lines=True)),
        "polars": lambda file: polars_table(pl.read_ndjson(file)),
        "polars, lazy": lambda file: polars_table(pl.scan_ndjson(file).collect()),
        "DuckDB": lambda file: duckdb_table(duckdb.read_json(str(file))),
        "pyarrow": lambda file: arrow_table(pyarrow.json.read_json(file)),
    },
    "parquet": {
        "pandas": lambda file: pandas_table(pd.read_parquet(file)),
        "polars": lambda file: polars_table(pl.read_parquet(file)),
        "polars, lazy": lambda file: polars_table(pl.scan_parquet(file).collect()),
        "DuckDB": lambda file: duckdb_table(duckdb.read_parquet(str(file))),
        "pyarrow": lambda file: arrow_table(pyarrow.parquet.read_table(file)),
    },
}

GUIDE = (ROOT / "docs/howto/read-a-file.md").read_text()


def documented_tables(format_: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Table]:
    """Return the tables that the calls in the guide read, by program."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE):
        if "quotes." not in code or f"quotes.{format_}" in code:
            exec(code, names)
    return {
        "pandas": pandas_table(names["from_pandas"]),
        "polars": polars_table(names["from_polars"]),
        "DuckDB": duckdb_table(names["from_duckdb"]),
        "pyarrow": arrow_table(names["from_pyarrow"]),
    }


@pytest.fixture
def download(api: FlaskClient, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that stores an export as a file."""

    def download(format_: str, **query: str) -> Path:
        response = api.get("/data", query_string={"format": format_, **query}, buffered=True)
        assert response.status_code == 200, response.text
        assert response.headers["X-Row-Count"] == str(ROWS)
        file = tmp_path / f"{'-'.join(query.values()) or 'quotes'}.{format_}"
        file.write_bytes(response.data)
        return file

    return download


def present(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def nulls(values: Sequence[Any]) -> list[bool]:
    return [value is None for value in values]


def mean(values: Sequence[Any]) -> float:
    return float(sum(map(Fraction, present(values))) / len(present(values)))


def as_doubles(values: Sequence[Any]) -> list[float | None]:
    return [None if value is None else float(value) for value in values]


def as_times(values: Sequence[Any]) -> list[datetime]:
    assert all(value.utcoffset().total_seconds() == 0 for value in values), "expected times in UTC"
    return [value.to_pydatetime() if isinstance(value, pd.Timestamp) else value for value in values]


@pytest.mark.parametrize("format_", FORMATS)
def test_count_maximum_mean_and_order_need_no_options(
    exact: Mapping[str, list[Any]], download: Callable[..., Path], format_: str
) -> None:
    file, prices = download(format_, fields="symbol,price,high,volume_24h,observed_at"), exact["price"]
    expected_mean = mean(prices)
    for name, read in PLAIN[format_].items():
        table = read(file)
        # By default, pandas reads the last digit of some JSON numbers wrongly.
        close = {"rel": 1e-11, "abs": 0}
        assert as_doubles(table.values("price")) == pytest.approx(as_doubles(prices), **close), name
        assert nulls(table.values("high")) == nulls(exact["high"]), name
        assert table.maximum("price") == pytest.approx(float(max(prices)), **close), name
        assert table.mean("price") == pytest.approx(expected_mean, **close), name
        assert as_doubles(table.ascending("price")) == pytest.approx(sorted(as_doubles(prices)), **close), name
        assert table.maximum("high") == pytest.approx(126.711), name
        assert table.maximum("volume_24h") == float(max(exact["volume_24h"])), name


@pytest.mark.parametrize("format_", FORMATS)
def test_every_column_keeps_its_values_times_and_nulls(
    exact: Mapping[str, list[Any]], download: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    folder = download(format_).parent
    doubles, means = {name: as_doubles(exact[name]) for name in NUMBERS}, {name: mean(exact[name]) for name in NUMBERS}
    for reader, table in documented_tables(format_, folder, monkeypatch).items():
        assert table.values("symbol") == exact["symbol"], reader
        for name in TIMES:
            assert as_times(table.values(name)) == exact[name], (reader, name)
        for name, expected in doubles.items():
            assert as_doubles(table.values(name)) == expected, (reader, name)
            assert table.maximum(name) == max(present(expected)), (reader, name)
            assert math.isclose(table.mean(name), means[name], rel_tol=1e-12), (reader, name)
            assert as_doubles(table.ascending(name)) == sorted(present(expected)), (reader, name)


def test_parquet_decimals_have_every_digit(exact: Mapping[str, list[Any]], download: Callable[..., Path]) -> None:
    file = download("parquet", numbers="decimal")
    decimals = [name for name in NUMBERS if name in AMOUNTS and name != "market_cap"]
    means = {name: mean(exact[name]) for name in decimals}
    for reader, read in PLAIN["parquet"].items():
        table = read(file)
        for name in decimals:
            values = table.values(name)
            assert all(isinstance(value, Decimal) for value in present(values)), (reader, name)
            assert values == exact[name], (reader, name)
            assert table.maximum(name) == max(present(exact[name])), (reader, name)
            assert math.isclose(table.mean(name), means[name], rel_tol=1e-9, abs_tol=1e-12), (reader, name)
            assert table.ascending(name) == sorted(present(exact[name])), (reader, name)
        assert table.values("market_cap") == as_doubles(exact["market_cap"]), reader
        assert list(map(Decimal, table.values("market_cap_text"))) == exact["market_cap"], reader


@pytest.mark.parametrize("format_", FORMATS)
def test_numbers_as_text_have_every_digit(
    exact: Mapping[str, list[Any]], download: Callable[..., Path], format_: str
) -> None:
    file = download(format_, numbers="text")
    texts: Mapping[str, Callable[[Path], pl.DataFrame]] = {
        "csv": lambda file: pl.read_csv(file, infer_schema=False),
        "ndjson": lambda file: pl.read_ndjson(file, infer_schema_length=None),
        "parquet": pl.read_parquet,
    }
    frame = texts[format_](file)
    for name in AMOUNTS:
        values = [None if value is None else Decimal(value) for value in frame[name]]
        assert values == exact.get(name, [None] * ROWS), name


def test_decimals_with_more_than_38_digits_are_read_wrongly_by_some_programs(tmp_path: Path) -> None:
    """If this fails, DECIMAL_DIGITS can be larger."""
    file, value = tmp_path / "wide.parquet", Decimal("1" + "0" * 40 + ".5")
    pyarrow.parquet.write_table(pa.table({"price": pa.array([value], pa.decimal256(76, 10))}), file)
    with pytest.raises(pl.exceptions.InvalidOperationError, match="precision must be between 1 and 38"):
        pl.read_parquet(file)
    assert duckdb_table(duckdb.read_parquet(str(file))).values("price") == [float(value)]


def test_an_overflow_of_a_sum_of_decimals_is_silent_in_pyarrow() -> None:
    """If this fails, `Digits.scale` need not consider the sum."""
    largest = Decimal("9" * 28 + ".1234567891")
    prices = pa.chunked_array([pa.array([largest] * 100, pa.decimal128(38, 10))])
    assert pc.mean(prices).as_py() < largest / 2
