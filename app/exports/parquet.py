"""Send rows as a Parquet file while it is written, with only one row group in memory."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

PIECE_BYTES = 256 * 1024
ROW_GROUP_ROWS = 20_000
"""A row takes about 250 bytes of memory until its row group is complete."""

TIME = pl.Datetime("us", "UTC")

Types = Mapping[str, pl.DataType]
"""The type of each column, in order."""


def parquet(pieces: Iterator[Sequence[str]], types: Types, metadata: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the bytes of the file. pieces: lists of lines from `table_lines`. metadata: key-value metadata of the file.

    polars writes into a pipe in a separate thread, which blocks while the client is slow. If `pieces` raises an
    exception, raise it here. The file then lacks its footer, so no reader can open it.
    """
    failures: list[BaseException] = []
    stopped = threading.Event()
    read, write = os.pipe()
    until_stopped = itertools.takewhile(lambda _: not stopped.is_set(), pieces)
    arguments = (write, until_stopped, types, dict(metadata), failures)
    writer = threading.Thread(target=_write, args=arguments, name="parquet")
    with open(read, "rb", buffering=0) as pipe:  # noqa: PTH123 — a descriptor has no path
        writer.start()
        try:
            # After a failure, polars still writes a footer, which would make a partial file look complete.
            while (piece := pipe.read(PIECE_BYTES)) and not failures:
                yield piece
        finally:
            stopped.set()  # polars reads all rows even if it can no longer write
            pipe.close()  # a blocked writer then fails with a broken pipe
            writer.join()
    if failures:
        raise failures[0]


def _write(
    pipe: int,
    pieces: Iterator[Sequence[str]],
    types: Types,
    metadata: dict[str, str],
    failures: list[BaseException],
) -> None:
    def frames(*_: Any) -> Iterator[pl.DataFrame]:
        try:
            for piece in pieces:
                yield _frame(piece, types)
        except BaseException as failure:  # polars would keep only the text of the exception
            failures.append(failure)
            raise

    rows = register_io_source(frames, schema=dict(types))
    try:
        with open(pipe, "wb", buffering=0) as out:
            rows.sink_parquet(out, row_group_size=ROW_GROUP_ROWS, compression_level=1, metadata=metadata)
    except Exception as failure:  # noqa: BLE001 — raised again by the thread that reads the pipe
        failures.append(failure)


def _frame(piece: Sequence[str], types: Types) -> pl.DataFrame:
    times = [name for name, type_ in types.items() if type_ == TIME]
    as_text = {name: pl.String() if name in times else type_ for name, type_ in types.items()}
    text = "\n".join(piece)
    frame = pl.read_csv(text.encode(), has_header=False, schema={"": pl.String(), **as_text}).drop("")
    if len(frame) != len(piece):
        raise RuntimeError(f"polars read {len(piece)} exported lines as {len(frame)} rows")
    return frame.with_columns(pl.col(times).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC"))
