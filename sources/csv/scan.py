"""Scan one CSV file, and yield its new data as pages.

The cursor stores where the next record starts, the hash of the bytes before it, and the file's state. A file whose
state proves that it is unchanged is not read. If the hash still matches, the file has grown, and is read from the
stored position. Any other file was replaced or rewritten, and is read from its start.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from settings import Settings
from sources.contract import Cursor, Page, TerminalError, Window
from sources.csv.blocks import Block, cut_blocks
from sources.csv.file_state import Evidence, FileState, digest_section, opened, wait_for_next_time
from sources.csv.fileset import FileSet
from sources.csv.preamble import Preamble, read_byte_order_mark, read_preamble
from sources.csv.progress import Progress
from sources.csv.ranges import Position, get_range_starts, split_partition
from sources.csv.window import ReadOptions, read_bytes

# Stored in cursors, so the values must not change.
WAITING, CONSUMED = "waiting", "taken"
"""Values of a cursor's `tail`, which describes a last record without a line end: it waits for its line end, or it was
read. A record that was read without a line end is read again if it changes."""

QUOTED_BYTES = 100
"""The number of bytes of a line in an error."""

WAITING_DETAIL = (
    "waits, since it may be cut: it has no line end, or a quote is not closed; "
    "complete the record, or declare the files as `complete`"
)


def scan_file(
    path: Path, name: str, label: str, file_set: FileSet, window: Window, settings: Settings
) -> Iterator[Page]:
    """Yield a partition's new data as pages; raise TerminalError if the file cannot be read.

    name:  the file's path below CSV_DIR.
    label: the source and the file, for messages.
    """
    cursor, range_bytes = window.cursor or {}, get_range_bytes(file_set, settings)
    with translated_os_errors(label, "file_unreadable"), opened(path, label) as file:
        state, observed_at = FileState.of(file), time.monotonic()
        if not _is_finished(file, state, cursor, range_bytes, is_complete=file_set.complete):
            wait_for_next_time(state, observed_at)
            yield from _Scan(path, name, label, file, file_set, window, state, settings).pages()


def get_range_bytes(file_set: FileSet, settings: Settings) -> int | None:
    """Return the size of a file's ranges in bytes; None if the file is not divided."""
    return None if file_set.encoding.startswith("utf-16") else settings.csv_range_bytes


