"""Where a large CSV file is divided so that several workers can read it: at the first record from each mark on.

A mark is a multiple of CSV_RANGE_BYTES. The range from mark to mark is a partition of its own, named for its mark.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from sources.csv.blocks import Block, Reading, cut, decode, is_line_by_line, rows

BETWEEN = "//"
"""What stands between a file's name and a mark, and in no path of a file."""

FILES_REMEMBERED = 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record begins: the byte, and the number of its line, from 1."""

    offset: int
    line: int


def partitions_of(file: str, size: int, range_bytes: int | None) -> Iterator[str]:
    """The names of a file's ranges; the first has that of the file itself."""
    yield file
    if range_bytes:
        yield from (f"{file}{BETWEEN}{mark}" for mark in range(range_bytes, size, range_bytes))


def parted(partition: str) -> tuple[str, int]:
    """The file that a partition is of, and its mark."""
    file, _, mark = partition.partition(BETWEEN)
    return file, int(mark or 0)


class Division:
    """The places at which one file, as it is now, is divided; found by reading it, as far as they are asked for.

    Its encoding keeps ASCII as it is.
    """

    def __init__(self, begin: Place, every: int):
        self._read, self._every = begin, every
        self._places: list[Place] = []

    def place(self, mark: int, file: BinaryIO, reading: Reading) -> Place | None:
        """The first record that begins at a mark or behind it; None where none does."""
        for block in () if self._is_known(mark) else cut(file, self._read.offset, self._read.line, reading):
            self._divide(block, reading)
            if self._is_known(mark):
                break
        return self._places[mark // self._every - 1] if self._is_known(mark) else None

    def _is_known(self, mark: int) -> bool:
        return len(self._places) * self._every >= mark

    def _divide(self, block: Block, reading: Reading) -> None:
        end = block.offset + block.length
        # What begins where the block ends may be nothing, or be there only at the next look.
        while (mark := (len(self._places) + 1) * self._every) < end:
            self._places.append(_first_from(mark, block, reading))
        self._read = Place(end, block.line + block.lines)


def _first_from(mark: int, block: Block, reading: Reading) -> Place:
    """The first record of a block from a mark on; where it has none, the first behind it."""
    behind = Place(block.offset + block.length, block.line + block.lines)
    if mark <= block.offset:
        return Place(block.offset, block.line)
    if block.refused:
        return behind
    if is_line_by_line(block.body, reading.delimiter):
        length = block.body.find(b"\n", mark - block.offset - 1) + 1
        return Place(block.offset + length, block.line + block.body.count(b"\n", 0, length)) if length else behind
    return next((place for place in _records(block, reading) if place.offset >= mark), behind)


def _records(block: Block, reading: Reading) -> Iterator[Place]:
    ends, lines = [0], block.body.splitlines(keepends=True)
    for line in lines:
        ends.append(ends[-1] + len(line))
    reader = rows((decode(line, reading.encoding) for line in lines), reading.delimiter)
    for _ in reader:
        yield Place(block.offset + ends[reader.line_num], block.line + reader.line_num)


_remembered: OrderedDict[Hashable, Division] = OrderedDict()


def division(file: Hashable, begin: Place, every: int) -> Division:
    """That of a file. file: all that tells whether it is still the same, and read in the same way."""
    key = (file, begin, every)
    found = _remembered.pop(key, None) or Division(begin, every)
    _remembered[key] = found
    while len(_remembered) > FILES_REMEMBERED:
        _remembered.popitem(last=False)
    return found
