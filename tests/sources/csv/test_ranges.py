"""Test that the ranges of a large file contain all its records, in any order of reading."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.contract import Cursor, Page
from tests.sources.csv_folder import NOW, Folder, Outcome, daily_files, reloaded_cursor

HEADER = "day,price\n"
DAYS = [f"2024-01-{day:02},{day}\n" for day in range(1, 29)]
JUST_NOW = NOW - timedelta(seconds=1)

# Valid, incomplete and invalid records, with quoted line ends, unclosed quotes and stray quotes.
LINES = st.sampled_from(
    [
        "2024-01-01,1\n",
        "2024-01-02,2\r\n",
        "2024-01-03,3\r",
        '2024-01-04,"4"\n',
        '"2024-01-05\n",5\n',
        '"2024-01-06\n\n\n2024-01-01,1",6\n',
        '2024-01-07,"7\n',
        '2024-01-08,8"8\n',
        "2024-01-09," + "9" * 40 + "\n",
        "\n",
        ",\n",
        "ragged\n",
        "1,2,3\n",
        "2024-01-10,\x00\n",
        "2024-01-11,é\n",
    ]
)


def summary(outcome: Outcome) -> tuple[object, ...]:
    return outcome.prices, outcome.rejects and [item for item, _ in outcome.rejects], outcome.blank


def all_pages(ranges: dict[str, list[Page]]) -> list[Page]:
    return [page for pages in ranges.values() for page in pages]


def cursors(ranges: dict[str, list[Page]], before: dict[str, Cursor] | None = None) -> dict[str, Cursor]:
    return {**(before or {}), **{partition: reloaded_cursor(pages[-1]) for partition, pages in ranges.items() if pages}}


def test_a_partition_is_named_after_its_file_and_the_start_of_its_range(folder: Folder) -> None:
    folder.write("small.csv", HEADER)
    folder.write("large.csv", HEADER + "".join(DAYS))
    assert folder.partitions(range_=150) == ["large.csv", "large.csv//150", "large.csv//300", "small.csv"]


def test_a_range_starts_with_the_first_record_at_or_after_its_mark(folder: Folder) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS[:4]))
    # The second range begins at the first byte of the third record. The next range would begin inside the fourth.
    ranges = folder.scan_all(range_=len(HEADER) + len(DAYS[0]) + len(DAYS[1]))
    assert [[page.body.decode() for page in pages] for pages in ranges.values()] == [
        [HEADER + DAYS[0] + DAYS[1]],
        [DAYS[2] + DAYS[3]],
    ]
    assert [pages[0].request["line"] for pages in ranges.values()] == [2, 4]


@settings(deadline=None, max_examples=40)
@given(st.lists(LINES, max_size=25), st.integers(1, 90), st.integers(1, 90), st.integers(45, 90))
def test_the_ranges_together_contain_exactly_the_items_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], range_: int, block: int, record: int
) -> None:
    folder = Folder(tmp_path_factory.mktemp("csv"), daily_files())
    folder.write("file.csv", HEADER + "".join(lines))
    whole_file = folder.validate(folder.scan("file.csv", record=record))
    backwards = {
        partition: folder.scan(partition, range_=range_, block=block, record=record)
        for partition in reversed(folder.partitions(range_))
    }
    in_ranges = folder.validate([page for pages in reversed(backwards.values()) for page in pages])
    assert summary(in_ranges) == summary(whole_file)


@settings(deadline=None, max_examples=25)
@given(st.lists(LINES, max_size=12), st.lists(st.integers(0, 200), max_size=3), st.integers(1, 90))
def test_a_growing_file_loses_no_record_between_ranges(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], lengths: list[int], range_: int
) -> None:
    content = HEADER + "".join(lines)
    folder = Folder(tmp_path_factory.mktemp("csv"), daily_files(complete=False))
    known: dict[str, Cursor] = {}
    prices: set[str] = set()
    for number, length in enumerate(sorted(lengths)):
        folder.write("file.csv", content[: len(HEADER) + length], changed=JUST_NOW + timedelta(milliseconds=number))
        ranges = folder.scan_all(known, range_=range_)
        known, prices = cursors(ranges, known), prices | set(folder.validate(all_pages(ranges)).prices)
    folder.write("file.csv", content)
    ranges = folder.scan_all(known, range_=range_)
    whole_file = folder.validate(folder.scan("file.csv")).prices
    assert prices | set(folder.validate(all_pages(ranges)).prices) >= set(whole_file)
    assert all_pages(folder.scan_all(cursors(ranges, known), range_=range_)) == []


def test_a_second_scan_reads_only_the_new_records_of_a_grown_file(folder: Folder) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS[:20]))
    ranges = folder.scan_all(range_=100)
    folder.write("file.csv", HEADER + "".join(DAYS), changed=JUST_NOW)
    grown = folder.scan_all(cursors(ranges), range_=100)
    assert b"".join(page.body for page in all_pages(grown)) == "".join(DAYS[20:]).encode()


def test_a_change_inside_one_range_makes_only_that_range_be_read_again(folder: Folder) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS))
    ranges = folder.scan_all(range_=100)
    folder.write("file.csv", HEADER + "".join(DAYS).replace(",20", ",99"), changed=JUST_NOW)
    ranges_again = folder.scan_all(cursors(ranges), range_=100)
    with_records = [partition for partition, pages in ranges_again.items() if any(page.body for page in pages)]
    assert with_records == ["file.csv//200"]
    assert "99" in folder.validate(all_pages(ranges_again)).prices


@pytest.mark.parametrize("other", [50, 150, 1000])
def test_a_changed_range_size_loses_no_record(folder: Folder, other: int) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS))
    known = cursors({"file.csv": folder.scan("file.csv", range_=100)})
    read = [*folder.scan("file.csv", range_=100), *all_pages(folder.scan_all(known, range_=other))]
    assert set(folder.validate(read).prices) == {str(day) for day in range(1, 29)}


def test_a_changed_header_makes_every_range_be_read_again(folder: Folder) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS))
    ranges = folder.scan_all(range_=100)
    folder.write("file.csv", "price,day\n" + "".join(DAYS), changed=JUST_NOW)
    ranges_again = folder.scan_all(cursors(ranges), range_=100)
    assert b"".join(page.body for page in all_pages(ranges_again)).endswith("".join(DAYS).encode())


def test_a_file_without_read_permission_is_one_partition(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + "".join(DAYS))
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("This user may read every file.")
    assert folder.partitions(range_=100) == ["file.csv"]


def test_a_file_in_utf_16_is_not_divided(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily_files(encoding="utf-16"))
    folder.write("file.csv", (HEADER + "".join(DAYS)).encode("utf-16"))
    assert folder.partitions(range_=100) == ["file.csv"]
    assert len(folder.read("file.csv", range_=100).prices) == 28


def test_a_range_of_a_file_that_became_too_short_for_it_has_no_records(folder: Folder) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS))
    assert "file.csv//200" in folder.partitions(range_=100)
    folder.write("file.csv", HEADER + DAYS[0])
    assert [page.body for page in folder.scan("file.csv//200", range_=100)] == [b""]
