"""Test how a source finds its files, and how rows become quotes, rejects or blank rows."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sources.contract import TerminalError
from sources.csv.source import has_file_set, is_csv_source
from tests.sources.csv_folder import COIN, Folder, assert_unreadable, daily_files, reloaded_cursor
from tests.upstreams import canned

HEADER = "day,price\n"

# Finding files


def test_each_matching_file_is_a_partition(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily_files(pattern="*.csv"), daily_files(pattern="coins/*/[ab]*.csv"))
    for name in (
        "z.csv",
        "a.csv",
        "a.txt",
        ".a.csv",
        "coins/x/b.csv",
        "coins/x/c.csv",
        "coins/.x/b.csv",
        "coins/a.csv",
    ):
        folder.write(name, HEADER)
    (tmp_path / "folder.csv").mkdir()
    assert folder.partitions() == ["a.csv", "coins/x/b.csv", "z.csv"]


def test_a_csv_source_knows_the_files_of_its_file_sets(tmp_path: Path) -> None:
    source = Folder(tmp_path, daily_files(pattern="coins/*.csv")).source
    assert is_csv_source(source)
    assert not is_csv_source(canned())
    assert [has_file_set(source, file) for file in ("coins/a.csv", "a.csv", "coins/a.txt")] == [True, False, False]


def test_a_folder_without_matching_files_has_no_partitions(folder: Folder) -> None:
    assert folder.partitions() == []


def test_the_error_for_a_missing_folder_names_it(folder: Folder) -> None:
    folder.path /= "nowhere"
    with pytest.raises(TerminalError, match=r"CSV_DIR .*nowhere") as raised:
        folder.partitions()
    assert raised.value.code == "csv_dir_unreadable"


def test_the_error_for_a_file_name_that_is_not_utf_8_names_the_file(folder: Folder) -> None:
    folder.write("good.csv", HEADER)
    (folder.path / os.fsdecode(b"\xff.csv")).touch()
    assert folder.partitions() == ["/\\udcff.csv", "good.csv"]
    with pytest.raises(TerminalError, match=r"csv_test: \\udcff\.csv: its name is not UTF-8") as raised:
        folder.scan("/\\udcff.csv")
    assert raised.value.code == "file_unreadable"


def test_the_error_for_a_path_that_is_too_long_for_an_index_names_its_start(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily_files(pattern="*/" * 9 + "*.csv"))
    folder.write("f" * 250 + "/f" * 8 + "/short.csv", HEADER)
    folder.write("/".join(["f" * 250] * 9) + "/long.csv", HEADER)
    long, short = folder.partitions()
    assert len(long) < 250
    assert short.endswith("/short.csv")
    with pytest.raises(TerminalError, match=r"csv_test: f{200}….*: its name .* has more than 2000 bytes"):
        folder.scan(long)


@pytest.mark.parametrize(
    "name",
    [
        "backfill:2026.csv",
        "replay:.csv",
        "backfill:folder/replay:x.csv",
        "two\nlines.csv",
        "\\udcff.csv",
        " .csv",
        "%2F%00.csv",
        "'\"{}[].csv",
    ],
)
def test_no_name_of_a_file_has_a_meaning(tmp_path: Path, name: str) -> None:
    folder = Folder(tmp_path, daily_files(pattern="*.csv"), daily_files(pattern="*/*.csv"))
    folder.write(name, HEADER + "2024-01-02,1\n" * 9)
    partitions = folder.partitions(range_=40)
    assert not any(partition.startswith(("backfill:", "replay:")) for partition in partitions)
    pages = [page for partition in partitions for page in folder.scan(partition, range_=40)]
    assert len(pages) > 1
    assert {page.request["file"] for page in pages} == {name}
    assert folder.validate(pages).prices == ["1"] * 9


@pytest.mark.parametrize("year", [-3000, 1900, 12_000])
def test_any_modification_time_is_allowed(year: int) -> None:
    # Other file systems do not store such times.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with TemporaryDirectory(dir=memory) as path:
        folder = Folder(Path(path), daily_files())
        file = folder.write("file.csv", HEADER + "2024-01-02,1\n")
        os.utime(file, ns=(0, (year - 1970) * 31_556_952 * 1_000_000_000))
        pages = folder.scan("file.csv")
        assert folder.validate(pages).prices == ["1"]
        assert folder.scan("file.csv", reloaded_cursor(pages[-1])) == []


def test_a_link_to_itself_is_an_error_and_does_not_hide_other_files(folder: Folder) -> None:
    folder.write("good.csv", HEADER)
    (folder.path / "circle.csv").symlink_to("circle.csv")
    assert folder.partitions() == ["circle.csv", "good.csv"]
    assert_unreadable(folder, "circle.csv")


def test_the_error_for_a_broken_link_names_it(folder: Folder) -> None:
    (folder.path / "link.csv").symlink_to("nowhere.csv")
    assert folder.partitions() == ["link.csv"]
    assert_unreadable(folder, "link.csv")


@pytest.mark.parametrize("name", ["file.txt", "folder/file.csv", "file.csv/file"])
def test_the_error_for_a_file_without_a_file_set_names_it(folder: Folder, name: str) -> None:
    with pytest.raises(TerminalError, match=f"csv_test: {name}: no file set") as raised:
        folder.scan(name)
    assert raised.value.code == "file_undeclared"


def test_the_first_file_set_that_matches_a_file_applies(tmp_path: Path) -> None:
    file_sets = daily_files(pattern="a*.csv", constants={**COIN, "symbol": "A"}), daily_files(pattern="*.csv")
    folder = Folder(tmp_path, *file_sets)
    content = "day,price\n2024-01-02,1\n"
    assert folder.partitions() == []
    for name in ("ab.csv", "b.csv"):
        folder.write(name, content)
    assert [folder.read(name).quotes[0].symbol for name in folder.partitions()] == ["A", "COIN"]


# Rows


def test_empty_rows_and_repeated_headers_count_as_blank(read: Any) -> None:
    outcome = read('\nday,price\n\n,,,\n , \n"",""\nday, price\n2024-01-02,1\n\n')
    assert (outcome.prices, outcome.codes, outcome.blank) == (["1"], {}, 6)


@pytest.mark.parametrize(("row", "cells"), [("2024-01-02", 1), ("2024-01-02,1,", 3), ("2024-01-02,1,000", 3)])
def test_the_reject_of_a_ragged_row_names_the_expected_and_actual_cell_counts(read: Any, row: str, cells: int) -> None:
    outcome = read(f"day,price\n{row}\n2024-01-03,2\n")
    [(_, reject)] = outcome.rejects
    assert reject.reasons == [{"field": "row", "code": "ragged", "detail": f"expected 2 cells, got {cells}"}]
    assert outcome.prices == ["2"]


@pytest.mark.parametrize(
    "row", [b"2024-01-02,1\x00,x", b"2024-01-02,1,\x00", b"\x00\x00\x00", b"2024-01-02,1,\xff", b"2024-01-02,1,caf\xe9"]
)
def test_a_row_that_is_not_valid_text_rejects_only_itself(read: Any, row: bytes) -> None:
    content = "day,price,note\n2024-01-01,1,é\n".encode() + row + b"\n2024-01-03,3,\n"
    outcome = read(content)
    assert (outcome.prices, outcome.codes) == (["1", "3"], {"encoding": 1})
    [(item, reject)] = outcome.rejects
    assert '"line": 3' in item
    assert "expected valid utf-8 without NUL" in reject.reasons[0]["detail"]


@pytest.mark.parametrize("missing", ["price", "day"])
def test_a_stored_page_is_read_with_the_current_declaration(tmp_path: Path, missing: str) -> None:
    folder = Folder(tmp_path, daily_files())
    folder.write("file.csv", "day,price\n2024-01-02,1\n")
    pages = folder.scan("file.csv")
    (tmp_path / "file.csv").unlink()
    assert folder.validate(pages).prices == ["1"]
    columns = {"observed_at": "day", "price": "price", "rank": f"{missing} of today"}
    changed_folder = Folder(tmp_path, daily_files(columns=columns))
    with pytest.raises(TerminalError, match=f"{missing} of today"):
        changed_folder.validate(pages)
