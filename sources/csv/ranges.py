"""Divide large CSV files into ranges that several workers can read at the same time.

Marks are the multiples of CSV_RANGE_BYTES. A range starts at the first record at or after its mark. Each range is a
partition, named after the file and the mark.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from sources.contract import PART_SEPARATOR
from sources.csv.blocks import Block, cut_blocks
from sources.csv.quoting import has_record_per_line
from sources.csv.text import decode, read_records
from sources.csv.window import ReadOptions

MARK_SEPARATOR = PART_SEPARATOR
"""Separates the file's name from the mark. No file path contains it."""

MAX_CACHED_FILES = 16


@dataclass(frozen=True, slots=True)
class Position:
    """The start of a record: its offset in bytes, and its line number, from 1."""

    offset: int
    line: int


def list_ranges(file: str, size: int, range_bytes: int | None) -> Iterator[str]:
    """Yield the names of a file's ranges. The first range has the name of the file."""
    yield file
    if range_bytes:
        yield from (f"{file}{MARK_SEPARATOR}{mark}" for mark in range(range_bytes, size, range_bytes))


def split_partition(partition: str) -> tuple[str, int]:
    """Return the file of a partition, and the mark of its range."""
    file, _, mark = partition.partition(MARK_SEPARATOR)
    return file, int(mark or 0)


class RangeStarts:
    """The start positions of the ranges in one file. The file is read only up to the requested position.

    Use this only for encodings compatible with ASCII.
    """

    def __init__(self, first: Position, range_bytes: int):
        self._next, self._range_bytes = first, range_bytes
        self._positions: list[Position] = []

    def find(self, mark: int, file: BinaryIO, options: ReadOptions) -> Position | None:
        """Return the position of the first record at or after the mark; None if there is none."""
        for block in () if self._is_known(mark) else cut_blocks(file, self._next.offset, self._next.line, options):
            self._add(block, options)
            if self._is_known(mark):
                break
        return self._positions[mark // self._range_bytes - 1] if self._is_known(mark) else None

    def _is_known(self, mark: int) -> bool:
        return len(self._positions) * self._range_bytes >= mark

    def _add(self, block: Block, options: ReadOptions) -> None:
        end = block.offset + block.length
        # Do not add a mark at the end of the block yet: there may be no record after it.
        while (mark := (len(self._positions) + 1) * self._range_bytes) < end:
            self._positions.append(_first_record_from(mark, block, options))
        self._next = Position(end, block.line + block.lines)


def _first_record_from(mark: int, block: Block, options: ReadOptions) -> Position:
    """Return the position of a block's first record at or after a mark; the end of the block if there is none."""
    following = Position(block.offset + block.length, block.line + block.lines)
    if mark <= block.offset:
        return Position(block.offset, block.line)
    if block.reject_code:
        return following
    if has_record_per_line(block.body, options.delimiter):
        length = block.body.find(b"\n", mark - block.offset - 1) + 1
        return Position(block.offset + length, block.line + block.body.count(b"\n", 0, length)) if length else following
    return next((position for position in _record_starts(block, options) if position.offset >= mark), following)


def _record_starts(block: Block, options: ReadOptions) -> Iterator[Position]:
    """Yield the start positions of a block's records from the second on, then the start of the next block."""
    ends, lines = [0], block.body.splitlines(keepends=True)
    for line in lines:
        ends.append(ends[-1] + len(line))
    reader = read_records((decode(line, options.encoding) for line in lines), options.delimiter)
    for _ in reader:
        yield Position(block.offset + ends[reader.line_num], block.line + reader.line_num)


_cache: OrderedDict[Hashable, RangeStarts] = OrderedDict()


def get_range_starts(file: Hashable, first: Position, range_bytes: int) -> RangeStarts:
    """Return the range starts of a file, from the cache if possible.

    file: a key that identifies the file, its current content and its read options.
    """
    key = (file, first, range_bytes)
    starts = _cache.pop(key, None) or RangeStarts(first, range_bytes)
    _cache[key] = starts
    while len(_cache) > MAX_CACHED_FILES:
        _cache.popitem(last=False)
    return starts
