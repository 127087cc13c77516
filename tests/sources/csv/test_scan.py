"""Test that a second scan detects whether a file has grown, was replaced, is unchanged, or is being written."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.contract import Page, TransientError, Window
from tests.sources.csv_folder import NO_HTTP, NOW, Folder, assert_unreadable, daily_files, environment, reloaded_cursor

HEADER = "day,price\n"
ONE, TWO, THREE = (f"2024-01-0{day},{day}\n" for day in (1, 2, 3))
JUST_NOW = NOW - timedelta(seconds=1)


def last_cursor(pages: list[Page]) -> dict[str, object]:
    return dict(reloaded_cursor(pages[-1]))


def test_an_unchanged_file_is_not_read(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + ONE)
    cursor = last_cursor(folder.scan("file.csv"))
    status = file.stat()
    file.write_bytes(b"X" * status.st_size)  # Only a scan that reads the file can detect this change.
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert folder.scan("file.csv", cursor) == []


def test_a_grown_file_is_read_from_the_end_of_the_last_scan(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE)
    cursor = last_cursor(folder.scan("file.csv"))
    folder.write("file.csv", HEADER + ONE + TWO + THREE, changed=JUST_NOW)
    pages = folder.scan("file.csv", cursor)
    assert [page.body for page in pages] == [(TWO + THREE).encode()]
    assert pages[0].request["line"] == 3
    assert folder.validate(pages).prices == ["2", "3"]


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 40))
def test_a_file_that_grows_between_scans_loses_and_repeats_no_item(
    tmp_path_factory: pytest.TempPathFactory, length: int, block: int
) -> None:
    content = HEADER + ONE + '2024-01-02,"2\n"\n' + THREE
    folder = Folder(tmp_path_factory.mktemp("csv"), daily_files())
    folder.write("file.csv", content[:length], changed=JUST_NOW)
    pages = folder.scan("file.csv", block=block)
    folder.write("file.csv", content)
    cursor = last_cursor(pages) if pages else None
    outcome = folder.validate([*pages, *folder.scan("file.csv", cursor, block=block)])
    assert (outcome.prices, outcome.codes, outcome.blank) == (["1", "2", "3"], {}, 0)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(HEADER + THREE + TWO + ONE, id="longer"),
        pytest.param(HEADER + THREE + TWO, id="of the same size"),
        pytest.param(HEADER + THREE, id="shorter"),
        pytest.param("price,day\n3,2024-01-03\n", id="with another header"),
    ],
)
def test_a_replaced_file_is_read_again(folder: Folder, content: str) -> None:
    folder.write("file.csv", HEADER + ONE + TWO)
    cursor = last_cursor(folder.scan("file.csv"))
    folder.write("file.csv", content, changed=JUST_NOW)
    outcome = folder.validate(folder.scan("file.csv", cursor))
    assert outcome.prices[0] == "3"
    assert len(outcome.quotes) == content.count("\n") - 1


def test_a_file_with_only_a_new_modification_time_gives_one_empty_page(folder: Folder) -> None:
    content = HEADER + ONE
    folder.write("file.csv", content)
    cursor = last_cursor(folder.scan("file.csv"))
    folder.write("file.csv", content, changed=JUST_NOW)
    pages = folder.scan("file.csv", cursor)
    assert [page.body for page in pages] == [b""]
    assert folder.scan("file.csv", last_cursor(pages)) == []


def test_a_record_without_a_line_end_is_read_once_two_scans_found_the_file_unchanged(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE + TWO + "2024-01-03,30", changed=JUST_NOW)
    first = folder.scan("file.csv")
    assert folder.validate(first).prices == ["1", "2"]
    second = folder.scan("file.csv", last_cursor(first))
    assert folder.validate(second).prices == ["30"]
    assert folder.scan("file.csv", last_cursor(second)) == []


def test_each_change_of_an_unfinished_record_gives_one_empty_page(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE)
    cursor = last_cursor(folder.scan("file.csv"))
    folder.write("file.csv", HEADER + ONE + "2024-01-02", changed=JUST_NOW)
    waiting = folder.scan("file.csv", cursor)
    folder.write("file.csv", HEADER + ONE + "2024-01-02,", changed=JUST_NOW)
    longer = folder.scan("file.csv", last_cursor(waiting))
    folder.write("file.csv", HEADER + ONE + TWO, changed=JUST_NOW)
    complete = folder.scan("file.csv", last_cursor(longer))
    assert [page.body for page in waiting + longer + complete] == [b"", b"", TWO.encode()]


def test_a_record_without_a_line_end_is_read_once_the_file_is_unchanged_for_a_minute(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE + "2024-01-03,30", changed=NOW - timedelta(seconds=61))
    assert folder.read("file.csv").prices == ["1", "30"]
    folder.write("file.csv", HEADER + ONE + "2024-01-03,30", changed=NOW - timedelta(seconds=59))
    assert folder.read("file.csv").prices == ["1"]


def test_a_record_that_was_read_incomplete_is_read_again(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE + "2024-01-03,3")
    cursor = last_cursor(folder.scan("file.csv"))
    folder.write("file.csv", HEADER + ONE + "2024-01-03,30000\n")
    assert folder.validate(folder.scan("file.csv", cursor)).prices == ["30000"]


def test_an_interrupted_and_resumed_scan_counts_as_one_scan(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE + TWO + "2024-01-03,30", changed=JUST_NOW)
    first, *_ = folder.scan("file.csv", block=20)
    assert folder.validate([first]).prices == ["1"]
    rest = folder.scan("file.csv", last_cursor([first]), block=20)
    assert [page.body for page in rest] == [TWO.encode(), b""]


def test_a_header_that_was_read_incomplete_is_read_again(folder: Folder) -> None:
    folder.write("file.csv", "day,price")
    cursor = last_cursor(folder.scan("file.csv"))
    folder.write("file.csv", "day,price,note\n2024-01-01,1,x\n", changed=JUST_NOW)
    outcome = folder.validate(folder.scan("file.csv", cursor))
    assert (outcome.prices, outcome.codes, outcome.blank) == (["1"], {}, 0)


def test_a_header_without_a_line_end_is_not_read_yet(folder: Folder) -> None:
    folder.write("file.csv", "day", changed=JUST_NOW)
    waiting = folder.scan("file.csv")
    assert [page.body for page in waiting] == [b""]
    folder.write("file.csv", HEADER + ONE, changed=JUST_NOW)
    assert folder.validate(folder.scan("file.csv", last_cursor(waiting))).prices == ["1"]


@pytest.mark.parametrize("content", ["day,price\n", "day,price", "\n\nday,price\r\n"])
def test_a_file_with_only_a_header_gives_one_page_without_items(folder: Folder, content: str) -> None:
    folder.write("file.csv", content)
    pages = folder.scan("file.csv")
    assert [page.body for page in pages] == [content.encode()]
    outcome = folder.validate(pages)
    assert (outcome.quotes, outcome.rejects, outcome.blank) == ([], [], 0)
    assert folder.scan("file.csv", last_cursor(pages)) == []


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_gives_no_page(folder: Folder, content: bytes) -> None:
    folder.write("file.csv", content)
    assert folder.scan("file.csv") == []


def test_a_file_that_was_emptied_and_refilled_is_read_again(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE)
    cursor = last_cursor(folder.scan("file.csv"))
    folder.write("file.csv", b"", changed=JUST_NOW)
    assert folder.scan("file.csv", cursor) == []
    folder.write("file.csv", HEADER + THREE, changed=JUST_NOW)
    assert folder.validate(folder.scan("file.csv", cursor)).prices == ["3"]


def test_a_page_is_committed_if_its_file_is_unchanged_or_has_grown(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + ONE)
    [page] = folder.scan("file.csv")
    assert page.confirm
    page.confirm()
    with file.open("a") as writer:
        writer.write(TWO)
    page.confirm()


def rewrite(file: Path) -> None:
    file.write_bytes(b"x" * file.stat().st_size)


def shorten(file: Path) -> None:
    os.truncate(file, 3)


def shorten_with_the_same_time(file: Path) -> None:
    status = file.stat()
    os.truncate(file, 3)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_file(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_text(HEADER + ONE + TWO + THREE)
    other.replace(file)


@pytest.mark.parametrize("change", [rewrite, shorten, shorten_with_the_same_time, replace_file, Path.unlink])
def test_a_page_is_not_committed_if_its_file_has_changed(folder: Folder, change: object) -> None:
    file = folder.write("file.csv", HEADER + ONE + TWO)
    [page] = folder.scan("file.csv")
    assert page.confirm
    assert callable(change)
    change(file)
    with pytest.raises(TransientError, match=r"file\.csv") as raised:
        page.confirm()
    assert raised.value.code == "file_changed"


def test_a_file_that_becomes_shorter_during_a_scan_is_read_again_later(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + ONE * 2000)
    with environment(CSV_DIR=str(folder.path), CSV_BLOCK_BYTES="100"):
        pages = folder.source.fetch(Window("run", "file.csv", None, NOW), NO_HTTP)
        next(iter(pages))
        os.truncate(file, 5)
        with pytest.raises(TransientError, match=r"file\.csv") as raised:
            list(pages)
    assert raised.value.code == "file_changed"


def test_records_written_during_a_scan_are_read_by_the_next_scan(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + ONE + TWO)
    with environment(CSV_DIR=str(folder.path), CSV_BLOCK_BYTES="20"):
        pages = folder.source.fetch(Window("run", "file.csv", None, NOW), NO_HTTP)
        first = next(pages)
        with file.open("a") as writer:
            writer.write(THREE)
        rest = list(pages)
    assert folder.validate([first, *rest]).prices == ["1", "2"]
    assert folder.validate(folder.scan("file.csv", last_cursor(rest))).prices == ["3"]


def test_the_error_for_a_missing_file_names_it(folder: Folder) -> None:
    assert_unreadable(folder, "gone.csv")


def test_the_error_for_a_folder_instead_of_a_file_names_it(folder: Folder) -> None:
    (folder.path / "folder.csv").mkdir()
    assert_unreadable(folder, "folder.csv")


def test_a_named_pipe_instead_of_a_file_is_an_error_at_once(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe.csv")
    assert_unreadable(folder, "pipe.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_the_error_for_a_file_without_read_permission_names_it(folder: Folder) -> None:
    folder.write("file.csv", HEADER).chmod(0)
    assert_unreadable(folder, "file.csv")
