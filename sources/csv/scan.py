"""Scan one CSV file, and yield its new data as pages.

The cursor stores where the next record starts, the hash of the bytes before it, and the file's size and modification
time. A file with the same size and time is not read. A file with the same hash has grown, and is read from the stored
position. Any other file was replaced, and is read from its start.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO

from settings import Settings
from sources.contract import Cursor, Page, TerminalError, TransientError, Window
from sources.csv.blocks import Block, cut_blocks
from sources.csv.fileset import FileSet
from sources.csv.preamble import Preamble, read_byte_order_mark, read_preamble
from sources.csv.ranges import Position, get_range_starts, split_partition
from sources.csv.window import CHUNK_BYTES, ReadOptions

SETTLED_AFTER = timedelta(seconds=60)
"""A file that has not changed for this long counts as completely written."""

# Stored in cursors, so the values must not change.
WAITING, CONSUMED = "waiting", "taken"
"""Values of a cursor's `tail`, which describes a last record without a line end: still incomplete, or already read. A
record that was already read is read again if the file grows."""


def scan_file(path: Path, label: str, file_set: FileSet, window: Window, settings: Settings) -> Iterator[Page]:
    """Yield a partition's new data as pages; raise TerminalError if the file cannot be read.

    label: the source and the file, for messages.
    """
    with translated_os_errors(label, "file_unreadable"):
        # Opening a pipe would block until it has a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise TerminalError(
                f"{label}: is not a regular file; replace it, or exclude it from the pattern", code="file_unreadable"
            )
        with path.open("rb") as file:
            state = _FileState.of(os.fstat(file.fileno()))
            if not state.is_finished(window.cursor or {}, get_range_bytes(file_set, settings)):
                yield from _Scan(path, label, file, file_set, window, state, settings).pages()


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


@dataclass(frozen=True, slots=True)
class _FileState:
    """The identity (device and inode), size and modification time of a file."""

    identity: tuple[int, int]
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> _FileState:
        return cls((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)

    def matches(self, cursor: Cursor) -> bool:
        return (cursor.get("size"), cursor.get("mtime_ns")) == (self.size, self.mtime_ns)

    def is_finished(self, cursor: Cursor, range_bytes: int | None) -> bool:
        """Return whether an earlier scan has read the whole file, and the file is unchanged."""
        if not self.matches(cursor) or cursor.get("range_bytes") != range_bytes:
            return False
        return bool(cursor["offset"] >= cursor["end"] or cursor["tail"] == CONSUMED)

    def is_settled(self, cursor: Cursor, now: datetime) -> bool:
        """Return whether the file was unchanged for `SETTLED_AFTER`, or since a scan that waited for a line end."""
        is_old = now - datetime.fromtimestamp(self.mtime_ns / 1e9, UTC) > SETTLED_AFTER
        return is_old or (self.matches(cursor) and cursor["tail"] == WAITING)


class _Progress:
    """The position up to which a range was read, and the hash of the bytes before it."""

    def __init__(self, label: str, file: BinaryIO, start: Position):
        self.start, self.offset, self.line = start, start.offset, start.line
        self._label, self._file, self._hash = label, file, hashlib.sha256()

    @classmethod
    def at(cls, label: str, file: BinaryIO, size: int, start: Position, cursor: Cursor) -> _Progress | None:
        """Restore the progress from a cursor; None if the range now starts elsewhere or its content has changed."""
        progress = cls(label, file, start)
        if cursor.get("begin") != start.offset or not start.offset < cursor["offset"] <= size:
            return None
        progress.advance(b"", cursor["offset"] - start.offset, cursor["line"] - start.line)
        return progress if progress.digest == cursor["digest"] else None

    def advance(self, data: bytes, length: int, lines: int) -> None:
        """Advance by `length` bytes: hash `data`, then the file's bytes up to the new position.

        `data` was read from the file before. It is not read again, since the file may have changed.
        """
        self._hash.update(data)
        end = self.offset + length
        self.offset += len(data)
        self._file.seek(self.offset)
        while self.offset < end:
            chunk = self._file.read(min(CHUNK_BYTES, end - self.offset))
            if not chunk:
                raise TransientError(
                    f"{self._label}: became shorter while it was read; the run reads it again later",
                    code="file_changed",
                )
            self._hash.update(chunk)
            self.offset += len(chunk)
        self.line += lines

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class _Scan:
    """One scan of one partition: a whole file, or a range of it."""

    def __init__(
        self,
        path: Path,
        label: str,
        file: BinaryIO,
        file_set: FileSet,
        window: Window,
        state: _FileState,
        settings: Settings,
    ):
        self._path, self._label, self._file, self._file_set, self._state = path, label, file, file_set, state
        self._name, self._mark = split_partition(window.partition)
        self._now, self._last_cursor = window.now, window.cursor or {}
        self._byte_order_mark, encoding = read_byte_order_mark(file, label, file_set.encoding)
        self._range_bytes = get_range_bytes(file_set, settings)
        self._options = ReadOptions(
            label=label,
            encoding=encoding,
            delimiter=file_set.delimiter,
            end=state.size,
            is_settled=state.is_settled(self._last_cursor, window.now),
            block_bytes=settings.csv_block_bytes,
            record_bytes=settings.csv_record_bytes,
            block_records=settings.csv_block_records,
        )
        self._header: list[str] = []

    def pages(self) -> Iterator[Page]:
        if self._state.size == len(self._byte_order_mark):
            return
        preamble = self._preamble()
        progress = _Progress(self._label, self._file, Position(0, 1))
        if preamble is None:
            yield from self._final_page(progress, b"", self._last_cursor)
        elif preamble.is_unterminated:
            block = Block(b"", len(preamble.body), 0, 1 + preamble.lines, 0)
            yield self._page(progress, block, preamble.body, CONSUMED)
        else:
            yield from self._block_pages(preamble)

    def _preamble(self) -> Preamble | None:
        """Return the file's preamble after checking its header; None while the preamble is being written."""
        skip_lines, header = self._file_set.skip_lines, self._file_set.header
        preamble = read_preamble(self._file, self._options, self._byte_order_mark, skip_lines, header)
        if preamble is not None:
            self._file_set.check_header(preamble.header, self._label)
            self._header = preamble.header
        return preamble

    def _block_pages(self, preamble: Preamble) -> Iterator[Page]:
        """Yield the pages of the range. The first page of the file includes the preamble."""
        start = self._limit_to_range(Position(len(preamble.body), 1 + preamble.lines))
        progress = self._resumed(start)
        head, last_cursor = b"", self._last_cursor
        if progress is None:
            progress = _Progress(self._label, self._file, start)
            if not self._mark:
                head = preamble.body
                progress.advance(head, len(head), preamble.lines)
        # Only a file's first block is short. Later ranges are prepared while the range before them is loaded. Only a
        # worker that has just joined the run waits for its first block.
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
                yield self._page(progress, block, head, CONSUMED)
                return
            progress.advance(block.body, block.length, block.lines)
            yield self._page(progress, block, head, None)
            head, last_cursor = b"", self._cursor(progress, None)
        yield from self._final_page(progress, head, last_cursor)

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
        if end < size:
            self._options = replace(self._options, end=end, is_settled=True)
        return start

    def _resumed(self, start: Position) -> _Progress | None:
        """Return the progress of the last scan; None if the header or the content has changed."""
        if self._last_cursor.get("header") != self._header:
            return None
        return _Progress.at(self._label, self._file, self._state.size, start, self._last_cursor)

    def _final_page(self, progress: _Progress, head: bytes, last_cursor: Cursor) -> Iterator[Page]:
        """Yield a page without records to store the cursor, unless the cursor is unchanged."""
        tail = WAITING if progress.offset < self._options.end else None
        if self._cursor(progress, tail) != last_cursor:
            yield self._page(progress, Block(b"", progress.offset, 0, progress.line, 0), head, tail)

    def _page(self, progress: _Progress, block: Block, head: bytes, tail: str | None) -> Page:
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
        cursor, confirm = self._cursor(progress, tail), partial(_confirm, self._label, self._path, self._state)
        return Page(head + block.body, "text/csv", request, self._now, cursor, confirm=confirm)

    def _cursor(self, progress: _Progress, tail: str | None) -> Cursor:
        return {
            "begin": progress.start.offset,
            "offset": progress.offset,
            "line": progress.line,
            "digest": progress.digest,
            "header": self._header,
            "end": self._options.end,
            "range_bytes": self._range_bytes,
            "size": self._state.size,
            "mtime_ns": self._state.mtime_ns,
            "tail": tail,
        }


def _confirm(label: str, path: Path, state: _FileState) -> None:
    """Raise TransientError if the file has been replaced or changed, except by growing, since it was read."""
    try:
        now = _FileState.of(path.stat())
    except OSError as error:
        raise TransientError(
            f"{label}: disappeared while it was read: {error.strerror}; the run tries it again later",
            code="file_changed",
        ) from error
    has_grown = now.identity == state.identity and now.size > state.size
    if now != state and not has_grown:
        raise TransientError(f"{label}: changed while it was read; the run reads it again later", code="file_changed")
