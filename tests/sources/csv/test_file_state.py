"""Test that a page is committed only if everything that was read for it was in the file at one moment."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sources.contract import TransientError, Window
from sources.csv.file_state import SMALL_FILE_BYTES, Evidence, FileState, digest_section, opened
from tests.sources.csv_folder import NO_HTTP, NOW, Folder, environment

HEADER = b"day,price\n"
ROWS = [b"2024-01-%02d,%d\n" % (day, day) for day in range(1, 21)]
CONTENT = HEADER + b"".join(ROWS)


def evidence(path: Path, start: int = 0, end: int | None = None) -> Evidence:
    """Return the evidence of a page that was read from `start` to `end`, or to the end of the file."""
    with opened(path, "file.csv") as file:
        state = FileState.of(file)
        end = state.size if end is None else end
        return Evidence("file.csv", path, state, HEADER, start, end, digest_section(file, start, end))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file.csv"
    path.write_bytes(CONTENT)
    return path


def assert_changed(page: Evidence) -> None:
    with pytest.raises(TransientError, match=r"^file\.csv: .* reads it again later") as raised:
        page.confirm()
    assert raised.value.code == "file_changed"


@pytest.mark.parametrize("size", [100, SMALL_FILE_BYTES + 100])
def test_another_file_with_the_same_bytes_is_accepted(path: Path, size: int) -> None:
    path.write_bytes(HEADER + b"2" * size)
    page = evidence(path)
    copy = path.with_suffix(".new")
    copy.write_bytes(path.read_bytes() + b"more")
    copy.replace(path)
    assert path.stat().st_ino != page.state.inode
    page.confirm()


@pytest.mark.parametrize("size", [100, SMALL_FILE_BYTES + 100])
def test_a_rewrite_with_the_same_size_and_time_is_a_change(path: Path, size: int) -> None:
    path.write_bytes(HEADER + b"2" * size)
    page = evidence(path)
    path.write_bytes(HEADER + b"3" * size)
    os.utime(path, ns=(0, page.state.mtime_ns))
    assert path.stat().st_size == page.state.size
    assert_changed(page)


def test_a_small_file_is_hashed_even_if_its_state_is_the_same(path: Path) -> None:
    page = evidence(path)
    path.write_bytes(HEADER + b"x" * (len(CONTENT) - len(HEADER)))
    # As if the kernel had given both changes the same time.
    assert_changed(replace(page, state=evidence(path).state))


def test_a_large_file_with_the_same_state_is_not_read_again(path: Path) -> None:
    path.write_bytes(HEADER + b"2" * SMALL_FILE_BYTES)
    page = evidence(path)
    replace(page, digest="not compared").confirm()
    whole_seconds = replace(page.state, ctime_ns=1_800_000_000_000_000_000)
    assert (page.state.proves_content, whole_seconds.proves_content) == (True, False)


@pytest.mark.parametrize(
    ("change", "is_accepted"),
    [
        (CONTENT + b"2024-02-01,1\n", True),
        (CONTENT.replace(b"day,price", b"day,other"), False),
        (CONTENT.replace(ROWS[0] + ROWS[1], ROWS[0][:-1] + b"9" + ROWS[1][:-1] + b"9"), False),
        (CONTENT.replace(ROWS[3], ROWS[4]), False),
        (CONTENT[:-40], False),
    ],
)
def test_a_page_of_a_range_is_committed_if_its_header_its_start_and_its_bytes_are_the_same(
    path: Path, change: bytes, is_accepted: bool
) -> None:
    page = evidence(path, start=len(HEADER + ROWS[0] + ROWS[1]))
    path.write_bytes(change)
    if is_accepted:
        page.confirm()
    else:
        assert_changed(page)


def test_a_range_without_records_after_an_unterminated_record_is_accepted(path: Path) -> None:
    path.write_bytes(CONTENT[:-1])
    page = evidence(path, start=len(CONTENT) - 1)
    path.touch()
    page.confirm()


def test_a_pipe_in_place_of_the_file_is_a_change_at_once(path: Path) -> None:
    page = evidence(path)
    path.unlink()
    os.mkfifo(path)
    assert_changed(page)


def test_a_block_that_joins_two_contents_is_not_committed(folder: Folder) -> None:
    path = folder.write("file.csv", CONTENT)
    with environment(CSV_DIR=str(folder.path), CSV_BLOCK_BYTES="50"):
        pages = folder.source.fetch(Window("run", "file.csv", None, NOW), NO_HTTP)
        first, second = next(pages), next(pages)
        # In place and larger: the rest of the second page's line moves.
        path.write_bytes(HEADER + b"2024-01-01,1000000\n" * 40)
        rest = list(pages)
    for page in (first, second, *rest):
        assert page.confirm
        with pytest.raises(TransientError, match=r"changed while it was read"):
            page.confirm()
