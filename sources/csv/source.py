"""A source that is a folder of CSV files: a file, or a range of a large one, is a partition, a block of it a page."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from settings import get_settings
from sources.contract import BLANK, Columns, Http, Item, Page, Reject, Source, TerminalError, Window
from sources.csv.blocks import UNFIT, decode, rows
from sources.csv.columns import columns_of
from sources.csv.fileset import FileSet
from sources.csv.ranges import parted, partitions_of
from sources.csv.scan import look_at, naming, range_bytes_of

NOT_UTF8 = "\\udc"
"""How a byte of a file's name that is not UTF-8 is written in its partition's."""

REFUSED = {
    "record_too_large": "expected a record of at most CSV_RECORD_BYTES; is a quote in this line never closed?",
    "unclosed_quote": "expected a quote in this line to be closed before the file ends",
}


def source(name: str, every: timedelta, files: Sequence[FileSet]) -> Source:
    """A source of the files below CSV_DIR that match one of these sets."""

    @lru_cache(maxsize=1024)
    def declared(file: str) -> FileSet:
        for file_set in files:
            if file_set.matches(file):
                return file_set
        raise TerminalError(f"{file}: no file set of {name} declares it", code="file_undeclared")

    def partitions() -> list[str]:
        settings = get_settings()
        folder = Path(settings.csv_dir)
        return [
            partition
            for file in _files(folder, files)
            for partition in partitions_of(file, _size(folder / file), range_bytes_of(declared(file), settings))
        ]

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        settings, (file, _) = get_settings(), parted(window.partition)
        if NOT_UTF8 in file:
            raise TerminalError(f"{file}: its name is not UTF-8; rename it", code="file_unreadable")
        return look_at(Path(settings.csv_dir, file), declared(file), window, settings)

    def parse(page: Page) -> Iterator[Item]:
        return _items(page, declared(page.request["file"]))

    def columns(page: Page) -> Columns | None:
        file_set = declared(page.request["file"])
        return columns_of(page, file_set, lambda row, line: items_of(row, line, page, file_set))

    def normalize(item: Item) -> Mapping[str, Any]:
        return declared(item["file"]).record(item["file"], item["row"], item.get("currency"))

    return Source(
        name=name,
        every=every,
        fetch=fetch,
        parse=parse,
        normalize=normalize,
        columns=columns,
        format=lambda page: declared(page.request["file"]).pattern,
        partitions=partitions,
        is_shared=True,
    )


def _files(folder: Path, files: Sequence[FileSet]) -> list[str]:
    with naming(f"CSV_DIR ({folder})", "csv_dir_unreadable"):
        found = {file for file_set in files for file in _matching(folder, file_set.pattern.split("/"))}
    return sorted(file.encode("utf-8", "backslashreplace").decode() for file in found)


def _size(path: Path) -> int:
    """0 where opening it will say what is wrong with it."""
    try:
        return path.stat().st_size if os.access(path, os.R_OK) else 0
    except OSError:
        return 0


def _matching(folder: Path, globs: Sequence[str], below: str = "") -> Iterator[str]:
    """The files below a folder, and what stands in a file's place: opening it will say what is wrong with it."""
    try:
        # glob would keep silent about a folder that it may not read.
        entries = list(os.scandir(folder))
    except OSError:
        if not below:
            raise
        yield below + "/".join(globs)
        return
    for entry in entries:
        hidden = entry.name.startswith(".") and not globs[0].startswith(".")
        if hidden or not fnmatchcase(entry.name, globs[0]):
            continue
        if len(globs) == 1 and not _is_folder(entry):
            yield below + entry.name
        elif len(globs) > 1 and _is_folder(entry):
            yield from _matching(Path(entry.path), globs[1:], f"{below}{entry.name}/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _items(page: Page, file_set: FileSet) -> Iterator[Item]:
    """For each row an item for each of its prices, a reject, or BLANK."""
    request = page.request
    text = decode(page.body[request["head"] :], request["encoding"])
    if not text:
        return
    file_set.check_header(request["header"], request["file"])
    if code := request["refused"]:
        where = {"file": request["file"], "line": request["line"]}
        yield Reject("row", code, REFUSED[code], item={**where, "row": text})
        return
    suspect = UNFIT.search(text) is not None
    reader, line = rows(io.StringIO(text, newline=""), file_set.delimiter), request["line"]
    for row in reader:
        yield from items_of(row, line, page, file_set, suspect=suspect)
        line = request["line"] + reader.line_num


def items_of(row: list[str], line: int, page: Page, file_set: FileSet, *, suspect: bool = True) -> Iterator[Item]:
    """An item for each price of a row, a reject, or BLANK. suspect: its cells may have what no text may."""
    header, place = page.request["header"], {"file": page.request["file"], "line": line}
    if not "".join(row).strip() or (row[0].strip() == header[0] and [cell.strip() for cell in row] == header):
        yield BLANK
    elif suspect and any(map(UNFIT.search, row)):
        detail = f"expected {page.request['encoding']} without NUL in every cell"
        yield Reject("row", "encoding", detail, item={**place, "row": row})
    elif len(row) != len(header):
        yield Reject("row", "ragged", f"expected {len(header)} cells, got {len(row)}", item={**place, "row": row})
    else:
        cells = dict(zip(header, row, strict=True))
        for currency in file_set.currencies or (None,):
            yield {**place, "row": cells, "currency": currency} if currency else {**place, "row": cells}
