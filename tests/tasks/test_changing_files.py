"""Test that files that change while a run reads them load only records that they contained, and in the end all."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sources import FileSet, csv_source
from sources.contract import Source
from tests.changing_file import COLUMNS, CONSTANTS, HEADER, Writer, records
from tests.sources.csv_folder import environment
from tests.tasks.conftest import Bench

FILES = int(os.environ.get("CHANGING_FILES", "3"))
"""The number of files. Each changes during `ROUNDS` runs."""

ROUNDS = 4

TIMES = """
    SELECT string_agg(to_char(observed_at AT TIME ZONE 'UTC', 'HH24:MI'), ' ' ORDER BY observed_at) FROM quotes
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    sizes = {"CSV_BLOCK_BYTES": "4000", "CSV_RECORD_BYTES": "500", "CSV_RANGE_BYTES": "40000"}
    with environment(CSV_DIR=str(tmp_path), **sizes):
        yield tmp_path


def coin_files(*, complete: bool = False) -> Source:
    files = FileSet(pattern="*.csv", columns=COLUMNS, constants=CONSTANTS, complete=complete)
    return csv_source("changing", timedelta(hours=1), [files])


def stored(bench: Bench) -> dict[str, Decimal]:
    rows = bench.rows("SELECT source_asset_id, price FROM quotes JOIN listings ON listings.id = listing_id")
    return {row["source_asset_id"]: row["price"] for row in rows}


def run_to_its_end(bench: Bench, source: Source) -> str:
    """Request a run and work on it until it ends, without its waits. Return its status."""
    run = bench.request(source)
    for _ in range(100):
        row = bench.slice(run)
        if row["status"] not in ("queued", "running", "waiting"):
            return str(row["status"])
        bench.rows("UPDATE runs SET next_attempt_at = clock_timestamp(), waits = 0 WHERE id = :run", run=run)
    raise AssertionError(f"the run does not end: {row['waiting_reason']}")


@pytest.mark.parametrize("seed", range(FILES))
def test_a_file_that_changes_at_random_loads_only_what_was_in_it_and_in_the_end_all(
    bench: Bench, folder: Path, seed: int
) -> None:
    chance = random.Random(seed)
    source, writer, stop = coin_files(), Writer(folder / "file.csv", chance), threading.Event()

    def write() -> None:
        for _ in range(chance.randint(1, 12)):
            stop.wait(chance.random() / 20)
            writer.change()

    for _ in range(ROUNDS):
        thread = threading.Thread(target=write)
        thread.start()
        run_to_its_end(bench, source)
        thread.join()
        assert stored(bench).items() <= writer.written
    final = records(writer.finish())
    assert run_to_its_end(bench, source) == "succeeded"
    quotes = stored(bench)
    # A coin may occur twice in the file, in two ranges. Either price is right.
    assert final
    assert {(coin, quotes.get(coin)) for coin, _ in final} <= final
    assert quotes.items() <= writer.written


def test_a_cut_last_record_waits_and_is_loaded_once_it_is_complete(bench: Bench, folder: Path) -> None:
    path, source = folder / "cut.csv", coin_files()
    path.write_bytes(HEADER + b"btc,100.5,2026-01-31T10:00:00Z\nbtc,101.25,2026-01-31T11")
    os.utime(path, (0, 0))
    with capture_logs() as logs:
        bench.ingest(source)
        bench.ingest(source)
    assert bench.one(TIMES) == "10:00"
    [waiting] = [log for log in logs if log["event"] == "record_waiting"]
    assert (waiting["partition"], "changing: cut.csv: line 3 waits" in waiting["reason"]) == ("cut.csv", True)
    with path.open("ab") as file:
        file.write(b":30:00Z\n")
    bench.ingest(source)
    assert bench.one(TIMES) == "10:00 11:30"


NAMES = [
    b"backfill:2026.csv",
    b"replay:x.csv",
    b"two\nlines.csv",
    b"\r\n\t\x01\x1b[31m\x7f.csv",
    b"\\udcff.csv",
    b"\\x00.csv",
    b"-rf.csv",
    b"%s %(run)s {0} :run $1 ';--.csv",
    b"x.csv@40000.csv",
    "\u202egnp.\U0001f600.csv".encode(),
    b"e\xcc\x81.csv",
    "é.csv".encode(),
    b"n" * 251 + b".csv",
    b"good.csv",
]
UNREADABLE_NAMES = [b"\xff.csv", b"\xed\xb2\x80.csv", b"\xc0\x80.csv", b"\xf4\x90\x80\x80.csv"]
"""Names that are not UTF-8: the last three contain a surrogate, a long form of NUL, and a number beyond Unicode."""

MTIMES_NS = (0, -1, -(2**62), 2**62, 253_402_300_800 * 10**9, -62_135_596_801 * 10**9)
"""Times in 1970, 1969, 1823, 2116, 10000 and 0000, as far as the file system can store them."""


def test_a_file_with_any_name_and_time_is_loaded_and_an_unreadable_one_keeps_no_other_out(
    bench: Bench, folder: Path
) -> None:
    for number, name in enumerate([*NAMES, *UNREADABLE_NAMES, b".hidden.csv"]):
        path = folder / os.fsdecode(name)
        # A row names its file by the digest of the file's name, and is not the last of its range.
        path.write_bytes(HEADER + f"{digest(name)},1,2026-01-31T10:00:00Z\n".encode())
        mtime_ns = MTIMES_NS[number % len(MTIMES_NS)]
        os.utime(path, ns=(mtime_ns, mtime_ns))
    run = bench.ingest(coin_files())
    assert set(stored(bench)) == set(map(digest, NAMES))
    assert (run["status"], run["error_code"]) == ("failed", "file_unreadable")
    assert "its name is not UTF-8" in run["error_detail"]
    for name in UNREADABLE_NAMES:
        (folder / os.fsdecode(name)).unlink()
    again = bench.ingest(coin_files())
    assert again["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM pages WHERE run = :run", run=again["id"]) == 0


def digest(name: bytes) -> str:
    return sha256(name).hexdigest()[:16]
