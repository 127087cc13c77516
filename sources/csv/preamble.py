"""Read the preamble of a CSV file: its byte order mark, skipped lines and header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from sources.contract import TerminalError
from sources.csv.text import INVALID_CHARACTERS, decode, read_records, split_lines
from sources.csv.window import ReadOptions, read_lines

BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
"""The byte order marks, and the encodings that they indicate."""


@dataclass(frozen=True, slots=True)
class Preamble:
    """All bytes before the first record.

    lines:  the number of lines.
    header: the column names, from the file or its declaration.
    is_unterminated: whether its last line has no line end (yet).
    """

    body: bytes
    lines: int
    header: list[str]
    is_unterminated: bool = False


def read_byte_order_mark(file: BinaryIO, label: str, encoding: str) -> tuple[bytes, str]:
    """Return the byte order mark of a file and the encoding that it indicates.

    Raise TerminalError if the mark contradicts the declared encoding, or if that encoding requires a mark.
    """
    file.seek(0)
    start = file.read(4)
    for mark, mark_encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            if encoding not in (mark_encoding, mark_encoding.removesuffix("-le").removesuffix("-be")):
                raise TerminalError(
                    f"{label}: starts with the byte order mark of {mark_encoding}, but its encoding is declared as "
                    f"{encoding}; declare the encoding of the file",
                    code="encoding_unknown",
                )
            return mark, mark_encoding
    if start and encoding == "utf-16":
        raise TerminalError(
            f"{label}: has no byte order mark; declare its encoding as utf-16-le or utf-16-be",
            code="encoding_unknown",
        )
    return b"", encoding


def read_preamble(
    file: BinaryIO,
    options: ReadOptions,
    byte_order_mark: bytes,
    skip_lines: int,
    header: bool | Sequence[str],
    *,
    is_unchanged: bool,
) -> Preamble | None:
    """Return the preamble; None while it is being written. Raise TerminalError if the file has no valid header.

    header:       True if the file has a header, otherwise the declared names.
    is_unchanged: whether an earlier scan waited for the preamble, and the file has not changed since.
    """
    data, lines, at_end = read_lines(file, len(byte_order_mark), options.record_bytes, options)
    terminated_count, is_terminated = len(lines), sum(map(len, lines)) == len(data)
    if at_end and options.is_complete:
        lines = split_lines(data, options.encoding)
    names, count = _read_header(lines[skip_lines:], options) if header is True else (list(header or ()), 0)
    if names is None or len(lines) < skip_lines:
        if at_end and not options.is_complete and not (is_unchanged and is_terminated):
            return None
        raise TerminalError(
            f"{options.label}: no header in its first {len(data)} bytes, after skipping {skip_lines} lines; "
            "correct the file, or declare its `header` or `skip_lines`",
            code="header_missing",
        )
    if any(INVALID_CHARACTERS.search(name) for name in names):
        raise TerminalError(
            f"{options.label}: its header is not valid {options.encoding}; declare the file's encoding",
            code="header_unreadable",
        )
    count += skip_lines
    length = sum(map(len, lines[:count]))
    return Preamble(byte_order_mark + data[:length], count, names, is_unterminated=count > terminated_count)


def _read_header(lines: list[bytes], options: ReadOptions) -> tuple[list[str] | None, int]:
    """Return the cells of the first non-empty record, and the number of lines up to its end."""
    exhausted = False

    def feed() -> Iterator[str]:
        nonlocal exhausted
        yield from (decode(line, options.encoding) for line in lines)
        exhausted = True

    reader = read_records(feed(), options.delimiter)
    for record in reader:
        cells = [cell.strip() for cell in record]
        if any(cells) and not exhausted:
            return cells, reader.line_num
    return None, 0
