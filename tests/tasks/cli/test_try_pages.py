"""Test which pages are read: the first ones, without further requests, within the rate limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from settings import get_settings
from sources.contract import Rate, TerminalError, TransientError
from tasks.cli import try_pages as module
from tasks.cli.try_pages import CallLimit, EnoughPages, body_page, csv_partition, try_pages
from tests.sources.csv_folder import Folder, daily_files
from tests.upstreams import canned

PAGES: list[list[Any]] = [[1], [2], [3]]


def read(count: int, *pages: Any, **source: Any) -> list[tuple[str, int, bool]]:
    """Return the partition, the number and whether it is the last, for each page that was read."""
    tried = try_pages(canned(*pages, **source), count, None)
    return [(partition, page.request["page"], is_last) for partition, page, is_last in tried]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [("", 0, False)]),
        (2, [("", 0, False), ("", 1, False)]),
        (3, [("", 0, False), ("", 1, False), ("", 2, True)]),
        (9, [("", 0, False), ("", 1, False), ("", 2, True)]),
    ],
)
def test_the_last_page_is_known_when_fetch_ends(count: int, expected: list[Any]) -> None:
    assert read(count, *PAGES) == expected


def test_partitions_are_read_in_turn() -> None:
    pages = read(3, [1], [2], partitions=["a", "b", "c"])
    assert pages == [("a", 0, False), ("a", 1, True), ("b", 0, False)]


def test_the_page_before_an_error_is_read() -> None:
    def fail(number: int) -> None:
        if number == 1:
            raise TransientError("the upstream is down")

    pages = try_pages(canned(*PAGES, before=fail), 3, None)
    assert next(pages)[1].request["page"] == 0
    with pytest.raises(TransientError, match="the upstream is down"):
        next(pages)


def test_the_fetch_resumes_at_its_cursor_after_a_limit() -> None:
    waits: list[float] = []

    def limit(number: int) -> None:
        if number == 1 and not waits:
            raise TransientError("later", retry_after=3, is_failure=False)

    pages = try_pages(canned(*PAGES, before=limit), 2, None, waits.append)
    assert [page.request["page"] for _, page, _ in pages] == [0, 1]
    assert waits == [3]


def test_a_wait_that_the_upstream_requires_is_an_error() -> None:
    waits: list[float] = []

    def refuse(number: int) -> None:
        if not waits:
            raise TransientError("too many requests", retry_after=3)

    with pytest.raises(TransientError, match="too many requests"):
        list(try_pages(canned(*PAGES, before=refuse), 1, None, waits.append))
    assert waits == []


def test_calls_are_limited_per_minute_and_per_month(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    limit = CallLimit(canned(rate=Rate(per_minute=2, per_month=3)))
    for _ in range(2):
        limit.spend()
    now[0] = 20
    with pytest.raises(TransientError, match="the limit of 2 calls per minute is reached") as raised:
        limit.spend()
    assert (raised.value.code, raised.value.retry_after) == ("rate_limited", 40)
    now[0] = 61
    limit.spend()
    with pytest.raises(TransientError, match="the limit of 3 calls per month is reached") as raised:
        limit.spend()
    assert (raised.value.code, raised.value.retry_after) == ("budget_spent", None)
    limit.is_closed = True
    with pytest.raises(EnoughPages):
        limit.spend()


def test_a_body_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_bytes(b"[1]")
    page = body_page(canned(), tmp_path / "body.json")
    assert (page.body, page.content_type) == (b"[1]", "application/json")
    with pytest.raises(TerminalError, match="No such file or directory"):
        body_page(canned(), tmp_path / "none.json")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path, daily_files(pattern="a/*.csv"))
    folder.write("deep/a/x.csv", "day,price\n2026-01-01,1\n")
    yield folder
    get_settings.cache_clear()


def test_csv_dir_is_the_folder_that_a_pattern_starts_from(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = get_settings().csv_dir
    with csv_partition(folder.source, folder.path / "deep/a/x.csv") as partition:
        assert (partition, get_settings().csv_dir) == ("a/x.csv", str(folder.path / "deep"))
    assert get_settings().csv_dir == before
    monkeypatch.setenv("CSV_DIR", str(folder.path))
    get_settings.cache_clear()
    with csv_partition(folder.source, folder.path / "deep/a/x.csv"):
        assert get_settings().csv_dir == str(folder.path / "deep")
    assert get_settings().csv_dir == str(folder.path)


@pytest.mark.parametrize(
    ("name", "error"), [("deep/y.csv", "No such file"), ("deep/b.csv", "no file set has a pattern")]
)
def test_a_missing_or_undeclared_file_is_refused(folder: Folder, name: str, error: str) -> None:
    folder.write("deep/b.csv", "day,price\n")
    with pytest.raises(TerminalError, match=error), csv_partition(folder.source, folder.path / name):
        pass
