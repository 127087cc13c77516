"""What a second look at a file finds: that it has grown, was replaced, is as it was, or is being written."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.contract import Page, TerminalError, TransientError, Window
from tests.sources.csv_folder import NO_HTTP, NOW, Folder, daily, environment, kept

HEADER = "day,price\n"
ONE, TWO, THREE = (f"2024-01-0{day},{day}\n" for day in (1, 2, 3))
JUST_NOW = NOW - timedelta(seconds=1)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, daily())


def last(pages: list[Page]) -> dict[str, object]:
    return dict(kept(pages[-1]))


def test_an_unchanged_file_is_not_read(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + ONE)
    cursor = last(folder.look("file.csv"))
    status = file.stat()
    file.write_bytes(b"X" * status.st_size)  # only who reads it would see the difference
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert folder.look("file.csv", cursor) == []


def test_a_grown_file_is_read_on(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE)
    cursor = last(folder.look("file.csv"))
    folder.write("file.csv", HEADER + ONE + TWO + THREE, changed=JUST_NOW)
    pages = folder.look("file.csv", cursor)
    assert [page.body for page in pages] == [(TWO + THREE).encode()]
    assert pages[0].request["line"] == 3
    assert folder.judge(pages).prices == ["2", "3"]


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 40))
def test_a_file_that_grows_between_looks_is_read_as_one_that_did_not(
    tmp_path_factory: pytest.TempPathFactory, length: int, block: int
) -> None:
    content = HEADER + ONE + '2024-01-02,"2\n"\n' + THREE
    folder = Folder(tmp_path_factory.mktemp("csv"), daily())
    folder.write("file.csv", content[:length], changed=JUST_NOW)
    pages = folder.look("file.csv", block=block)
    folder.write("file.csv", content)
    cursor = last(pages) if pages else None
    judged = folder.judge([*pages, *folder.look("file.csv", cursor, block=block)])
    assert (judged.prices, judged.codes, judged.blank) == (["1", "2", "3"], {}, 0)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(HEADER + THREE + TWO + ONE, id="longer"),
        pytest.param(HEADER + THREE + TWO, id="of the same size"),
        pytest.param(HEADER + THREE, id="shorter"),
        pytest.param("price,day\n3,2024-01-03\n", id="with another header"),
    ],
)
def test_a_replaced_file_is_read_anew(folder: Folder, content: str) -> None:
    folder.write("file.csv", HEADER + ONE + TWO)
    cursor = last(folder.look("file.csv"))
    folder.write("file.csv", content, changed=JUST_NOW)
    judged = folder.judge(folder.look("file.csv", cursor))
    assert judged.prices[0] == "3"
    assert len(judged.quotes) == content.count("\n") - 1


def test_a_file_that_was_only_touched_is_remembered_so(folder: Folder) -> None:
    content = HEADER + ONE
    folder.write("file.csv", content)
    cursor = last(folder.look("file.csv"))
    folder.write("file.csv", content, changed=JUST_NOW)
    pages = folder.look("file.csv", cursor)
    assert [page.body for page in pages] == [b""]
    assert folder.look("file.csv", last(pages)) == []


def test_a_record_without_line_end_waits_until_the_file_was_still_for_two_looks(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE + TWO + "2024-01-03,30", changed=JUST_NOW)
    first = folder.look("file.csv")
    assert folder.judge(first).prices == ["1", "2"]
    second = folder.look("file.csv", last(first))
    assert folder.judge(second).prices == ["30"]
    assert folder.look("file.csv", last(second)) == []


def test_a_wait_for_a_line_end_is_remembered_once(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE)
    cursor = last(folder.look("file.csv"))
    folder.write("file.csv", HEADER + ONE + "2024-01-02", changed=JUST_NOW)
    waiting = folder.look("file.csv", cursor)
    folder.write("file.csv", HEADER + ONE + "2024-01-02,", changed=JUST_NOW)
    longer = folder.look("file.csv", last(waiting))
    folder.write("file.csv", HEADER + ONE + TWO, changed=JUST_NOW)
    complete = folder.look("file.csv", last(longer))
    assert [page.body for page in waiting + longer + complete] == [b"", b"", TWO.encode()]


def test_a_record_without_line_end_is_taken_from_a_file_long_unchanged(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE + "2024-01-03,30", changed=NOW - timedelta(seconds=61))
    assert folder.read("file.csv").prices == ["1", "30"]
    folder.write("file.csv", HEADER + ONE + "2024-01-03,30", changed=NOW - timedelta(seconds=59))
    assert folder.read("file.csv").prices == ["1"]


def test_a_record_taken_too_early_is_read_again_whole(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE + "2024-01-03,3")
    cursor = last(folder.look("file.csv"))
    folder.write("file.csv", HEADER + ONE + "2024-01-03,30000\n")
    assert folder.judge(folder.look("file.csv", cursor)).prices == ["30000"]


def test_a_look_that_was_interrupted_is_not_two(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE + TWO + "2024-01-03,30", changed=JUST_NOW)
    first, *_ = folder.look("file.csv", block=20)
    assert folder.judge([first]).prices == ["1"]
    rest = folder.look("file.csv", last([first]), block=20)
    assert [page.body for page in rest] == [TWO.encode(), b""]


def test_a_header_taken_too_early_is_read_again_whole(folder: Folder) -> None:
    folder.write("file.csv", "day,price")
    cursor = last(folder.look("file.csv"))
    folder.write("file.csv", "day,price,note\n2024-01-01,1,x\n", changed=JUST_NOW)
    judged = folder.judge(folder.look("file.csv", cursor))
    assert (judged.prices, judged.codes, judged.blank) == (["1"], {}, 0)


def test_a_header_without_line_end_waits_too(folder: Folder) -> None:
    folder.write("file.csv", "day", changed=JUST_NOW)
    waiting = folder.look("file.csv")
    assert [page.body for page in waiting] == [b""]
    folder.write("file.csv", HEADER + ONE, changed=JUST_NOW)
    assert folder.judge(folder.look("file.csv", last(waiting))).prices == ["1"]


@pytest.mark.parametrize("content", ["day,price\n", "day,price", "\n\nday,price\r\n"])
def test_a_header_alone_is_a_page_without_items_once(folder: Folder, content: str) -> None:
    folder.write("file.csv", content)
    pages = folder.look("file.csv")
    assert [page.body for page in pages] == [content.encode()]
    judged = folder.judge(pages)
    assert (judged.quotes, judged.rejects, judged.blank) == ([], [], 0)
    assert folder.look("file.csv", last(pages)) == []


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_nothing(folder: Folder, content: bytes) -> None:
    folder.write("file.csv", content)
    assert folder.look("file.csv") == []


def test_a_file_that_was_emptied_is_read_again_when_it_is_refilled(folder: Folder) -> None:
    folder.write("file.csv", HEADER + ONE)
    cursor = last(folder.look("file.csv"))
    folder.write("file.csv", b"", changed=JUST_NOW)
    assert folder.look("file.csv", cursor) == []
    folder.write("file.csv", HEADER + THREE, changed=JUST_NOW)
    assert folder.judge(folder.look("file.csv", cursor)).prices == ["3"]


def test_a_page_may_be_committed_while_the_file_is_as_it_was_or_has_grown(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + ONE)
    [page] = folder.look("file.csv")
    assert page.confirm
    page.confirm()
    with file.open("a") as writer:
        writer.write(TWO)
    page.confirm()


def rewritten(file: Path) -> None:
    file.write_bytes(b"x" * file.stat().st_size)


def shortened(file: Path) -> None:
    os.truncate(file, 3)


def shortened_in_secret(file: Path) -> None:
    status = file.stat()
    os.truncate(file, 3)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def put_in_its_place(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_text(HEADER + ONE + TWO + THREE)
    other.replace(file)


@pytest.mark.parametrize("change", [rewritten, shortened, shortened_in_secret, put_in_its_place, Path.unlink])
def test_a_page_is_not_committed_when_its_file_was_changed_meanwhile(folder: Folder, change: object) -> None:
    file = folder.write("file.csv", HEADER + ONE + TWO)
    [page] = folder.look("file.csv")
    assert page.confirm
    assert callable(change)
    change(file)
    with pytest.raises(TransientError, match=r"file\.csv") as raised:
        page.confirm()
    assert raised.value.code == "file_changed"


def test_a_file_that_becomes_shorter_while_it_is_read_is_for_later(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + ONE * 2000)
    with environment(CSV_DIR=str(folder.path), CSV_BLOCK_BYTES="100"):
        pages = folder.source.fetch(Window("run", "file.csv", None, NOW), NO_HTTP)
        next(iter(pages))
        os.truncate(file, 5)
        with pytest.raises(TransientError, match=r"file\.csv") as raised:
            list(pages)
    assert raised.value.code == "file_changed"


def test_what_is_written_during_a_look_is_for_the_next(folder: Folder) -> None:
    file = folder.write("file.csv", HEADER + ONE + TWO)
    with environment(CSV_DIR=str(folder.path), CSV_BLOCK_BYTES="20"):
        pages = folder.source.fetch(Window("run", "file.csv", None, NOW), NO_HTTP)
        first = next(pages)
        with file.open("a") as writer:
            writer.write(THREE)
        rest = list(pages)
    assert folder.judge([first, *rest]).prices == ["1", "2"]
    assert folder.judge(folder.look("file.csv", last(rest))).prices == ["3"]


def test_each_matching_file_is_a_partition(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily(pattern="*.csv"), daily(pattern="coins/*/[ab]*.csv"))
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


def test_no_matching_file_is_no_partition(folder: Folder) -> None:
    assert folder.partitions() == []


def test_a_missing_folder_is_named(folder: Folder) -> None:
    folder.path /= "nowhere"
    with pytest.raises(TerminalError, match=r"CSV_DIR .*nowhere") as raised:
        folder.partitions()
    assert raised.value.code == "csv_dir_unreadable"


def test_a_file_whose_name_is_not_text_is_named(folder: Folder) -> None:
    folder.write("good.csv", HEADER)
    (folder.path / os.fsdecode(b"\xff.csv")).touch()
    assert folder.partitions() == ["\\udcff.csv", "good.csv"]
    with pytest.raises(TerminalError, match=r"udcff\.csv: its name is not UTF-8"):
        folder.look("\\udcff.csv")


def test_a_link_in_a_circle_is_named_and_keeps_no_other_file_out(folder: Folder) -> None:
    folder.write("good.csv", HEADER)
    (folder.path / "circle.csv").symlink_to("circle.csv")
    assert folder.partitions() == ["circle.csv", "good.csv"]
    unreadable(folder, "circle.csv")


def test_a_file_that_is_gone_when_it_is_opened_is_named(folder: Folder) -> None:
    unreadable(folder, "gone.csv")


def test_a_folder_in_place_of_a_file_is_named(folder: Folder) -> None:
    (folder.path / "folder.csv").mkdir()
    unreadable(folder, "folder.csv")


def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe.csv")
    unreadable(folder, "pipe.csv")


def test_a_link_that_leads_nowhere_is_named(folder: Folder) -> None:
    (folder.path / "link.csv").symlink_to("nowhere.csv")
    assert folder.partitions() == ["link.csv"]
    unreadable(folder, "link.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(folder: Folder) -> None:
    folder.write("file.csv", HEADER).chmod(0)
    unreadable(folder, "file.csv")


def unreadable(folder: Folder, name: str) -> None:
    with pytest.raises(TerminalError, match=name) as raised:
        folder.look(name)
    assert raised.value.code == "file_unreadable"


@pytest.mark.parametrize("name", ["file.txt", "folder/file.csv", "file.csv/file"])
def test_a_file_that_no_file_set_declares_is_named(folder: Folder, name: str) -> None:
    with pytest.raises(TerminalError, match=f"{name}.*csv_test") as raised:
        folder.look(name)
    assert raised.value.code == "file_undeclared"
