"""Parse a block of a CSV file as columns, with the same result as sources/csv/source.py, which parses row by row.

The row parser still handles blocks with quotes or line ends in unusual places, and lines whose number of cells differs
from the header's.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import islice

import polars as pl

from sources.contract import BLANK, Columns, Item, Page
from sources.csv.fields import frame_column, read_fields
from sources.csv.fileset import FileSet
from sources.csv.quoting import has_plain_line_ends, remove_quoted
from sources.csv.text import decode, read_records

UNUSUAL_BYTES = (b"\x00", b"\x1c", b"\x1d", b"\x1e", b"\x1f")
"""NUL, which is invalid in a cell, and the bytes that Python strips as white space but polars does not."""

OTHER_WHITE_SPACE = (b"\t", b"\v", b"\f", b"\r")
"""The ASCII white space characters, other than the space, that may occur in a line."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

UNEVEN_LINE = re.compile(rb"\n|[^\r\n]+[\r\n]")
"""Match an uneven line, after each even line was replaced with "\\r". A line with too many cells then ends with "\\r";
a line with too few is unchanged."""

FIRST_LINES = 200

ParseRow = Callable[[list[str], int], Iterable[Item]]
"""A function that returns the items of a row, from its cells and its line number in the file."""


def read_columns(page: Page, file_set: FileSet, label: str, parse_row: ParseRow) -> Columns | None:
    """Return the items of a block; None for a block that must be read row by row. label: a name for messages."""
    request, header = page.request, page.request["header"]
    text = None if request["refused"] else _to_utf8(page.body[request["head"] :], request["encoding"])
    lines = _Lines.of(text, file_set.delimiter, len(header)) if text else None
    if lines is None:
        return None
    file_set.check_header(header, label)
    # The first cell of a row shows whether the row may be blank.
    needed = sorted({0, *map(header.index, file_set.required_columns)})
    cells = lines.cells(needed)
    if cells is None:
        return None
    cells = cells.rename({name: frame_column(header[at]) for name, at in zip(cells.columns, needed, strict=True)})
    indexes = _ItemIndexes(
        lines,
        cells[frame_column(header[0])],
        header[0],
        lambda number: _items_of_line(lines, page, number, parse_row),
    )
    fields = read_fields(file_set, request["file"], cells.filter(indexes.is_row))
    return None if fields is None else indexes.columns(fields)


def _items_of_line(lines: _Lines, page: Page, number: int, parse_row: ParseRow) -> list[Item]:
    """Return the items of one line, parsed by the csv module. number: the line's number in the block, from 0."""
    [row] = read_records([decode(lines.line(number), "utf-8") + "\n"], lines.delimiter)
    return list(parse_row(row, page.request["line"] + number))


@dataclass(frozen=True)
class _Lines:
    """The lines of a block in UTF-8. Each line is one record. Lines are numbered from 0.

    irregular: the numbers of the lines that must be parsed one by one, in ascending order.
    is_plain:  whether irregular lines are irregular only in their number of cells.
    width:     the number of cells in the header.
    """

    text: bytes
    count: int
    irregular: Sequence[int]
    is_plain: bool
    width: int
    delimiter: str
    is_quoted: bool

    @classmethod
    def of(cls, text: bytes, delimiter: str, width: int) -> _Lines | None:
        """Return the lines; None if a record may have several lines, or quotes or line ends are in unusual places."""
        separator = delimiter.encode()
        if len(separator) != 1 or separator in b'"\r\n':
            return None
        is_quoted = b'"' in text
        unquoted = remove_quoted(text, delimiter) if is_quoted else text
        if unquoted is None or not has_plain_line_ends(text):
            return None
        if not text.endswith(b"\n"):
            unquoted += b"\n"
        is_plain = _is_plain(text)
        if is_plain:
            count, irregular = _find_uneven_lines(unquoted, delimiter, width)
        else:
            lines = _split_lines(text)
            uneven = {
                number for number, line in enumerate(_split_lines(unquoted)) if line.count(separator) != width - 1
            }
            unusual = {number for number, line in enumerate(lines) if not _is_plain(line)}
            count, irregular = len(lines), sorted(uneven | unusual)
        return cls(text, count, irregular, is_plain, width, delimiter, is_quoted)

    @cached_property
    def lines(self) -> Sequence[bytes]:
        return _split_lines(self.text)

    @cached_property
    def first_lines(self) -> Sequence[bytes]:
        """Return the first lines. Most blocks need no other lines, and a list of all lines takes much memory."""
        return [line.removesuffix(b"\n") for line in islice(BytesIO(self.text), FIRST_LINES)]

    def line(self, number: int) -> bytes:
        return self.first_lines[number] if number < FIRST_LINES else self.lines[number]

    @cached_property
    def is_regular(self) -> pl.Series:
        """Return, for each line, whether it is regular."""
        return ~pl.int_range(self.count, eager=True).is_in(self.irregular)

    @cached_property
    def regular(self) -> pl.Series:
        """Return the numbers of the regular lines."""
        return self.is_regular.arg_true()

    def cells(self, needed: Sequence[int]) -> pl.DataFrame | None:
        """Return the needed columns of the regular lines, without white space at the ends of the cells."""
        if not len(self.regular):
            return None
        # polars can read uneven lines too, but it takes the number of columns from the first line.
        reads_all_lines = self.is_plain and self.irregular[:1] != [0]
        text = self.text if reads_all_lines else b"\n".join([*map(self.lines.__getitem__, self.regular), b""])
        # polars removes a byte order mark at the start of any text. Within a file, the mark belongs to the cell.
        if text.startswith(BYTE_ORDER_MARK):
            return None
        cells = pl.read_csv(
            text,
            has_header=False,
            schema={str(at): pl.String for at in range(self.width)},
            columns=needed,
            separator=self.delimiter,
            quote_char='"' if self.is_quoted else None,
            empty_string_is_null=False,
            truncate_ragged_lines=reads_all_lines,
        )
        if len(cells) != (self.count if reads_all_lines else len(self.regular)):
            return None
        return _stripped(cells.filter(self.is_regular) if reads_all_lines and self.irregular else cells, text)