@contextmanager
def translated_os_errors(subject: str, code: str) -> Iterator[None]:
    """Raise TerminalError, with this subject and code, in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise TerminalError(
            f"{subject}: cannot be read: {error.strerror or error}; check that it exists and its permissions", code=code
        ) from error


def _is_finished(
    file: BinaryIO, state: FileState, cursor: Cursor, range_bytes: int | None, *, is_complete: bool
) -> bool:
    """Return whether an earlier scan read all complete data of the file, and the file is unchanged."""
    if not state.matches(cursor) or cursor["range_bytes"] != range_bytes:
        return False
    if cursor["offset"] < cursor["end"] and cursor["tail"] != CONSUMED:
        waits = cursor["tail"] == WAITING and cursor["offset"] > 0 and not is_complete
        if not waits:
            return False
    return state.proves_content or _digests(file, cursor) == (cursor["digest"], cursor.get("tail_digest"))


def _digests(file: BinaryIO, cursor: Cursor) -> tuple[str, str | None]:
    """Return the digest up to the cursor's position, and the digest up to its end.

    The second digest is None if the scan consumed no tail.
    """
    begin = cursor["begin"]
    tail_digest = digest_section(file, begin, cursor["end"]) if cursor["tail"] == CONSUMED else None
    return digest_section(file, begin, cursor["offset"]), tail_digest


class _Scan:
    """One scan of one partition: a whole file, or a range of it."""

    def __init__(
        self,
        path: Path,
        name: str,
        label: str,
        file: BinaryIO,
        file_set: FileSet,
        window: Window,
        state: FileState,
        settings: Settings,
    ):
        self._path, self._label, self._file, self._file_set, self._state = path, label, file, file_set, state
        self._name, (_, self._mark) = name, split_partition(window.partition)
        self._now, self._last_cursor = window.now, window.cursor or {}
        self._byte_order_mark, encoding = read_byte_order_mark(file, label, file_set.encoding)
        self._range_bytes = get_range_bytes(file_set, settings)
        self._options = ReadOptions(
            label=label,
            encoding=encoding,
            delimiter=file_set.delimiter,
            end=state.size,
            is_complete=file_set.complete,
            block_bytes=settings.csv_block_bytes,
            record_bytes=settings.csv_record_bytes,
            block_records=settings.csv_block_records,
        )
        self._header: list[str] = []
        self._preamble_bytes = b""

    def pages(self) -> Iterator[Page]:
        if self._state.size == len(self._byte_order_mark):
            return
        preamble = self._preamble()
        progress = Progress(self._label, self._file, Position(0, 1))
        if preamble is None:
            yield from self._final_page(progress, b"", self._last_cursor)
        elif preamble.is_unterminated:
            block = Block(b"", len(preamble.body), 0, 1 + preamble.lines, 0)
            yield from self._unterminated_page(progress, block, preamble.body)
        else:
            yield from self._block_pages(preamble)

    def _preamble(self) -> Preamble | None:
        """Return the file's preamble after checking its header; None while the preamble is being written."""
        skip_lines, header = self._file_set.skip_lines, self._file_set.header
        is_unchanged = self._last_cursor.get("tail") == WAITING and self._state.matches(self._last_cursor)
        preamble = read_preamble(
            self._file, self._options, self._byte_order_mark, skip_lines, header, is_unchanged=is_unchanged
        )
        if preamble is not None:
            self._file_set.check_header(preamble.header, self._label)
            self._header, self._preamble_bytes = preamble.header, preamble.body
        return preamble

    def _block_pages(self, preamble: Preamble) -> Iterator[Page]:
        """Yield the pages of the range. The first page of the file includes the preamble."""
        start = self._limit_to_range(Position(len(preamble.body), 1 + preamble.lines))
        progress = self._resumed(start)
        head, last_cursor = b"", self._last_cursor
        if progress is None:
            progress = Progress(self._label, self._file, start)
            if not self._mark:
                head = preamble.body
                progress.advance(head, len(head), preamble.lines)
        # Only a file's first block is short. Each later range is prepared while the previous range is loaded. Only a
        # worker that has just joined the run waits for the first block of its range.
        growing_from = None if self._mark else start.offset
        range_follows = self._options.end < self._state.size
        for block in cut_blocks(
            self._file,
            progress.offset,
            progress.line,
            self._options,
            growing_from=growing_from,
            range_follows=range_follows,
        ):
            if block.is_unterminated:
                yield from self._unterminated_page(progress, block, head)
                return
            progress.advance(block.body, block.length, block.lines)
            last_cursor = self._cursor(progress, None)
            yield self._page(progress, block, head, last_cursor)
            head = b""
        self._check_rest(progress)
        yield from self._final_page(progress, head, last_cursor)

    def _check_rest(self, progress: Progress) -> None:
        """Raise TerminalError if the rest of the file waits for a line end, but can never become a record."""
        rest = self._options.end - progress.offset
        if rest > self._options.record_bytes:
            first = read_bytes(self._file, progress.offset, QUOTED_BYTES, self._options)
            raise TerminalError(
                f"{self._label}: line {progress.line} has no line end within its {rest} bytes, but a record has at "
                f"most CSV_RECORD_BYTES. Correct the file or its declaration. The line begins with {first!r}",
                code="record_unended",
            )

    def _limit_to_range(self, first: Position) -> Position:
        """Return the start of the range, and set the options to stop at its end.

        first: the position of the file's first record.
        """
        start, end, size = Position(0, 1), self._state.size, self._state.size
        if self._range_bytes and size > self._range_bytes:
            starts = get_range_starts((self._path, self._state, self._options), first, self._range_bytes)
            if self._mark:
                start = starts.find(self._mark, self._file, self._options) or Position(size, 1)
            if following := starts.find(self._mark + self._range_bytes, self._file, self._options):
                end = following.offset
        elif self._mark:  # The file became shorter after its ranges were listed.
            start = Position(size, 1)
        if end < size:
            self._options = replace(self._options, end=end, is_complete=True)
        return start

    def _resumed(self, start: Position) -> Progress | None:
        """Return the progress of the last scan; None if the header or the content has changed."""
        if self._last_cursor.get("header") != self._header:
            return None
        return Progress.at(self._label, self._file, self._state.size, start, self._last_cursor)

    def _final_page(self, progress: Progress, head: bytes, last_cursor: Cursor) -> Iterator[Page]:
        """Yield a page without records to store the cursor, unless the cursor is unchanged."""
        tail = WAITING if progress.offset < self._options.end else None
        cursor = self._cursor(progress, tail)
        if cursor != last_cursor:
            yield self._page(progress, Block(b"", progress.offset, 0, progress.line, 0), head, cursor)

    def _unterminated_page(self, progress: Progress, block: Block, head: bytes) -> Iterator[Page]:
        """Yield the page of a complete file's last record, which has no line end. `progress` does not advance.

        If an earlier scan has read the same record, the page only stores the cursor.
        """
        cursor = self._cursor(progress, CONSUMED)
        # The head is already part of the progress, except for a preamble without a line end.
        data, length = (block.body, block.length) if block.length else (head, len(head))
        cursor["tail_digest"] = progress.digest_after(data, length)
        if cursor == self._last_cursor:
            return
        if cursor["tail_digest"] == self._last_cursor.get("tail_digest") and not (head and block.length):
            block, head = replace(block, body=b"", length=0), b""
        yield self._page(progress, block, head, cursor)

    def _page(self, progress: Progress, block: Block, head: bytes, cursor: dict[str, Any]) -> Page:
        """Return the page of a block. head: the file's bytes before the block that the page's body includes."""
        request = {
            "file": self._name,
            "offset": block.offset - len(head),
            "length": block.length + len(head),
            "line": block.line,
            "head": len(head),
            "header": self._header,
            "encoding": self._options.encoding,
            "refused": block.reject_code,
        }
        tail_digest = cursor.get("tail_digest")
        evidence = Evidence(
            self._label,
            self._path,
            self._state,
            self._preamble_bytes,
            progress.start.offset,
            self._options.end if tail_digest else progress.offset,
            tail_digest or progress.digest,
        )
        waiting = f"{self._label}: line {block.line} {WAITING_DETAIL}" if cursor["tail"] == WAITING else None
        body = head + block.body
        return Page(body, "text/csv", request, self._now, cursor, confirm=evidence.confirm, waiting=waiting)

    def _cursor(self, progress: Progress, tail: str | None) -> dict[str, Any]:
        return {
            "begin": progress.start.offset,
            "offset": progress.offset,
            "line": progress.line,
            "digest": progress.digest,
            "header": self._header,
            "end": self._options.end,
            "range_bytes": self._range_bytes,
            **self._state.for_cursor,
            "tail": tail,
        }
