"""A large file in ranges: read by whomever and in any order, they are the file, record for record."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.contract import Cursor, Page
from tests.sources.csv_folder import NOW, Folder, Judged, daily, kept

HEADER = "day,price\n"
DAYS = [f"2024-01-{day:02},{day}\n" for day in range(1, 29)]
JUST_NOW = NOW - timedelta(seconds=1)

# Records, parts of one, and none: quotes that enclose line ends, that are never closed, that mean nothing.
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


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, daily())


def said(judged: Judged) -> tuple[object, ...]:
    return judged.prices, judged.rejects and [item for item, _ in judged.rejects], judged.blank


def flat(ranges: dict[str, list[Page]]) -> list[Page]:
    return [page for pages in ranges.values() for page in pages]


def cursors(ranges: dict[str, list[Page]], before: dict[str, Cursor] | None = None) -> dict[str, Cursor]:
    return {**(before or {}), **{partition: kept(pages[-1]) for partition, pages in ranges.items() if pages}}


def test_each_range_has_a_name_of_its_own(folder: Folder) -> None:
    folder.write("small.csv", HEADER)
    folder.write("large.csv", HEADER + "".join(DAYS))
    assert folder.partitions(range_=150) == ["large.csv", "large.csv//150", "large.csv//300", "small.csv"]


def test_the_first_record_from_a_mark_on_is_its_ranges_first(folder: Folder) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS[:4]))
    # The second mark is the third record's first byte; the third lies within the fourth record.
    ranges = folder.look_at_all(range_=len(HEADER) + len(DAYS[0]) + len(DAYS[1]))
    assert [[page.body.decode() for page in pages] for pages in ranges.values()] == [
        [HEADER + DAYS[0] + DAYS[1]],
        [DAYS[2] + DAYS[3]],
    ]
    assert [pages[0].request["line"] for pages in ranges.values()] == [2, 4]


@settings(deadline=None, max_examples=40)
@given(st.lists(LINES, max_size=25), st.integers(1, 90), st.integers(1, 90), st.integers(45, 90))
def test_ranges_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], range_: int, block: int, record: int
) -> None:
    folder = Folder(tmp_path_factory.mktemp("csv"), daily())
    folder.write("file.csv", HEADER + "".join(lines))
    at_once = folder.judge(folder.look("file.csv", record=record))
    backwards = {
        partition: folder.look(partition, range_=range_, block=block, record=record)
        for partition in reversed(folder.partitions(range_))
    }
    in_ranges = folder.judge([page for pages in reversed(backwards.values()) for page in pages])
    assert said(in_ranges) == said(at_once)


@settings(deadline=None, max_examples=25)
@given(st.lists(LINES, max_size=12), st.lists(st.integers(0, 200), max_size=3), st.integers(1, 90))
def test_no_record_of_a_growing_file_is_left_out_between_ranges(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], lengths: list[int], range_: int
) -> None:
    content = HEADER + "".join(lines)
    folder = Folder(tmp_path_factory.mktemp("csv"), daily())
    known: dict[str, Cursor] = {}
    prices: set[str] = set()
    for place, length in enumerate(sorted(lengths)):
        folder.write("file.csv", content[: len(HEADER) + length], changed=JUST_NOW + timedelta(milliseconds=place))
        ranges = folder.look_at_all(known, range_=range_)
        known, prices = cursors(ranges, known), prices | set(folder.judge(flat(ranges)).prices)
    folder.write("file.csv", content)
    ranges = folder.look_at_all(known, range_=range_)
    at_once = folder.judge(folder.look("file.csv")).prices
    assert prices | set(folder.judge(flat(ranges)).prices) >= set(at_once)
    assert flat(folder.look_at_all(cursors(ranges, known), range_=range_)) == []


def test_of_a_grown_file_only_what_is_new_is_read(folder: Folder) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS[:20]))
    ranges = folder.look_at_all(range_=100)
    folder.write("file.csv", HEADER + "".join(DAYS), changed=JUST_NOW)
    grown = folder.look_at_all(cursors(ranges), range_=100)
    assert b"".join(page.body for page in flat(grown)) == "".join(DAYS[20:]).encode()


def test_of_a_file_that_is_changed_in_one_place_only_that_range_is_read_anew(folder: Folder) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS))
    ranges = folder.look_at_all(range_=100)
    folder.write("file.csv", HEADER + "".join(DAYS).replace(",20", ",99"), changed=JUST_NOW)
    anew = folder.look_at_all(cursors(ranges), range_=100)
    assert [partition for partition, pages in anew.items() if any(page.body for page in pages)] == ["file.csv//200"]
    assert "99" in folder.judge(flat(anew)).prices


@pytest.mark.parametrize("other", [50, 150, 1000])
def test_ranges_of_another_size_leave_nothing_out(folder: Folder, other: int) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS))
    known = cursors({"file.csv": folder.look("file.csv", range_=100)})
    read = [*folder.look("file.csv", range_=100), *flat(folder.look_at_all(known, range_=other))]
    assert set(folder.judge(read).prices) == {str(day) for day in range(1, 29)}


def test_a_changed_header_has_every_range_read_anew(folder: Folder) -> None:
    folder.write("file.csv", HEADER + "".join(DAYS))
    ranges = folder.look_at_all(range_=100)
    folder.write("file.csv", "price,day\n" + "".join(DAYS), changed=JUST_NOW)
    anew = folder.look_at_all(cursors(ranges), range_=100)
    assert b"".join(page.body for page in flat(anew)).endswith("".join(DAYS).encode())


def test_a_file_that_may_not_be_read_is_named_once(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + "".join(DAYS))
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    assert folder.partitions(range_=100) == ["file.csv"]


def test_a_file_of_two_bytes_a_character_is_read_as_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily(encoding="utf-16"))
    folder.write("file.csv", (HEADER + "".join(DAYS)).encode("utf-16"))
    assert folder.partitions(range_=100) == ["file.csv"]
    assert len(folder.read("file.csv", range_=100).prices) == 28
