"""A CSV file cut into blocks of whole records, by the csv dialect that later reads them. Memory stays bounded."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from sources.contract import TerminalError, TransientError

if TYPE_CHECKING:
    from _csv import Reader

CHUNK = 1024 * 1024

FIRST_SHARE = 4
"""Of a whole block's bytes the first has so small a part."""

UNFIT = re.compile("[\x00\ud800-\udfff]")
"""What no text may have: NUL, and what `decode` makes of bytes that the encoding does not know."""

BYTE_ORDER_MARKS = {"utf-8": {b"\xef\xbb\xbf": "utf-8"}, "utf-16": {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}}

MOST_LINES = 1000
"""Of one record. What has more is a quote that was never closed, and need not be read to the end to know."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read, and how far.

    name:  for messages.
    end:   bytes that are looked at; what is written behind them is for the next look.
    still: nobody writes to the file any more, so that a last record without a line end is whole.
    block_bytes: most bytes of a block, if more than one record; record_bytes: most bytes of a record.
    """

    name: str
    encoding: str
    delimiter: str
    end: int
    still: bool
    block_bytes: int
    record_bytes: int


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before the first record: byte order mark, banner, header. unterminated: it has no line end (yet)."""

    body: bytes
    lines: int
    header: list[str]
    unterminated: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Whole records, or one line that cannot be read as one.

    line: the number of its first line, from 1.
    refused: the code of the reason why its line is no record. Only then can `length`, the bytes that the block
    stands for, be more than its body has.
    unterminated: it is the file's last record, and has no line end (yet).
    """

    body: bytes
    offset: int
    length: int
    line: int
    lines: int
    refused: str | None = None
    unterminated: bool = False


def rows(lines: Iterable[str], delimiter: str) -> Reader:
    """The records of lines that keep their ends."""
    # csv's own limit of a field is the process's, and less than a record may have.
    csv.field_size_limit(2**31 - 1)
    return csv.reader(lines, delimiter=delimiter)


def decode(data: bytes, encoding: str) -> str:
    """Text that stands for these bytes; what the encoding does not know becomes lone surrogates, never an error."""
    if not encoding.startswith("utf-16"):
        return data.decode(encoding, "surrogateescape")
    even = len(data) // 2 * 2
    return data[:even].decode(encoding, "surrogatepass") + "".join(chr(0xDC00 + byte) for byte in data[even:])


def read_mark(file: BinaryIO, name: str, encoding: str) -> tuple[bytes, str]:
    """The byte order mark a file begins with, and the encoding it stands for."""
    marks = BYTE_ORDER_MARKS.get(encoding, {})
    file.seek(0)
    start = file.read(4)
    for mark, meant in marks.items():
        if start.startswith(mark):
            return mark, meant
    if start and encoding == "utf-16":
        raise TerminalError(
            f"{name}: has no byte order mark; declare its encoding as utf-16-le or utf-16-be",
            code="encoding_unknown",
        )
    return b"", encoding


def read_head(
    file: BinaryIO, reading: Reading, mark: bytes, skip_lines: int, header: bool | Sequence[str]
) -> Head | None:
    """What stands before the first record; None while it is being written. Raises TerminalError if it never comes.

    header: True where the file has its own, else the names.
    """
    data, lines, at_end = _window(file, len(mark), reading.record_bytes, reading)
    terminated = len(lines)
    if at_end and reading.still:
        lines = _split(data, reading.encoding)
    names, count = _header(lines[skip_lines:], reading) if header is True else (list(header or ()), 0)
    if names is None or len(lines) < skip_lines:
        if at_end and not reading.still:
            return None
        raise TerminalError(
            f"{reading.name}: has no header in its first {len(data)} bytes ({skip_lines} lines before it are declared)",
            code="header_missing",
        )
    if any(UNFIT.search(name) for name in names):
        raise TerminalError(
            f"{reading.name}: its header is not {reading.encoding}; declare its encoding", code="header_unreadable"
        )
    count += skip_lines
    length = sum(map(len, lines[:count]))
    return Head(mark + data[:length], count, names, unterminated=count > terminated)


