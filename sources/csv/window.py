"""Read sections of a CSV file: bytes, lines, and the length of a line. Memory use stays bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from sources.contract import TransientError
from sources.csv.text import decode, split_lines

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The options for reading a file.

    label:        the source and the file, for messages.
    end:          the offset where reading stops. The next scan reads the bytes after it.
    is_complete:  whether all bytes up to the end are written. If so, a last record without a line end is complete.
    block_bytes:  the maximum size of a block of more than one record.
    record_bytes: the maximum size of a record.
    """

    label: str
    encoding: str
    delimiter: str
    end: int
    is_complete: bool
    block_bytes: int
    record_bytes: int


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
    data = read_bytes(file, offset, size, options)
    lines = split_lines(data, options.encoding)
    # A "\r" at the end may be the first half of a line end.
    if lines and not decode(lines[-1], options.encoding).endswith("\n"):
        lines.pop()
    return data, lines, offset + len(data) == options.end


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