class _ItemIndexes:
    """Assign item indexes to the lines of a block: none to a blank line, three to a line with three prices.

    first:    the first cells of the regular lines.
    header:   the first cell of the header.
    items_at: returns the items of a line, given its number.
    """

    def __init__(self, lines: _Lines, first: pl.Series, header: str, items_at: Callable[[int], list[Item]]):
        self._lines, self._items_at = lines, items_at
        irregular = {number: items_at(number) for number in lines.irregular}
        maybe_blank = lines.regular.filter((first == "") | (first == header))
        blank = {number: items for number in maybe_blank if (items := items_at(number)) == [BLANK]}
        self._without_row = irregular | blank
        self.is_row = ~lines.regular.is_in(list(blank))

    def columns(self, fields: Sequence[pl.DataFrame]) -> Columns:
        """Return the items as columns. fields: one frame for each price in a row."""
        counts = [len(fields)] * self._lines.count
        for number, items in self._without_row.items():
            counts[number] = sum(item is not BLANK for item in items)
        ends = pl.Series(counts, dtype=pl.UInt32).cum_sum()
        begins = ends - pl.Series(counts, dtype=pl.UInt32)
        first_index = begins.gather(self._lines.regular.filter(self.is_row))
        frames = [frame.with_columns((first_index + at).alias("item")) for at, frame in enumerate(fields)]
        items = [item for items in self._without_row.values() for item in items]
        return Columns(
            # Two currencies may have unlike fields, such as a market cap only in one. A missing field is null.
            frame=pl.concat(frames, how="diagonal"),
            item_at=lambda index: self._item(begins, index),
            fetched=ends[-1],
            blank=sum(item is BLANK for item in items),
            items_without_row={
                begins[number] + at: item
                for number, items in self._without_row.items()
                for at, item in enumerate(item for item in items if item is not BLANK)
            },
        )

    def _item(self, begins: pl.Series, index: int) -> Item:
        number = bisect_right(begins, index) - 1
        return self._items_at(number)[index - begins[number]]


def _to_utf8(body: bytes, encoding: str) -> bytes | None:
    """Return the body in UTF-8; None if it is not valid in its encoding. A body in UTF-8 is not checked here."""
    if encoding == "utf-8" or (body.isascii() and not encoding.startswith("utf-16")):
        return body
    try:
        return body.decode(encoding).encode()
    except UnicodeError:
        return None


def _stripped(cells: pl.DataFrame, text: bytes) -> pl.DataFrame:
    """Return the cells of a text without white space at their ends.

    Looking for spaces first takes half the time of stripping all cells.
    """
    if not text.isascii() or any(byte in text for byte in OTHER_WHITE_SPACE):
        return cells.select(pl.all().str.strip_chars())
    is_padded = cells.select((pl.all().str.starts_with(" ") | pl.all().str.ends_with(" ")).any())
    padded = [name for name in cells.columns if is_padded[name].item()]
    return cells.with_columns(pl.col(padded).str.strip_chars()) if padded else cells


def _is_plain(text: bytes) -> bool:
    """Return whether a text is valid UTF-8 without unusual bytes."""
    if any(byte in text for byte in UNUSUAL_BYTES):
        return False
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def _find_uneven_lines(text: bytes, delimiter: str, width: int) -> tuple[int, list[int]]:
    """Return the number of lines, and the numbers of those without exactly `width` cells.

    Every line must have a line end.
    """
    separator = delimiter.encode()
    # Keep only delimiters and line ends, which are about a tenth of the text.
    separators = text.translate(None, bytes(set(range(256)) - {*separator, *b"\n"}))
    even, count = separator * (width - 1) + b"\n", separators.count(b"\n")
    if separators == even * count:
        return count, []
    # Replace each even line with "\r", which is not a delimiter.
    marked = separators.replace(even, b"\r")
    uneven: list[int] = []
    number = end = 0
    for match in UNEVEN_LINE.finditer(marked):
        number += match.start() - end
        uneven.append(number)
        number, end = number + 1, match.end()
    return count, uneven


def _split_lines(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    return lines[:-1] if text.endswith(b"\n") else lines