def cut(
    file: BinaryIO, offset: int, line: int, reading: Reading, *, short_from: int | None = None, leads_on: bool = False
) -> Iterator[Block]:
    """The blocks from a record's start to the last record that is whole.

    short_from: where a file begins. Nothing is being loaded while its first block is made ready, so that one is short,
    and each that follows no longer than all before it: so it is ready by the time that those are loaded.
    leads_on: another range follows. The last two blocks share what is left, so that there is time to begin with that
    one while the last is loaded. At the end of a file they do not: grown, it would have two new ones.
    A record that is too large, or whose quote is never closed, costs its first line: reading resumes at the next.
    """
    while offset < reading.end:
        size = reading.block_bytes
        if short_from is not None:
            size = min(size, max(size // FIRST_SHARE, offset - short_from))
        if leads_on and size < (left := reading.end - offset) < 2 * size:
            size = -(-left // 2)
        block = _next_block(file, offset, line, replace(reading, block_bytes=size))
        if block is None:
            return
        yield block
        offset, line = offset + block.length, line + block.lines


def _next_block(file: BinaryIO, offset: int, line: int, reading: Reading) -> Block | None:
    return _plain_block(file, offset, line, reading) or _any_block(file, offset, line, reading)


def _plain_block(file: BinaryIO, offset: int, line: int, reading: Reading) -> Block | None:
    """A block of records that are surely one line each, found without reading it as CSV; None if it is not of those."""
    if reading.encoding.startswith("utf-16") or reading.delimiter in "\r\n":
        return None
    data = _read(file, offset, reading.block_bytes, reading)
    body = data[: data.rfind(b"\n") + 1]
    if not is_line_by_line(body, reading.delimiter) or _has_longer_line(body, reading.record_bytes):
        return None
    return Block(body, offset, len(body), line, body.count(b"\n"))


def is_line_by_line(text: bytes, delimiter: str) -> bool:
    """Whether each line of a text, in an encoding that keeps ASCII as it is, is surely a record."""
    if not text or not has_plain_line_ends(text):
        return False
    return b'"' not in text or outside_quotes(text, delimiter) is not None


def has_plain_line_ends(text: bytes) -> bool:
    return b"\r" not in text or text.count(b"\r") == text.count(b"\r\n")


def outside_quotes(text: bytes, delimiter: str) -> bytes | None:
    """What stands outside of quotes; None unless each cell that has quotes is surely all within them, on one line."""
    parts = text.split(b'"')
    outside, inside = parts[::2], parts[1::2]
    sign = delimiter.encode()
    before, behind = {part[-1:] for part in outside[:-1]}, {part[:1] for part in outside[1:]}
    # A part that is empty stands between two quotes, which are one in the cell. A byte is not all of a delimiter of
    # several.
    well_formed = (
        len(parts) % 2 == 1
        and len(sign) == 1
        and before <= {b"", sign, b"\n"}
        and behind <= {b"", sign, b"\n", b"\r"}
        and b"\n" not in b"".join(inside)
    )
    return b"".join(outside) if well_formed else None


def _has_longer_line(text: bytes, most: int) -> bool:
    end = 0
    while end < len(text):
        following = text.rfind(b"\n", end, end + most)
        if following < 0:
            return True
        end = following + 1
    return False


def _any_block(file: BinaryIO, offset: int, line: int, reading: Reading) -> Block | None:
    # 4 more bytes than a record may have show whether its line end is one character or two.
    enough = reading.record_bytes + 4
    for size in (reading.block_bytes, enough) if reading.block_bytes < enough else (reading.block_bytes,):
        data, lines, _ = _window(file, offset, size, reading)
        length, count, too_large = _whole_records(lines, reading)
        if length:
            return Block(data[:length], offset, length, line, count)
    if too_large or reading.end - offset > reading.record_bytes:
        return _refused_line(file, offset, line, reading, "record_too_large")
    if not reading.still:
        return None
    lines = _split(data, reading.encoding)
    if not _ends_open(lines, reading):
        return Block(data, offset, len(data), line, len(lines), unterminated=True)
    return _refused_line(file, offset, line, reading, "unclosed_quote")


def _refused_line(file: BinaryIO, offset: int, line: int, reading: Reading, code: str) -> Block | None:
    length = _line_length(file, offset, reading)
    if length is None and not reading.still:
        return None
    unterminated, length = length is None, length or reading.end - offset
    body = _read(file, offset, min(length, reading.record_bytes), reading)
    return Block(body, offset, length, line, 1, refused=code, unterminated=unterminated)


def _whole_records(lines: list[bytes], reading: Reading) -> tuple[int, int, bool]:
    """Bytes and lines of the records at the front that make a block, and whether the next is too large for any."""
    read = count = whole = whole_count = 0
    exhausted = too_large = False

    def feed() -> Iterator[str]:
        nonlocal read, count, exhausted, too_large
        for line in lines:
            read, count = read + len(line), count + 1
            too_large = read - whole > reading.record_bytes or count - whole_count > MOST_LINES
            if too_large:
                break
            yield decode(line, reading.encoding)
        exhausted = True

    for _ in rows(feed(), reading.delimiter):
        # The reader asks for another line only inside of quotes.
        if exhausted or (whole and read > reading.block_bytes):
            break
        whole, whole_count = read, count
    return whole, whole_count, too_large


def _ends_open(lines: list[bytes], reading: Reading) -> bool:
    """Whether the last of these records is inside of quotes when its last line ends."""
    reader = rows([*(decode(line, reading.encoding) for line in lines), "\n"], reading.delimiter)
    return any(reader.line_num > len(lines) for row in reader if row)


def _header(lines: list[bytes], reading: Reading) -> tuple[list[str] | None, int]:
    """The cells of the first record that has any, and the lines up to its end."""
    exhausted = False

    def feed() -> Iterator[str]:
        nonlocal exhausted
        yield from (decode(line, reading.encoding) for line in lines)
        exhausted = True

    reader = rows(feed(), reading.delimiter)
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells) and not exhausted:
            return cells, reader.line_num
    return None, 0


def _window(file: BinaryIO, offset: int, size: int, reading: Reading) -> tuple[bytes, list[bytes], bool]:
    """What stands from offset on, its lines that surely have their end, and whether the file ends there."""
    data = _read(file, offset, size, reading)
    lines = _split(data, reading.encoding)
    # A "\r" may be the first half of a line end.
    if lines and not decode(lines[-1], reading.encoding).endswith("\n"):
        lines.pop()
    return data, lines, offset + len(data) == reading.end


def _line_length(file: BinaryIO, offset: int, reading: Reading) -> int | None:
    """Bytes of the line that starts here, with its end; None if it has none (yet). Holds one chunk of it at a time."""
    at = offset
    while at < reading.end:
        data = _read(file, at, CHUNK, reading)
        line = _split(data, reading.encoding)[0]
        text, at = decode(line, reading.encoding), at + len(line)
        if text.endswith("\n") or (text.endswith("\r") and len(line) < len(data)):
            return at - offset
        if text.endswith("\r") and at < reading.end:
            at -= len("\r".encode(reading.encoding))
    return None


def _split(data: bytes, encoding: str) -> list[bytes]:
    """The lines, with their ends; they make up the data."""
    if not encoding.startswith("utf-16"):
        return data.splitlines(keepends=True)
    # Encoding is the inverse of decoding, also for broken text; only half a character at the end has no way back.
    texts = list(io.StringIO(decode(data, encoding), newline=""))
    lines = [text.encode(encoding, "surrogatepass") for text in texts[:-1]]
    return [*lines, data[sum(map(len, lines)) :]] if texts else []


def _read(file: BinaryIO, offset: int, size: int, reading: Reading) -> bytes:
    size = min(size, reading.end - offset)
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise TransientError(f"{reading.name}: became shorter while it was read", code="file_changed")
    return data
