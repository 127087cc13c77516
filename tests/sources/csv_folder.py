"""Scan and validate a folder of CSV files as the pipeline does, without a database."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from settings import get_settings
from sources import csv_source
from sources.contract import BLANK, Cursor, Page, Reject, Source, TerminalError, Window
from sources.csv.fileset import FileSet
from sources.record import Quote, Record
from tasks.pipeline.normalize import normalize_page

NOW = datetime(2026, 11, 1, tzinfo=UTC)
NO_HTTP: Any = None
COIN = {"source_asset_id": "coin", "symbol": "COIN", "name": "Coin", "quote_currency": "USD"}


def daily_files(**declaration: Any) -> FileSet:
    """Return a file set of one coin. By default, its columns are `day` and `price`, and its files are complete."""
    columns = {"observed_at": "day", "price": "price"}
    return FileSet(**{"pattern": "*.csv", "columns": columns, "constants": COIN, "complete": True, **declaration})


@dataclass
class Outcome:
    """The quotes, rejects and blank rows of some pages."""

    quotes: list[Quote] = field(default_factory=list)
    rejects: list[tuple[str, Reject]] = field(default_factory=list)
    """Pairs of the item's text, as the pipeline stores it, and the reject."""
    blank: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of dropped values by field and code."""

    @property
    def codes(self) -> Counter[str]:
        return Counter(reason["code"] for _, reject in self.rejects for reason in reject.reasons)

    @property
    def prices(self) -> list[str]:
        return [str(quote.price) for quote in self.quotes]


class Folder:
    """The folder of one source's files."""

    def __init__(self, path: Path, *files: FileSet):
        self.path = path
        self.source: Source = csv_source("csv_test", timedelta(minutes=15), files)

    def write(self, name: str, content: str | bytes, *, changed: datetime = NOW - timedelta(hours=1)) -> Path:
        """Write a file, and set its modification time."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        os.utime(file, (changed.timestamp(), changed.timestamp()))
        return file

    def scan(
        self,
        partition: str,
        cursor: Cursor | None = None,
        *,
        now: datetime = NOW,
        block: int = 2**20,
        record: int = 2**18,
        range_: int = 2**40,
        records: int = 50_000,
        limit: int | None = None,
    ) -> list[Page]:
        """Scan a partition, which is a file or one of its ranges of `range_` bytes. Return the pages.

        block, record: the sizes of a block and of a record in bytes. records: the number of records in a block.
        limit: the number of pages to read.
        """
        sizes = {
            "CSV_BLOCK_BYTES": block,
            "CSV_RECORD_BYTES": record,
            "CSV_RANGE_BYTES": range_,
            "CSV_BLOCK_RECORDS": records,
        }
        with environment(CSV_DIR=str(self.path), **{name: str(size) for name, size in sizes.items()}):
            return list(islice(self.source.fetch(Window("run", partition, cursor, now), NO_HTTP), limit))

    def scan_all(
        self, cursors: Mapping[str, Cursor] | None = None, *, range_: int, **options: Any
    ) -> dict[str, list[Page]]:
        """Scan each partition. Return the pages by partition."""
        return {
            partition: self.scan(partition, (cursors or {}).get(partition), range_=range_, **options)
            for partition in self.partitions(range_)
        }

    def validate(self, pages: Iterable[Page]) -> Outcome:
        """Read and validate the items of these pages row by row. Return the outcome.

        Assert for each page that the pipeline, which reads columns, gives the same result.
        """
        outcome = Outcome()
        for page in pages:
            assert_columns_equal_rows(self.source, reloaded(page))
            record = Record(page.fetched_at)
            for item in self.source.parse(reloaded(page)):
                if item is BLANK:
                    outcome.blank += 1
                    continue
                try:
                    if isinstance(item, Reject):
                        raise item
                    quote, dropped = record.judge(self.source.normalize(item))
                    outcome.quotes.append(quote)
                    outcome.dropped.update((value.field, value.code) for value in dropped)
                except Reject as reject:
                    text = json.dumps(item.item if isinstance(item, Reject) else item)
                    outcome.rejects.append((text, reject))
        return outcome

    def read(self, name: str, **options: Any) -> Outcome:
        """Scan a file and validate its rows. Return the outcome."""
        return self.validate(self.scan(name, **options))

    def partitions(self, range_: int = 2**40) -> list[str]:
        with environment(CSV_DIR=str(self.path), CSV_RANGE_BYTES=str(range_)):
            return list(self.source.partitions())


def assert_columns_equal_rows(source: Source, page: Page) -> None:
    """Assert that reading columns gives the same quotes as reading rows, and the same rejects for the same reasons."""
    by_columns, by_rows = normalize_page(source, page, 0), normalize_page(replace(source, columns=None), page, 0)
    assert (by_columns.fetched, by_columns.blank) == (by_rows.fetched, by_rows.blank)
    assert by_columns.rejects == by_rows.rejects
    assert [*by_columns.dropped] == [*by_rows.dropped]
    assert [*by_columns.quotes] == [*by_rows.quotes]


def reloaded(page: Page) -> Page:
    """Return a copy of the page with its request and cursor encoded as JSON and decoded, as the database does."""
    request = json.loads(json.dumps(page.request))
    return Page(page.body, page.content_type, request, page.fetched_at, reloaded_cursor(page))


def reloaded_cursor(page: Page) -> Cursor:
    """Return the page's cursor, encoded as JSON and decoded. Assert that the database could store it."""
    text = json.dumps(page.cursor, ensure_ascii=False)
    text.encode()
    assert "\\u0000" not in text
    cursor: Cursor = json.loads(text)
    return cursor


def joined_bodies(pages: Sequence[Page]) -> bytes:
    return b"".join(page.body for page in pages)


def assert_unreadable(folder: Folder, name: str) -> None:
    """Assert that a scan of the file fails, and that the error names the file."""
    with pytest.raises(TerminalError, match=f"csv_test: {name}") as raised:
        folder.scan(name)
    assert raised.value.code == "file_unreadable"


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables and reload the settings. Restore both at the end."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    get_settings.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        get_settings.cache_clear()
