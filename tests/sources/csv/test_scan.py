"""Test that a second scan detects whether a file has grown, was replaced, is unchanged, or is being written."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.contract import Page, TerminalError, TransientError, Window
from tests.sources.csv_folder import NO_HTTP, NOW, Folder, assert_unreadable, daily_files, environment, reloaded_cursor

HEADER = "day,price\n"
ONE, TWO, THREE = (f"2024-01-0{day},{day}\n" for day in (1, 2, 3))
JUST_NOW = NOW - timedelta(seconds=1)


def last_cursor(pages: list[Page]) -> dict[str, object]:
    return dict(reloaded_cursor(pages[-1]))


@pytest.fixture
def growing(tmp_path: Path) -> Folder:
    """Return a folder whose files are not declared as complete."""
    return Folder(tmp_path, daily_files(complete=False))


@pytest.mark.parametrize("count", [1, 30_000])
def test_an_unchanged_file_gives_no_page(folder: Folder, count: int) -> None:
    folder.write("file.csv", HEADER + ONE * count)
    cursor = last_cursor(folder.scan("file.csv"))
    assert folder.scan("file.csv", cursor) == []


def test_a_large_file_with_the_same_state_is_not_read(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE * 30_000)
    cursor = last_cursor(folder.scan("file.csv"))
    # Only a scan that reads the file notices that this cursor has another digest.
    assert folder.scan("file.csv", {**cursor, "digest": "0" * 64}) == []
    assert folder.scan("file.csv", {**cursor, "digest": "0" * 64, "ctime_ns": 1}) != []


@pytest.mark.parametrize("count", [1, 30_000])
def test_a_file_that_was_replaced_with_the_same_size_and_time_is_read_again(folder: Folder, count: int) -> None:
    file = folder.write("file.csv", HEADER + ONE * count + TWO)
    cursor = last_cursor(folder.scan("file.csv"))
    other = folder.write("other", HEADER + ONE * count + THREE)
    os.utime(other, ns=(0, file.stat().st_mtime_ns))
    assert other.stat().st_size == file.stat().st_size
    other.replace(file)
    assert folder.validate(folder.scan("file.csv", cursor)).prices[-1] == "3"


def test_a_small_file_rewritten_within_one_step_of_the_clock_is_read_again(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + ONE)
    cursor = last_cursor(folder.scan("file.csv"))
    file.write_text(HEADER + TWO)
    # As if the kernel had given both changes the same time.
    status = file.stat()
    cursor |= {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    assert folder.validate(folder.scan("file.csv", cursor)).prices == ["2"]


def test_a_cursor_of_an_earlier_version_repeats_no_record(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE + TWO)
    cursor = last_cursor(folder.scan("file.csv"))
    earlier = {name: value for name, value in cursor.items() if name not in ("ctime_ns", "inode")}
    pages = folder.scan("file.csv", earlier)
    assert [page.body for page in pages] == [b""]
    assert last_cursor(pages) == cursor


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
    folder = Folder(tmp_path_factory.mktemp("csv"), daily_files(complete=False))
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


def test_a_last_line_that_can_never_become_a_record_is_an_error_at_each_scan(growing: Folder) -> None:
    growing.write("file.csv", HEADER + ONE + "x" * 2000)
    with pytest.raises(TerminalError, match="line 3 has no line end within its 2000 bytes") as raised:
        growing.scan("file.csv", record=1000)
    assert raised.value.code == "record_unended"
    [page] = growing.scan("file.csv", record=1000, limit=1)
    assert growing.validate([page]).prices == ["1"]
    with pytest.raises(TerminalError, match="begins with b'xxx"):
        growing.scan("file.csv", reloaded_cursor(page), record=1000)
    growing.write("file.csv", HEADER + ONE + "x" * 2000 + "\n" + TWO)
    outcome = growing.validate(growing.scan("file.csv", reloaded_cursor(page), record=1000))
    assert (outcome.prices, set(outcome.codes)) == (["2"], {"record_too_large"})


UNTERMINATED = pytest.mark.parametrize("last", ["2024-01-03,30", '2024-01-03,"30\n', "2024-01-03,30\r"])


@UNTERMINATED
def test_a_record_without_an_end_waits_however_long_the_file_is_unchanged(growing: Folder, last: str) -> None:
    growing.write("file.csv", HEADER + ONE + TWO + last, changed=NOW - timedelta(days=1))
    first = growing.scan("file.csv")
    assert growing.validate(first).prices == ["1", "2"]
    assert growing.scan("file.csv", last_cursor(first), now=NOW + timedelta(days=1)) == []
    assert first[-1].waiting
    assert "csv_test: file.csv: line 4 waits" in first[-1].waiting
    assert [page.waiting for page in first[:-1]] == [None]


@UNTERMINATED
def test_a_waiting_record_is_read_once_its_file_is_declared_complete(growing: Folder, last: str) -> None:
    growing.write("file.csv", HEADER + ONE + TWO + last)
    cursor = last_cursor(growing.scan("file.csv"))
    complete = Folder(growing.path, daily_files())
    outcome = complete.validate(complete.scan("file.csv", cursor))
    assert (outcome.prices or [*outcome.codes]) in (["30"], ["unclosed_quote"])


def test_the_last_record_of_a_complete_file_needs_no_line_end(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + ONE + "2024-01-03,30")
    pages = folder.scan("file.csv")
    assert folder.validate(pages).prices == ["1", "30"]
    assert folder.scan("file.csv", last_cursor(pages)) == []
    file.touch()
    touched = folder.scan("file.csv", last_cursor(pages))
    assert [page.body for page in touched] == [b""]
    assert folder.scan("file.csv", last_cursor(touched)) == []
    file.write_text(HEADER + ONE + "2024-01-03,31")
    assert folder.validate(folder.scan("file.csv", last_cursor(touched))).prices == ["31"]


def test_each_change_of_an_unfinished_record_gives_one_empty_page(growing: Folder) -> None:
    growing.write("file.csv", HEADER + ONE)
    cursor = last_cursor(growing.scan("file.csv"))
    growing.write("file.csv", HEADER + ONE + "2024-01-02", changed=JUST_NOW)
    waiting = growing.scan("file.csv", cursor)
    growing.write("file.csv", HEADER + ONE + "2024-01-02,", changed=JUST_NOW)
    longer = growing.scan("file.csv", last_cursor(waiting))
    growing.write("file.csv", HEADER + ONE + TWO, changed=JUST_NOW)
    complete = growing.scan("file.csv", last_cursor(longer))
    assert [page.body for page in waiting + longer + complete] == [b"", b"", TWO.encode()]


def test_a_record_that_was_read_incomplete_is_read_again(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE + "2024-01-03,3")
    cursor = last_cursor(folder.scan("file.csv"))
    folder.write("file.csv", HEADER + ONE + "2024-01-03,30000\n")
    assert folder.validate(folder.scan("file.csv", cursor)).prices == ["30000"]


def test_an_interrupted_and_resumed_scan_counts_as_one_scan(growing: Folder) -> None:
    growing.write("file.csv", HEADER + ONE + TWO + "2024-01-03,30", changed=JUST_NOW)
    first, *_ = growing.scan("file.csv", block=20)
    assert growing.validate([first]).prices == ["1"]
    rest = growing.scan("file.csv", last_cursor([first]), block=20)
    assert [page.body for page in rest] == [TWO.encode(), b""]


def test_a_header_that_was_read_incomplete_is_read_again(folder: Folder) -> None:
    folder.write("file.csv", "day,price")
    cursor = last_cursor(folder.scan("file.csv"))
    folder.write("file.csv", "day,price,note\n2024-01-01,1,x\n", changed=JUST_NOW)
    outcome = folder.validate(folder.scan("file.csv", cursor))
    assert (outcome.prices, outcome.codes, outcome.blank) == (["1"], {}, 0)


def test_a_header_without_a_line_end_is_not_read_yet(growing: Folder) -> None:
    growing.write("file.csv", "day", changed=JUST_NOW)
    waiting = growing.scan("file.csv")
    assert [page.body for page in waiting] == [b""]
    growing.write("file.csv", HEADER + ONE, changed=JUST_NOW)
    assert growing.validate(growing.scan("file.csv", last_cursor(waiting))).prices == ["1"]


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


def rewrite_larger(file: Path) -> None:
    file.write_text(HEADER + THREE * 3)


def shorten(file: Path) -> None:
    os.truncate(file, 3)


def shorten_with_the_same_time(file: Path) -> None:
    status = file.stat()
    os.truncate(file, 3)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_with_other_content(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_text(HEADER + ONE + THREE)
    other.replace(file)


@pytest.mark.parametrize(
    "change",
    [rewrite, shorten, shorten_with_the_same_time, replace_with_other_content, rewrite_larger, Path.unlink],
)
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
