"""However a file is cut, its records are the same, and all of its bytes are kept."""

from __future__ import annotations

import csv
import io
import tracemalloc
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.contract import Reject, TransientError
from sources.csv.blocks import CHUNK, MOST_LINES, Reading, cut
from tests.sources.csv_folder import Folder, Judged, daily, kept, whole

CELL = st.text(st.sampled_from('ab1,;"\n\r é\u2028\x85😀\x00'), max_size=8)
LINE_END = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def well_formed(draw: st.DrawFn) -> str:
    """A file as a csv writer writes it: two columns, any text in the cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=draw(LINE_END))
    writer.writerow(["day", "price"])
    writer.writerows(draw(st.lists(st.tuples(CELL, CELL), max_size=8)))
    return text.getvalue()


BYTES = st.text(st.sampled_from('a1,"\n\ré'), max_size=60).map(str.encode) | st.binary(max_size=60)
ENCODINGS = st.sampled_from(["utf-8", "latin-1", "cp1252", "utf-16-le", "utf-16-be", "gbk"])


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with TemporaryDirectory() as path:
        yield Path(path)


def outcome(judged: Judged) -> list[object]:
    """All there is to say of the items, in their order."""
    return [
        *judged.quotes,
        *((text, reject.reasons) for text, reject in judged.rejects),
        judged.blank,
    ]


def cells(folder: Folder, block: int) -> list[list[str]]:
    rows = []
    for page in folder.look("file.csv", block=block):
        for item in folder.source.parse(page):
            if isinstance(item, Reject):
                rows.append(item.item["row"])
            elif isinstance(item, dict):
                rows.append(list(item["row"].values()))
    return rows


@settings(deadline=None)
@given(well_formed(), st.integers(1, 40))
def test_records_of_any_block_size_are_those_of_the_whole_file(path: Path, text: str, block: int) -> None:
    folder = Folder(path, daily())
    folder.write("file.csv", text)
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    expected = [row for row in rows if "".join(row).strip() and [cell.strip() for cell in row] != header]
    assert cells(folder, block=block) == expected
    pages = folder.look("file.csv", block=block)
    assert whole(pages) == text.encode()
    for page in pages:
        body = page.body[page.request["head"] :].decode()
        assert len(body.encode()) <= block or len(list(csv.reader(io.StringIO(body, newline="")))) == 1


@settings(deadline=None, max_examples=300)
@given(BYTES, ENCODINGS, st.integers(1, 40), st.integers(1, 40), st.integers(1, 30))
def test_any_bytes_are_kept_and_judged_alike_in_blocks_of_any_size(
    path: Path, content: bytes, encoding: str, block: int, other: int, record: int
) -> None:
    folder = Folder(path, daily(header=("day", "price"), encoding=encoding))
    folder.write("file.csv", content)
    pages = folder.look("file.csv", block=block, record=record)
    others = folder.look("file.csv", block=other, record=record)
    assert outcome(folder.judge(pages)) == outcome(folder.judge(others))
    end = 0
    for page in pages:
        assert page.request["offset"] == end
        end += page.request["length"]
        assert page.body == content[page.request["offset"] :][: len(page.body)]
        most = record if page.request["refused"] else page.request["length"]
        assert len(page.body) - page.request["head"] == min(page.request["length"] - page.request["head"], most)
    assert end == len(content) or (not pages and content == BOM_UTF8)


@settings(deadline=None, max_examples=25)
@given(well_formed(), st.integers(1, 40), st.integers(1, 40))
def test_reading_on_at_any_cursor_gives_exactly_the_remaining_items(
    path: Path, text: str, block: int, other: int
) -> None:
    folder = Folder(path, daily())
    folder.write("file.csv", text)
    pages = folder.look("file.csv", block=block)
    everything = outcome(folder.judge(pages))
    for count, page in enumerate(pages, 1):
        rest = folder.look("file.csv", kept(page), block=other)
        judged = folder.judge([*pages[:count], *rest])
        assert outcome(judged) == everything
        assert whole([*pages[:count], *rest]) == text.encode()


def test_a_page_names_the_line_that_its_first_record_begins_in(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily())
    folder.write("file.csv", 'day,price\n2024-01-01,"1\n\n"\n2024-01-02,x\n2024-01-03,y\n')
    pages = folder.look("file.csv", block=20)
    assert [page.request["line"] for page in pages] == [2, 5, 6]
    judged = folder.judge(pages)
    assert ['"line": 5' in text for text, _ in judged.rejects] == [True, False]


@pytest.mark.parametrize("block", [8, 100, 10_000])
def test_a_quote_that_is_never_closed_costs_its_line_only(tmp_path: Path, block: int) -> None:
    folder = Folder(tmp_path, daily())
    rows = [f"2024-01-01T00:{minute:02}:00,{minute + 1}\n" for minute in range(60)]
    folder.write("file.csv", "".join(["day,price\n", *rows[:20], '2024-01-01,"21\n', *rows[20:]]))
    judged = folder.read("file.csv", block=block, record=200)
    assert judged.prices == [str(price) for price in range(1, 61)]
    assert judged.codes == {"record_too_large": 1}
    [(text, _)] = judged.rejects
    assert '"line": 22' in text


def test_a_quote_that_is_open_where_the_file_ends_costs_its_line_only(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily())
    folder.write("file.csv", 'day,price\n2024-01-01,1\n2024-01-02,"2\n2024-01-03,3\n2024-01-04,4')
    judged = folder.read("file.csv")
    assert judged.prices == ["1", "3", "4"]
    assert judged.codes == {"unclosed_quote": 1}


@pytest.mark.parametrize("block", [10, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("size", "prices", "codes"), [(100, ["1", "2"], {}), (101, ["2"], {"record_too_large": 1, "ragged": 1})]
)
def test_a_record_may_have_exactly_the_allowed_size(
    tmp_path: Path, size: int, prices: list[str], codes: dict[str, int], end: str, block: int
) -> None:
    folder = Folder(tmp_path, daily())
    record = f'2024-01-01,"{end}' + "1".rjust(size - 13 - 2 * len(end), "0") + f'"{end}'
    assert len(record) == size
    folder.write("file.csv", f"day,price{end}{record}2024-01-02,2{end}")
    judged = folder.read("file.csv", record=100, block=block)
    assert (judged.prices, judged.codes, judged.blank) == (prices, codes, 0)


@pytest.mark.parametrize(("lines", "codes"), [(MOST_LINES, {}), (MOST_LINES + 1, {"record_too_large": 1})])
def test_a_record_of_very_many_lines_is_a_lost_quote(tmp_path: Path, lines: int, codes: dict[str, int]) -> None:
    folder = Folder(tmp_path, daily())
    folder.write("file.csv", 'day,price\n2024-01-01,"' + "\n" * (lines - 1) + '1"\n2024-01-02,2\n')
    judged = folder.read("file.csv")
    assert {code: count for code, count in judged.codes.items() if code != "ragged"} == codes
    assert judged.prices == (["2"] if codes else ["1", "2"])


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_a_line_end_is_known_where_the_chunks_of_a_long_line_meet(tmp_path: Path, end: str) -> None:
    folder = Folder(tmp_path, daily())
    for length in range(CHUNK - 2, CHUNK + 2):
        folder.write("file.csv", f"day,price{end}{'x' * length}{end}2024-01-02,2{end}")
        judged = folder.read("file.csv")
        assert (judged.prices, judged.codes, judged.blank) == (["2"], {"record_too_large": 1}, 0)


def test_a_file_that_ends_before_its_size_is_not_taken_for_whole() -> None:
    reading = Reading("file.csv", "utf-8", ",", end=100, still=True, block_bytes=1000, record_bytes=1000)
    with pytest.raises(TransientError, match=r"file\.csv: became shorter") as raised:
        list(cut(io.BytesIO(b"2024-01-01,1\n"), 0, 1, reading))
    assert raised.value.code == "file_changed"


def test_the_first_blocks_are_short_and_each_ends_where_it_would_whoever_goes_on_after_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily())
    folder.write("file.csv", "day,price\n" + "2024-01-01,1\n" * 1000)
    pages = folder.look("file.csv", block=2000)
    lengths = [len(page.body) for page in pages]
    assert [round(length / 500) for length in lengths] == [1, 1, 2, 4, 4, 4, 4, 4, 2]
    for place, page in enumerate(pages, 1):
        begun = folder.look("file.csv", cursor=page.cursor, block=2000)
        assert [page.body for page in begun] == [page.body for page in pages[place:]]


def test_the_last_two_blocks_of_a_range_share_what_is_left(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily())
    folder.write("file.csv", "day,price\n" + "2024-01-01,1\n" * 1000)
    [whole, *_, last, end] = [len(page.body) for page in folder.look("file.csv//5000", block=1000, range_=5000)]
    assert whole > 980
    assert abs(last - end) < 30


def test_a_line_without_end_is_refused_without_being_held(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily())
    long = 64 * 1024 * 1024
    folder.write("file.csv", b"day,price\n2024-01-01,1\n" + b"x" * long + b"\n2024-01-02,2\n")
    tracemalloc.start()
    pages = folder.look("file.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert folder.judge(pages).prices == ["1", "2"]
    assert folder.judge(pages).codes == {"record_too_large": 1}
    assert sum(page.request["length"] for page in pages) == (tmp_path / "file.csv").stat().st_size
    assert peak < 16 * 1024 * 1024


def test_a_cell_may_be_larger_than_the_csv_module_likes(tmp_path: Path) -> None:
    folder = Folder(
        tmp_path,
        daily(
            columns={"observed_at": "day", "price": "price", "name": "name"},
            constants={
                "source_asset_id": "coin",
                "symbol": "COIN",
                "quote_currency": "USD",
            },
        ),
    )
    csv.field_size_limit(131072)
    folder.write("file.csv", f"day,price,name\n2024-01-01,1,{'x' * 200_000}\n")
    assert folder.read("file.csv").codes == {"too_long": 1}
