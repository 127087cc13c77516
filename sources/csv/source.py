"""Create a source from a folder of CSV files. A file, or a range of a large file, is a partition. A block is a page."""

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
from sources.contract import BLANK, EPOCH, Columns, Http, Item, Page, Reject, Source, TerminalError, Window
from sources.csv.columns import read_columns
from sources.csv.file_names import UNREADABLE, UNREADABLE_DETAIL, name_partition, read_path
from sources.csv.fileset import FileSet
from sources.csv.ranges import list_ranges, split_partition
from sources.csv.scan import get_range_bytes, scan_file, translated_os_errors
from sources.csv.text import INVALID_CHARACTERS, decode, read_records
from sources.csv.window import MAX_RECORD_LINES

REJECTED_LINE_DETAILS = {
    "record_too_large": (
        f"expected a record of at most CSV_RECORD_BYTES bytes and {MAX_RECORD_LINES} lines; "
        "close the quote in this line, or raise CSV_RECORD_BYTES"
    ),
    "unclosed_quote": "expected the quote in this line to be closed before the end of the file",
}
"""The details of rejects, by code, for lines that cannot be read as records."""


def csv_source(name: str, every: timedelta, files: Sequence[FileSet], *, replaces: bool = False) -> Source:
    """Return a source of the files below CSV_DIR that match one of these file sets.

    replaces: whether the files together are the whole truth; see `Source.replaces`.

    Each file is loaded separately, so an unreadable file does not stop the others. A file that has grown is read from
    the end of the last scan. Rows that cannot become quotes are rejected, with their file and line.
    """

    @lru_cache(maxsize=1024)
    def file_set_of(file: str) -> FileSet:
        for file_set in files:
            if file_set.matches(file):
                return file_set
        raise TerminalError(
            f"{label(file)}: no file set has a pattern that matches it; declare one", code="file_undeclared"
        )

    def label(file: str) -> str:
        return f"{name}: {file}"

    def partitions() -> list[str]:
        settings = get_settings()
        folder = Path(settings.csv_dir)
        found: dict[str, None] = {}
        for name in sorted(map(name_partition, _find_files(folder, files))):
            file = read_path(name)
            range_bytes = get_range_bytes(file_set_of(file), settings) if file else None
            found |= dict.fromkeys(list_ranges(name, _size(folder / file) if file else 0, range_bytes))
        return list(found)

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        settings, (name, _) = get_settings(), split_partition(window.partition)
        file = read_path(name)
        if file is None:
            raise TerminalError(f"{label(name.removeprefix(UNREADABLE))}: {UNREADABLE_DETAIL}", code="file_unreadable")
        return scan_file(Path(settings.csv_dir, file), file, label(file), file_set_of(file), window, settings)

    def parse(page: Page) -> Iterator[Item]:
        file = page.request["file"]
        return _parse_rows(page, file_set_of(file), label(file))

    def columns(page: Page) -> Columns | None:
        file = page.request["file"]
        file_set = file_set_of(file)
        return read_columns(page, file_set, label(file), lambda row, line: parse_row(row, line, page, file_set))

    def normalize(item: Item) -> Mapping[str, Any]:
        return file_set_of(item["file"]).record(item["file"], item["row"], item.get("currency"))

    return Source(
        name=name,
        every=every,
        fetch=fetch,
        parse=parse,
        normalize=normalize,
        columns=columns,
        format=lambda page: file_set_of(page.request["file"]).pattern,
        partitions=partitions,
        is_shared=True,
        replaces=replaces,
    )


def is_csv_source(source: Source) -> bool:
    """Return whether `csv_source` created a source."""
    return source.fetch.__module__ == __name__


def has_file_set(source: Source, file: str) -> bool:
    """Return whether a file set of a CSV source matches the path of a file below CSV_DIR."""
    try:
        source.format(Page(b"", "text/csv", {"file": file}, EPOCH, None))
    except TerminalError:
        return False
    return True


def _find_files(folder: Path, files: Sequence[FileSet]) -> set[str]:
    with translated_os_errors(f"CSV_DIR ({folder})", "csv_dir_unreadable"):
        return {path for file_set in files for path in _matching_paths(folder, file_set.pattern.split("/"))}


def _size(path: Path) -> int:
    """Return the size of a file in bytes, or 0 if it cannot be read. `fetch` reports the reason."""
    try:
        return path.stat().st_size if os.access(path, os.R_OK) else 0
    except OSError:
        return 0


def _matching_paths(folder: Path, globs: Sequence[str], parent: str = "") -> Iterator[str]:
    """Yield the paths of matching files below a folder. globs: one for each level of folders, and one for the file.

    Include unreadable files, such as broken links, so that `fetch` reports them.
    """
    try:
        # glob would ignore unreadable folders.
        entries = list(os.scandir(folder))
    except OSError:
        if not parent:
            raise
        yield parent + "/".join(globs)
        return
    for entry in entries:
        is_hidden = entry.name.startswith(".") and not globs[0].startswith(".")
        if is_hidden or not fnmatchcase(entry.name, globs[0]):
            continue
        if len(globs) == 1 and not _is_folder(entry):
            yield parent + entry.name
        elif len(globs) > 1 and _is_folder(entry):
            yield from _matching_paths(Path(entry.path), globs[1:], f"{parent}{entry.name}/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # The link refers to itself.
        return False


def _parse_rows(page: Page, file_set: FileSet, label: str) -> Iterator[Item]:
    """Yield the items of a block, row by row."""
    request = page.request
    text = decode(page.body[request["head"] :], request["encoding"])
    if not text:
        return
    file_set.check_header(request["header"], label)
    if code := request["refused"]:
        location = {"file": request["file"], "line": request["line"]}
        yield Reject("row", code, REJECTED_LINE_DETAILS[code], item={**location, "row": text})
        return
    may_be_invalid = INVALID_CHARACTERS.search(text) is not None
    reader, line = read_records(io.StringIO(text, newline=""), file_set.delimiter), request["line"]
    for row in reader:
        yield from parse_row(row, line, page, file_set, may_be_invalid=may_be_invalid)
        line = request["line"] + reader.line_num


def parse_row(
    row: list[str], line: int, page: Page, file_set: FileSet, *, may_be_invalid: bool = True
) -> Iterator[Item]:
    """Yield an item for each price of a row, or a Reject for an invalid row, or BLANK for an empty row.

    line:           the number of the row's first line in the file.
    may_be_invalid: whether a cell may contain invalid characters.
    """
    header, location = page.request["header"], {"file": page.request["file"], "line": line}
    if not "".join(row).strip() or (row[0].strip() == header[0] and [cell.strip() for cell in row] == header):
        yield BLANK
    elif may_be_invalid and any(map(INVALID_CHARACTERS.search, row)):
        detail = f"expected valid {page.request['encoding']} without NUL in every cell; declare the file's encoding"
        yield Reject("row", "encoding", detail, item={**location, "row": row})
    elif len(row) != len(header):
        detail = f"expected {len(header)} cells, got {len(row)}"
        yield Reject("row", "ragged", detail, item={**location, "row": row})
    else:
        cells = dict(zip(header, row, strict=True))
        for currency in file_set.currencies or (None,):
            yield {**location, "row": cells, "currency": currency} if currency else {**location, "row": cells}
