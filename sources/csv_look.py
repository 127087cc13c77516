"""One look at one CSV file: what is new in it since the last, as pages.

A file is known by the hash of what was read of it: grown, it is read on; replaced, it is read anew; unchanged, it is
not read. A cursor says where the next record begins, that hash, and how the file looked when it was read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO

from settings import Settings
from sources.contract import Cursor, Page, TerminalError, TransientError, Window
from sources.csv_blocks import CHUNK, Block, Head, Reading, cut, read_head, read_mark
from sources.csv_fileset import FileSet

QUIET = timedelta(seconds=60)
"""After so long without a change nobody is writing to a file any more."""

WAITING, TAKEN = "waiting", "taken"
"""What a cursor says of a last record without line end; also one that was taken is read again should the file grow."""


def look_at(path: Path, file_set: FileSet, window: Window, settings: Settings) -> Iterator[Page]:
    """The pages of what is new in the file. Raises TerminalError, naming it, for a file that cannot be read."""
    with naming(window.partition, "file_unreadable"):
        # Opening a pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise TerminalError(f"{window.partition}: is not a regular file", code="file_unreadable")
        with path.open("rb") as file:
            seen = _Seen.of(os.fstat(file.fileno()))
            if not seen.is_done(window.cursor or {}):
                yield from _Look(path, file, file_set, window, seen, settings).pages()


@contextmanager
def naming(what: str, code: str) -> Iterator[None]:
    """Turn the system's errors into ones that name what they are about."""
    try:
        yield
    except OSError as error:
        raise TerminalError(f"{what}: cannot be read: {error.strerror or error}", code=code) from error


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the system says of a file."""

    identity: tuple[int, int]
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Seen:
        return cls((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)

    def is_that_of(self, cursor: Cursor) -> bool:
        return (cursor.get("size"), cursor.get("mtime_ns")) == (self.size, self.mtime_ns)

    def is_done(self, cursor: Cursor) -> bool:
        return self.is_that_of(cursor) and (cursor["offset"] == self.size or cursor["tail"] == TAKEN)

    def is_still(self, cursor: Cursor, now: datetime) -> bool:
        quiet = now - datetime.fromtimestamp(self.mtime_ns / 1e9, UTC) > QUIET
        return quiet or (self.is_that_of(cursor) and cursor["tail"] == WAITING)


class _Progress:
    """How far a file is read, and the hash of all before."""

    def __init__(self, name: str, file: BinaryIO):
        self.offset, self.line, self.header = 0, 1, list[str]()
        self._name, self._file, self._hash = name, file, hashlib.sha256()

    @classmethod
    def at(cls, name: str, file: BinaryIO, size: int, cursor: Cursor) -> _Progress | None:
        """That of a cursor, if the file still begins with what was read then."""
        progress = cls(name, file)
        if not 0 < cursor.get("offset", 0) <= size:
            return None
        progress.pass_over(b"", cursor["offset"], cursor["line"] - 1)
        progress.header = cursor["header"]
        return progress if progress._hash.hexdigest() == cursor["digest"] else None

    def pass_over(self, read: bytes, length: int, lines: int) -> None:
        """Hash what was read, which may be other than what stands there by now, and what is left of the length."""
        self._hash.update(read)
        end = self.offset + length
        self.offset += len(read)
        self._file.seek(self.offset)
        while self.offset < end:
            chunk = self._file.read(min(CHUNK, end - self.offset))
            if not chunk:
                raise TransientError(f"{self._name}: became shorter while it was read", code="file_changed")
            self._hash.update(chunk)
            self.offset += len(chunk)
        self.line += lines

    def cursor(self, seen: _Seen, tail: str | None) -> Cursor:
        return {
            "offset": self.offset,
            "line": self.line,
            "digest": self._hash.hexdigest(),
            "header": self.header,
            "size": seen.size,
            "mtime_ns": seen.mtime_ns,
            "tail": tail,
        }


class _Look:
    def __init__(self, path: Path, file: BinaryIO, file_set: FileSet, window: Window, seen: _Seen, settings: Settings):
        self._path, self._file, self._file_set, self._seen = path, file, file_set, seen
        self._name, self._now, self._known = window.partition, window.now, window.cursor or {}
        self._mark, encoding = read_mark(file, self._name, file_set.encoding)
        self._reading = Reading(
            name=self._name,
            encoding=encoding,
            delimiter=file_set.delimiter,
            end=seen.size,
            still=seen.is_still(self._known, window.now),
            block_bytes=settings.csv_block_bytes,
            record_bytes=settings.csv_record_bytes,
        )
        self._progress = _Progress(self._name, file)

    def pages(self) -> Iterator[Page]:
        if self._seen.size == len(self._mark):
            return
        head = self._head()
        yield from self._records(head) if head else self._remembered(b"", self._known)

    def _head(self) -> Head | None:
        """What stands before the first record, where that is not behind us; None while it is being written."""
        if progress := _Progress.at(self._name, self._file, self._seen.size, self._known):
            self._progress = progress
            return Head(b"", 0, progress.header)
        skip_lines, header = self._file_set.skip_lines, self._file_set.header
        return read_head(self._file, self._reading, self._mark, skip_lines, header)

    def _records(self, head: Head) -> Iterator[Page]:
        """The head comes with the first page."""
        progress, before, last = self._progress, head.body, self._known
        self._file_set.check_header(head.header, self._name)
        progress.header = head.header
        if head.unterminated:
            yield self._page(Block(b"", len(before), 0, 1 + head.lines, 0), before, TAKEN)
            return
        progress.pass_over(before, len(before), head.lines)
        for block in cut(self._file, progress.offset, progress.line, self._reading):
            if block.unterminated:
                yield self._page(block, before, TAKEN)
                return
            progress.pass_over(block.body, block.length, block.lines)
            yield self._page(block, before, None)
            before, last = b"", progress.cursor(self._seen, None)
        yield from self._remembered(before, last)

    def _remembered(self, before: bytes, last: Cursor) -> Iterator[Page]:
        """A page without records, if the last cursor does not yet say all that is to be known at the next look."""
        tail = WAITING if self._progress.offset < self._seen.size else None
        if self._progress.cursor(self._seen, tail) != last:
            yield self._page(Block(b"", self._progress.offset, 0, self._progress.line, 0), before, tail)

    def _page(self, block: Block, before: bytes, tail: str | None) -> Page:
        """head: bytes of the body before its first record."""
        request = {
            "file": self._name,
            "offset": block.offset - len(before),
            "length": block.length + len(before),
            "line": block.line,
            "head": len(before),
            "header": self._progress.header,
            "encoding": self._reading.encoding,
            "refused": block.refused,
        }
        cursor, confirm = self._progress.cursor(self._seen, tail), partial(_confirm, self._name, self._path, self._seen)
        return Page(before + block.body, "text/csv", request, self._now, cursor, confirm=confirm)


def _confirm(partition: str, path: Path, seen: _Seen) -> None:
    """Raise TransientError unless the file is still the one that was read, at most with more behind."""
    try:
        now = _Seen.of(path.stat())
    except OSError as error:
        raise TransientError(f"{partition}: is gone: {error.strerror}", code="file_changed") from error
    grown = now.identity == seen.identity and now.size > seen.size
    if now != seen and not grown:
        raise TransientError(f"{partition}: was changed while it was read", code="file_changed")
