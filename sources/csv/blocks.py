"""Cut a CSV file into blocks of whole records, as the csv module would read them. Memory use stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from sources.csv.quoting import has_longer_line, has_record_per_line
from sources.csv.text import decode, read_records, split_lines
from sources.csv.window import MAX_RECORD_LINES, ReadOptions, find_line_end, measure_line, read_bytes, read_lines

FIRST_BLOCK_DIVISOR = 4
"""The first block of a file has the size of a full block divided by this number."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block of whole records, or one line that is not a valid record.

    offset:  the offset of the block's first byte in the file.
    length:  the number of bytes that the block covers in the file. The body of a rejected line may be shorter.
    line:    the number of its first line, from 1.
    lines:   the number of lines.
    reject_code:     the code of the reject for an invalid line; None for whole records.
    is_unterminated: whether this is the file's last record and has no line end (yet).
    """

    body: bytes
    offset: int
    length: int
    line: int
    lines: int
    reject_code: str | None = None
    is_unterminated: bool = False


def cut_blocks(
    file: BinaryIO,
    offset: int,
    line: int,
    options: ReadOptions,
    *,
    growing_from: int | None = None,
    range_follows: bool = False,
) -> Iterator[Block]:
    """Yield the blocks from `offset`, where a record starts, to the last complete record.

    If a record is too large or has an unclosed quote, only its first line is rejected. Reading resumes at the next
    line.

    growing_from:  the offset of the file's first block, if the block size grows from a short first block. The first
                   block is short, since nothing can be loaded before it is ready. Each later block is at most as long
                   as all earlier blocks together, so it is ready when those are loaded.
    range_follows: whether another range of the file follows. If so, the last two blocks have equal sizes, so that the
                   next range can be prepared while the last block is loaded. In a file's last range, the remaining
                   bytes stay in one block: data appended to a file would otherwise become two blocks.
    """
    while offset < options.end:
        size = options.block_bytes
        if growing_from is not None:
            size = min(size, max(size // FIRST_BLOCK_DIVISOR, offset - growing_from))
        if range_follows and size < (remaining := options.end - offset) < 2 * size:
            size = -(-remaining // 2)
        block = _next_block(file, offset, line, replace(options, block_bytes=size))
        if block is None:
            return
        yield block
        offset, line = offset + block.length, line + block.lines


def _next_block(file: BinaryIO, offset: int, line: int, options: ReadOptions) -> Block | None:
    return _block_by_lines(file, offset, line, options) or _block_by_records(file, offset, line, options)


def _block_by_lines(file: BinaryIO, offset: int, line: int, options: ReadOptions) -> Block | None:
    """Return a block if each line is certainly one record, without parsing it as CSV; None if that is uncertain."""
    if options.encoding.startswith("utf-16") or options.delimiter in "\r\n":
        return None
    data = read_bytes(file, offset, options.block_bytes, options)
    body = data[: data.rfind(b"\n") + 1]
    if not has_record_per_line(body, options.delimiter) or has_longer_line(body, options.record_bytes):
        return None
    lines = body.count(b"\n")
    if lines > options.block_records:
        lines, body = options.block_records, body[: find_line_end(body, options.block_records)]
    return Block(body, offset, len(body), line, lines)


def _block_by_records(file: BinaryIO, offset: int, line: int, options: ReadOptions) -> Block | None:
    """Return a block whose end is found by parsing it as CSV; None if its record is still being written."""
    # Read 4 bytes more than a record may have, to see whether its line end has one character or two.
    enough = options.record_bytes + 4
    for size in (options.block_bytes, enough) if options.block_bytes < enough else (options.block_bytes,):
        data, lines, _ = read_lines(file, offset, size, options)
        length, count, is_too_large = _measure_records(lines, options)
        if length:
            return Block(data[:length], offset, length, line, count)
    if is_too_large or options.end - offset > options.record_bytes:
        return _rejected_line(file, offset, line, options, "record_too_large")
    if not options.is_complete:
        return None
    lines = split_lines(data, options.encoding)
    if not _ends_in_quotes(lines, options):
        return Block(data, offset, len(data), line, len(lines), is_unterminated=True)
    return _rejected_line(file, offset, line, options, "unclosed_quote")


def _rejected_line(file: BinaryIO, offset: int, line: int, options: ReadOptions, code: str) -> Block | None:
    length = measure_line(file, offset, options)
    if length is None and not options.is_complete:
        return None
    is_unterminated, length = length is None, length or options.end - offset
    body = read_bytes(file, offset, min(length, options.record_bytes), options)
    return Block(body, offset, length, line, 1, reject_code=code, is_unterminated=is_unterminated)


def _measure_records(lines: list[bytes], options: ReadOptions) -> tuple[int, int, bool]:
    """Return the bytes and lines of all records that fit a block, and whether the next record is too large."""
    read = count = whole = whole_count = records = 0
    exhausted = is_too_large = False

    def feed() -> Iterator[str]:
        nonlocal read, count, exhausted, is_too_large
        for line in lines:
            read, count = read + len(line), count + 1
            is_too_large = read - whole > options.record_bytes or count - whole_count > MAX_RECORD_LINES
            if is_too_large:
                break
            yield decode(line, options.encoding)
        exhausted = True

    for _ in read_records(feed(), options.delimiter):
        # The reader requests another line only within quotes.
        if exhausted or (whole and read > options.block_bytes):
            break
        whole, whole_count, records = read, count, records + 1
        if records == options.block_records:
            break
    return whole, whole_count, is_too_large


def _ends_in_quotes(lines: list[bytes], options: ReadOptions) -> bool:
    """Return whether the last of these records has an unclosed quote."""
    reader = read_records([*(decode(line, options.encoding) for line in lines), "\n"], options.delimiter)
    return any(reader.line_num > len(lines) for record in reader if record)
