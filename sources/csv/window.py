"""Read sections of a CSV file: bytes, lines, and the length of a line. Memory use stays bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from sources.contract import TransientError
from sources.csv.text import decode, split_lines

CHUNK_BYTES = 1024 * 1024

MAX_RECORD_LINES = 1000
"""The maximum number of lines in a record. A longer record is assumed to have an unclosed quote, so that the rest of
the file need not be read."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The options for reading a file.

    label:        the source and the file, for messages.
    end:          the offset where reading stops. The next scan reads the bytes after it.
    is_complete:  whether all bytes up to the end are written. If so, a last record without a line end is complete.
    block_bytes:  the maximum size of a block of more than one record.
    record_bytes: the maximum size of a record.
    block_records: the maximum number of records in a block.
    """

    label: str
    encoding: str
    delimiter: str
    end: int
    is_complete: bool
    block_bytes: int
    record_bytes: int
    block_records: int


def read_bytes(file: BinaryIO, offset: int, size: int, options: ReadOptions) -> bytes:
    """Return up to `size` bytes from the offset on; raise TransientError if the file became shorter."""
    size = min(size, options.end - offset)
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise TransientError(
            f"{options.label}: became shorter while it was read; the run reads it again later", code="file_changed"
        )
    return data


def read_lines(file: BinaryIO, offset: int, size: int, options: ReadOptions) -> tuple[bytes, list[bytes], bool]:
    """Return up to `size` bytes from the offset on, their complete lines, and whether the file ends there."""
    data = cut_lines(read_bytes(file, offset, size, options), options.block_records + MAX_RECORD_LINES, options)
    lines = split_lines(data, options.encoding)
    # A "\r" at the end may be the first half of a line end.
    if lines and not decode(lines[-1], options.encoding).endswith("\n"):
        lines.pop()
    return data, lines, offset + len(data) == options.end


def cut_lines(data: bytes, max_lines: int, options: ReadOptions) -> bytes:
    """Return at most this many lines of the data. A line of one byte takes 40 bytes in a list of lines."""
    line_end = max((b"\n", b"\r"), key=data.count)
    if data.count(line_end) <= max_lines:
        return data
    end = find_line_end(data, max_lines, line_end)
    return data[: end + end % 2] if options.encoding.startswith("utf-16") else data[:end]


def find_line_end(data: bytes, line: int, line_end: bytes = b"\n") -> int:
    """Return the offset after the end of this line, counted from 1."""
    end = 0
    for _ in range(line):
        end = data.index(line_end, end) + 1
    return end


def measure_line(file: BinaryIO, offset: int, options: ReadOptions) -> int | None:
    """Return the size in bytes of the line at the offset, including its line end; None if it has no line end yet.

    Only one chunk of the line is in memory at a time.
    """
    at = offset
    while at < options.end:
        data = read_bytes(file, at, CHUNK_BYTES, options)
        line = split_lines(data, options.encoding)[0]
        text, at = decode(line, options.encoding), at + len(line)
        if text.endswith("\n") or (text.endswith("\r") and len(line) < len(data)):
            return at - offset
        if text.endswith("\r") and at < options.end:
            at -= len("\r".encode(options.encoding))
    return None
