"""A folder of CSV files, looked at and judged as the pipeline does it, without a database."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from settings import get_settings
from sources.contract import BLANK, Cursor, Page, Reject, Source, Window
from sources.csv import source as csv_files
from sources.csv.fileset import FileSet
from sources.record import Quote, Record
from tasks.pipeline.normalize import normalize_page

NOW = datetime(2026, 11, 1, tzinfo=UTC)
NO_HTTP: Any = None
COIN = {"source_asset_id": "coin", "symbol": "COIN", "name": "Coin", "quote_currency": "USD"}


def daily(**declared: Any) -> FileSet:
    """A set of files with the columns `day` and `price`, unless declared otherwise."""
    columns = {"observed_at": "day", "price": "price"}
    return FileSet(**{"pattern": "*.csv", "columns": columns, "constants": COIN, **declared})


@dataclass
class Judged:
    """What became of the items of some pages."""

    quotes: list[Quote] = field(default_factory=list)
    rejects: list[tuple[str, Reject]] = field(default_factory=list)
    """Each with the text that the pipeline keeps of its item."""
    blank: int = 0

    @property
    def codes(self) -> Counter[str]:
        return Counter(reason["code"] for _, reject in self.rejects for reason in reject.reasons)

    @property
    def prices(self) -> list[str]:
        return [str(quote.price) for quote in self.quotes]


class Folder:
    """Files of one source in one folder."""

    def __init__(self, path: Path, *files: FileSet):
        self.path = path
        self.source: Source = csv_files.source("csv_test", timedelta(minutes=15), files)

    def write(self, name: str, content: str | bytes, *, changed: datetime = NOW - timedelta(hours=1)) -> Path:
        """Write a file that was last changed at a time."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        os.utime(file, (changed.timestamp(), changed.timestamp()))
        return file

    def look(
        self,
        partition: str,
        cursor: Cursor | None = None,
        *,
        now: datetime = NOW,
        block: int = 2**20,
        record: int = 2**18,
        range_: int = 2**40,
    ) -> list[Page]:
        """The pages of one look at a file, or at one of its ranges of `range_` bytes."""
        sizes = {"CSV_BLOCK_BYTES": block, "CSV_RECORD_BYTES": record, "CSV_RANGE_BYTES": range_}
        with environment(CSV_DIR=str(self.path), **{name: str(size) for name, size in sizes.items()}):
            return list(self.source.fetch(Window("run", partition, cursor, now), NO_HTTP))

    def look_at_all(
        self, cursors: Mapping[str, Cursor] | None = None, *, range_: int, **options: Any
    ) -> dict[str, list[Page]]:
        """The pages of one look at each partition there is."""
        return {
            partition: self.look(partition, (cursors or {}).get(partition), range_=range_, **options)
            for partition in self.partitions(range_)
        }

    def judge(self, pages: Iterable[Page]) -> Judged:
        """What the reference says of each item, row by row. That the pipeline says the same is asserted each time."""
        judged = Judged()
        for page in pages:
            agree(self.source, stored(page))
            record = Record(page.fetched_at)
            for item in self.source.parse(stored(page)):
                if item is BLANK:
                    judged.blank += 1
                    continue
                try:
                    if isinstance(item, Reject):
                        raise item
                    judged.quotes.append(record.quote(self.source.normalize(item)))
                except Reject as reject:
                    kept = json.dumps(item.item if isinstance(item, Reject) else item)
                    judged.rejects.append((kept, reject))
        return judged

    def read(self, name: str, **options: Any) -> Judged:
        return self.judge(self.look(name, **options))

    def partitions(self, range_: int = 2**40) -> list[str]:
        with environment(CSV_DIR=str(self.path), CSV_RANGE_BYTES=str(range_)):
            return list(self.source.partitions())


def agree(source: Source, page: Page) -> None:
    """Assert that columns and rows are judged alike: the same quotes, the same rejects, for the same reasons."""
    as_columns, as_rows = normalize_page(source, page, 0), normalize_page(replace(source, columns=None), page, 0)
    assert (as_columns.fetched, as_columns.blank) == (as_rows.fetched, as_rows.blank)
    assert as_columns.rejects == as_rows.rejects
    assert [*as_columns.quotes] == [*as_rows.quotes]


def stored(page: Page) -> Page:
    """The page as it comes back from the database."""
    return Page(page.body, page.content_type, json.loads(json.dumps(page.request)), page.fetched_at, kept(page))


def kept(page: Page) -> Cursor:
    """The page's cursor as it comes back from the database, which takes neither NUL nor lone surrogates."""
    text = json.dumps(page.cursor, ensure_ascii=False)
    text.encode()
    assert "\\u0000" not in text
    cursor: Cursor = json.loads(text)
    return cursor


def whole(pages: Sequence[Page]) -> bytes:
    return b"".join(page.body for page in pages)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
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
