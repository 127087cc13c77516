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
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO

from settings import Settings
from sources.contract import Cursor, Page, TerminalError, TransientError, Window
from sources.csv.blocks import CHUNK, Block, Head, Reading, cut, read_head, read_mark
from sources.csv.fileset import FileSet
from sources.csv.ranges import Place, division, parted

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
            if not seen.is_done(window.cursor or {}, range_bytes_of(file_set, settings)):
                yield from _Look(path, file, file_set, window, seen, settings).pages()


def range_bytes_of(file_set: FileSet, settings: Settings) -> int | None:
    """The size of the ranges that a file is divided in; None where it is read as one."""
    return None if file_set.encoding.startswith("utf-16") else settings.csv_range_bytes


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

    def is_done(self, cursor: Cursor, range_bytes: int | None) -> bool:
        if not self.is_that_of(cursor) or cursor.get("range_bytes") != range_bytes:
            return False
        return bool(cursor["offset"] >= cursor["end"] or cursor["tail"] == TAKEN)

    def is_still(self, cursor: Cursor, now: datetime) -> bool:
        quiet = now - datetime.fromtimestamp(self.mtime_ns / 1e9, UTC) > QUIET
        return quiet or (self.is_that_of(cursor) and cursor["tail"] == WAITING)


class _Progress:
    """How far a range is read, and the hash of what stands before that in it."""

    def __init__(self, name: str, file: BinaryIO, begin: Place):
        self.begin, self.offset, self.line = begin, begin.offset, begin.line
        self._name, self._file, self._hash = name, file, hashlib.sha256()

    @classmethod
    def at(cls, name: str, file: BinaryIO, size: int, begin: Place, cursor: Cursor) -> _Progress | None:
        """That of a cursor, if the range still begins where it did, and with what was read then."""
        progress = cls(name, file, begin)
        if cursor.get("begin") != begin.offset or not begin.offset < cursor["offset"] <= size:
            return None
        progress.pass_over(b"", cursor["offset"] - begin.offset, cursor["line"] - begin.line)
        return progress if progress.digest == cursor["digest"] else None

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

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class _Look:
    def __init__(self, path: Path, file: BinaryIO, file_set: FileSet, window: Window, seen: _Seen, settings: Settings):
        self._path, self._file, self._file_set, self._seen = path, file, file_set, seen
        self._name, self._mark = parted(window.partition)
        self._now, self._known = window.now, window.cursor or {}
        self._order_mark, encoding = read_mark(file, self._name, file_set.encoding)
        self._range_bytes = range_bytes_of(file_set, settings)
        self._reading = Reading(
            name=self._name,
            encoding=encoding,
            delimiter=file_set.delimiter,
            end=seen.size,
            still=seen.is_still(self._known, window.now),
            block_bytes=settings.csv_block_bytes,
            record_bytes=settings.csv_record_bytes,
        )
        self._header: list[str] = []

    def pages(self) -> Iterator[Page]:
        if self._seen.size == len(self._order_mark):
            return
        head = self._head()
        progress = _Progress(self._name, self._file, Place(0, 1))
        if head is None:
            yield from self._remembered(progress, b"", self._known)
        elif head.unterminated:
            yield self._page(progress, Block(b"", len(head.body), 0, 1 + head.lines, 0), head.body, TAKEN)
        else:
            yield from self._records(head)

    def _head(self) -> Head | None:
        """What stands before the first record of the file; None while it is being written."""
        skip_lines, header = self._file_set.skip_lines, self._file_set.header
        head = read_head(self._file, self._reading, self._order_mark, skip_lines, header)
        if head is not None:
            self._file_set.check_header(head.header, self._name)
            self._header = head.header
        return head

    def _records(self, head: Head) -> Iterator[Page]:
        """The pages of the range; the head comes with the first of the file."""
        begin = self._bound(Place(len(head.body), 1 + head.lines))
        progress = self._resumed(begin)
        before, last = b"", self._known
        if progress is None:
            progress = _Progress(self._name, self._file, begin)
            if not self._mark:
                before = head.body
                progress.pass_over(before, len(before), head.lines)
        # While another range's first block is made ready, the one before it is being loaded, but for who comes to help.
        short_from = None if self._mark else begin.offset
        leads_on = self._reading.end < self._seen.size
        for block in cut(
            self._file, progress.offset, progress.line, self._reading, short_from=short_from, leads_on=leads_on
        ):
            if block.unterminated:
                yield self._page(progress, block, before, TAKEN)
                return
            progress.pass_over(block.body, block.length, block.lines)
            yield self._page(progress, block, before, None)
            before, last = b"", self._cursor(progress, None)
        yield from self._remembered(progress, before, last)

    def _bound(self, first: Place) -> Place:
        """Where the range begins; that it reads no further than the range goes."""
        begin, end, size = Place(0, 1), self._seen.size, self._seen.size
        if self._range_bytes and size > self._range_bytes:
            divided = division((self._path, self._seen, self._reading), first, self._range_bytes)
            if self._mark:
                begin = divided.place(self._mark, self._file, self._reading) or Place(size, 1)
            if following := divided.place(self._mark + self._range_bytes, self._file, self._reading):
                end = following.offset
        if end < size:
            self._reading = replace(self._reading, end=end, still=True)
        return begin

    def _resumed(self, begin: Place) -> _Progress | None:
        if self._known.get("header") != self._header:
            return None
        return _Progress.at(self._name, self._file, self._seen.size, begin, self._known)

    def _remembered(self, progress: _Progress, before: bytes, last: Cursor) -> Iterator[Page]:
        """A page without records, if the last cursor does not yet say all that is to be known at the next look."""
        tail = WAITING if progress.offset < self._reading.end else None
        if self._cursor(progress, tail) != last:
            yield self._page(progress, Block(b"", progress.offset, 0, progress.line, 0), before, tail)

    def _page(self, progress: _Progress, block: Block, before: bytes, tail: str | None) -> Page:
        """head: bytes of the body before its first record."""
        request = {
            "file": self._name,
            "offset": block.offset - len(before),
            "length": block.length + len(before),
            "line": block.line,
            "head": len(before),
            "header": self._header,
            "encoding": self._reading.encoding,
            "refused": block.refused,
        }
        cursor, confirm = self._cursor(progress, tail), partial(_confirm, self._name, self._path, self._seen)
        return Page(before + block.body, "text/csv", request, self._now, cursor, confirm=confirm)

    def _cursor(self, progress: _Progress, tail: str | None) -> Cursor:
        return {
            "begin": progress.begin.offset,
            "offset": progress.offset,
            "line": progress.line,
            "digest": progress.digest,
            "header": self._header,
            "end": self._reading.end,
            "range_bytes": self._range_bytes,
            "size": self._seen.size,
            "mtime_ns": self._seen.mtime_ns,
            "tail": tail,
        }


def _confirm(partition: str, path: Path, seen: _Seen) -> None:
    """Raise TransientError unless the file is still the one that was read, at most with more behind."""
    try:
        now = _Seen.of(path.stat())
    except OSError as error:
        raise TransientError(f"{partition}: is gone: {error.strerror}", code="file_changed") from error
    grown = now.identity == seen.identity and now.size > seen.size
    if now != seen and not grown:
        raise TransientError(f"{partition}: was changed while it was read", code="file_changed")
