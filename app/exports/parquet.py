"""Rows as a Parquet file that is sent while it is written: nothing of it is kept but the row group in hand."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

PIECE = 256 * 1024
ROW_GROUP = 20_000
"""Rows; each takes about 250 bytes of memory until its group is complete."""

TIMES = ("observed_at", "fetched_at", "ingested_at")
TIME = pl.Datetime("us", "UTC")


def column_type(member: str) -> pl.DataType:
    """Prices and supplies are text, as in JSON: a NUMERIC without a scale fits no decimal type, and no float."""
    if member in TIMES:
        return TIME
    return pl.Int32() if member == "rank" else pl.String()


def parquet(pieces: Iterator[Sequence[str]], members: Sequence[str], about: Mapping[str, str]) -> Iterator[bytes]:
    """The bytes of the file. pieces: rows as `table_line` has them; about: kept in the file's key-value metadata.

    polars writes in a thread of its own, into a pipe: it waits there while the reader does. Raises what reading the
    pieces raises; the file then lacks its footer, without which none can be opened.
    """
    failures: list[BaseException] = []
    read, write = os.pipe()
    writer = threading.Thread(target=_write, args=(write, pieces, members, dict(about), failures), name="parquet")
    with open(read, "rb", buffering=0) as pipe:  # noqa: PTH123 — a descriptor has no path
        writer.start()
        try:
            while piece := pipe.read(PIECE):
                yield piece
        finally:
            pipe.close()  # a writer that is waiting to be read ends with a broken pipe
            writer.join()
    if failures:
        raise failures[0]


def _write(
    pipe: int,
    pieces: Iterator[Sequence[str]],
    members: Sequence[str],
    about: dict[str, str],
    failures: list[BaseException],
) -> None:
    def frames(*_: Any) -> Iterator[pl.DataFrame]:
        try:
            for piece in pieces:
                yield _frame(piece, members)
        except BaseException as failure:  # polars would tell of it in words only
            failures.append(failure)
            raise

    rows = register_io_source(frames, schema={name: column_type(name) for name in members})
    try:
        with open(pipe, "wb", buffering=0) as out:
            rows.sink_parquet(out, row_group_size=ROW_GROUP, compression_level=1, metadata=about)
    except Exception as failure:  # noqa: BLE001 — whatever it is, the thread that reads the pipe raises it
        failures.append(failure)


def _frame(piece: Sequence[str], members: Sequence[str]) -> pl.DataFrame:
    as_text = {name: pl.String() if name in TIMES else column_type(name) for name in members}
    text = "\n".join(piece)
    frame = pl.read_csv(text.encode(), has_header=False, schema={"": pl.String(), **as_text}).drop("")
    if len(frame) != len(piece):
        raise RuntimeError(f"{len(piece)} lines of an export were read as {len(frame)} rows")
    times = [name for name in TIMES if name in members]
    return frame.with_columns(pl.col(times).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC"))
