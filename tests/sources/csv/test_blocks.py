"""Test that cutting a file into blocks of any size loses no byte and changes no record."""

from __future__ import annotations

import csv
import io
import tracemalloc
from codecs import BOM_UTF8
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.contract import Reject
from sources.csv.window import MAX_RECORD_LINES
from tests.sources.csv_folder import Folder, Outcome, daily_files, joined_bodies, reloaded_cursor

CELL = st.text(st.sampled_from('ab1,;"\n\r é\u2028\x85😀\x00'), max_size=8)
LINE_END = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def csv_texts(draw: st.DrawFn) -> str:
    """Draw the text of a file from Python's csv writer: two columns with any text in the cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=draw(LINE_END))
    writer.writerow(["day", "price"])
    writer.writerows(draw(st.lists(st.tuples(CELL, CELL), max_size=8)))
    return text.getvalue()


BYTES = st.text(st.sampled_from('a1,"\n\ré'), max_size=60).map(str.encode) | st.binary(max_size=60)
ENCODINGS = st.sampled_from(["utf-8", "latin-1", "cp1252", "utf-16-le", "utf-16-be", "gbk"])


def summary(outcome: Outcome) -> list[object]:
    """Return the quotes, the rejects with their reasons, and the number of blank rows."""
    return [
        *outcome.quotes,
        *((text, reject.reasons) for text, reject in outcome.rejects),
        outcome.blank,
    ]


def cells(folder: Folder, block: int) -> list[list[str]]:
    rows = []
    for page in folder.scan("file.csv", block=block):
        for item in folder.source.parse(page):
            if isinstance(item, Reject):
                rows.append(item.item["row"])
            elif isinstance(item, dict):
                rows.append(list(item["row"].values()))
    return rows


@settings(deadline=None)
@given(csv_texts(), st.integers(1, 40))
def test_blocks_of_any_size_contain_all_records_of_the_file(path: Path, text: str, block: int) -> None:
    folder = Folder(path, daily_files())
    folder.write("file.csv", text)
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    expected = [row for row in rows if "".join(row).strip() and [cell.strip() for cell in row] != header]
    assert cells(folder, block=block) == expected
    pages = folder.scan("file.csv", block=block)
    assert joined_bodies(pages) == text.encode()
    for page in pages:
        body = page.body[page.request["head"] :].decode()
        assert len(body.encode()) <= block or len(list(csv.reader(io.StringIO(body, newline="")))) == 1


@settings(deadline=None)
@given(csv_texts(), st.integers(1, 5))
def test_a_block_has_a_limited_number_of_records(path: Path, text: str, records: int) -> None:
    folder = Folder(path, daily_files())
    folder.write("file.csv", text)
    pages = folder.scan("file.csv", records=records)
    assert joined_bodies(pages) == text.encode()
    for page in pages:
        body = page.body[page.request["head"] :].decode()
        assert len(list(csv.reader(io.StringIO(body, newline="")))) <= records
    assert summary(folder.validate(pages)) == summary(folder.validate(folder.scan("file.csv")))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("row", ["1\n", "\n", '"1"\n', "1\r"])
def test_rows_of_one_byte_are_cut_in_bounded_memory(tmp_path: Path, encoding: str, row: str) -> None:
    folder = Folder(tmp_path, daily_files(encoding=encoding))
    folder.write("file.csv", ("day,price\n" + row * 500_000).encode(encoding))
    tracemalloc.start()
    [first, second, *_] = folder.scan("file.csv", records=1000, block=2**20, limit=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert second.request["line"] - first.request["line"] == 1000
    assert peak < 10 * 2**20


@settings(deadline=None, max_examples=300)
@given(BYTES, ENCODINGS, st.integers(1, 40), st.integers(1, 40), st.integers(1, 30))
def test_the_block_size_changes_no_item_and_loses_no_byte(
    path: Path, content: bytes, encoding: str, block: int, other_block: int, record: int
) -> None:
    folder = Folder(path, daily_files(header=("day", "price"), encoding=encoding))
    folder.write("file.csv", content)
    pages = folder.scan("file.csv", block=block, record=record)
    others = folder.scan("file.csv", block=other_block, record=record)
    assert summary(folder.validate(pages)) == summary(folder.validate(others))
    end = 0
    for page in pages:
        assert page.request["offset"] == end
        end += page.request["length"]
        assert page.body == content[page.request["offset"] :][: len(page.body)]
        expected = record if page.request["refused"] else page.request["length"]
        assert len(page.body) - page.request["head"] == min(page.request["length"] - page.request["head"], expected)
    assert end == len(content) or (not pages and content == BOM_UTF8)


@settings(deadline=None, max_examples=25)
@given(csv_texts(), st.integers(1, 40), st.integers(1, 40))
def test_a_scan_from_any_cursor_yields_exactly_the_remaining_items(
    path: Path, text: str, block: int, other_block: int
) -> None:
    folder = Folder(path, daily_files())
    folder.write("file.csv", text)
    pages = folder.scan("file.csv", block=block)
    all_items = summary(folder.validate(pages))
    for count, page in enumerate(pages, 1):
        rest = folder.scan("file.csv", reloaded_cursor(page), block=other_block)
        outcome = folder.validate([*pages[:count], *rest])
        assert summary(outcome) == all_items
        assert joined_bodies([*pages[:count], *rest]) == text.encode()


def test_a_page_stores_the_line_number_of_its_first_record(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily_files())
    folder.write("file.csv", 'day,price\n2024-01-01,"1\n\n"\n2024-01-02,x\n2024-01-03,y\n')
    pages = folder.scan("file.csv", block=20)
    assert [page.request["line"] for page in pages] == [2, 5, 6]
    outcome = folder.validate(pages)
    assert ['"line": 5' in text for text, _ in outcome.rejects] == [True, False]


@pytest.mark.parametrize("block", [8, 100, 10_000])
def test_an_unclosed_quote_rejects_only_its_line(tmp_path: Path, block: int) -> None:
    folder = Folder(tmp_path, daily_files())
    rows = [f"2024-01-01T00:{minute:02}:00,{minute + 1}\n" for minute in range(60)]
    folder.write("file.csv", "".join(["day,price\n", *rows[:20], '2024-01-01,"21\n', *rows[20:]]))
    outcome = folder.read("file.csv", block=block, record=200)
    assert outcome.prices == [str(price) for price in range(1, 61)]
    assert outcome.codes == {"record_too_large": 1}
    [(text, _)] = outcome.rejects
    assert '"line": 22' in text


def test_a_quote_still_open_at_the_end_of_the_file_rejects_only_its_line(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily_files())
    folder.write("file.csv", 'day,price\n2024-01-01,1\n2024-01-02,"2\n2024-01-03,3\n2024-01-04,4')
    outcome = folder.read("file.csv")
    assert outcome.prices == ["1", "3", "4"]
    assert outcome.codes == {"unclosed_quote": 1}


@pytest.mark.parametrize("block", [10, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("size", "prices", "codes"), [(100, ["1", "2"], {}), (101, ["2"], {"record_too_large": 1, "ragged": 1})]
)
def test_a_record_of_exactly_the_maximum_size_is_accepted(
    tmp_path: Path, size: int, prices: list[str], codes: dict[str, int], end: str, block: int
) -> None:
    folder = Folder(tmp_path, daily_files())
    record = f'2024-01-01,"{end}' + "1".rjust(size - 13 - 2 * len(end), "0") + f'"{end}'
    assert len(record) == size
    folder.write("file.csv", f"day,price{end}{record}2024-01-02,2{end}")
    outcome = folder.read("file.csv", record=100, block=block)
    assert (outcome.prices, outcome.codes, outcome.blank) == (prices, codes, 0)


@pytest.mark.parametrize(("lines", "codes"), [(MAX_RECORD_LINES, {}), (MAX_RECORD_LINES + 1, {"record_too_large": 1})])
def test_a_record_with_too_many_lines_counts_as_an_unclosed_quote(
    tmp_path: Path, lines: int, codes: dict[str, int]
) -> None:
    folder = Folder(tmp_path, daily_files())
    folder.write("file.csv", 'day,price\n2024-01-01,"' + "\n" * (lines - 1) + '1"\n2024-01-02,2\n')
    outcome = folder.read("file.csv")
    assert {code: count for code, count in outcome.codes.items() if code != "ragged"} == codes
    assert outcome.prices == (["2"] if codes else ["1", "2"])


def test_the_first_blocks_are_short_and_a_restart_repeats_the_same_blocks(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily_files())
    folder.write("file.csv", "day,price\n" + "2024-01-01,1\n" * 1000)
    pages = folder.scan("file.csv", block=2000)
    lengths = [len(page.body) for page in pages]
    assert [round(length / 500) for length in lengths] == [1, 1, 2, 4, 4, 4, 4, 4, 2]
    for count, page in enumerate(pages, 1):
        remaining = folder.scan("file.csv", cursor=page.cursor, block=2000)
        assert [page.body for page in remaining] == [page.body for page in pages[count:]]


def test_the_last_two_blocks_of_a_range_share_the_remaining_bytes(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily_files())
    folder.write("file.csv", "day,price\n" + "2024-01-01,1\n" * 1000)
    [full, *_, next_to_last, last] = [len(page.body) for page in folder.scan("file.csv//5000", block=1000, range_=5000)]
    assert full > 980
    assert abs(next_to_last - last) < 30


def test_a_very_long_line_is_rejected_without_filling_the_memory(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily_files())
    line_bytes = 64 * 1024 * 1024
    folder.write("file.csv", b"day,price\n2024-01-01,1\n" + b"x" * line_bytes + b"\n2024-01-02,2\n")
    tracemalloc.start()
    pages = folder.scan("file.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert folder.validate(pages).prices == ["1", "2"]
    assert folder.validate(pages).codes == {"record_too_large": 1}
    assert sum(page.request["length"] for page in pages) == (tmp_path / "file.csv").stat().st_size
    assert peak < 16 * 1024 * 1024
