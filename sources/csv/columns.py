"""A block of a CSV file as columns: its cells as polars splits them, in the fields that the file set gives them.

It is bound to say what csv_files.py says row by row. A block in which quotes or line ends stand where no writer of CSV
files puts them is left to that, and so is each line that has not as many cells as there are columns.
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
from sources.csv.blocks import decode, has_plain_line_ends, outside_quotes, rows
from sources.csv.fields import fields_of, in_frame
from sources.csv.fileset import FileSet

UNUSUAL = (b"\x00", b"\x1c", b"\x1d", b"\x1e", b"\x1f")
"""NUL, which no cell may have; and what Python strips from the ends of a text and polars does not."""

OTHER_WHITE_SPACE = (b"\t", b"\v", b"\f", b"\r")
"""What else of ASCII is white space and may stand in a line, beside the space."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

UNEVEN = re.compile(rb"\n|[^\r\n]+[\r\n]")
"""Lines where each even one is a "\\r": one that is too long ends in it, one that is too short is as it was."""

HEAD = 200

ItemsOf = Callable[[list[str], int], Iterable[Item]]
"""Gives the items of a row, by its cells and its line."""


def columns_of(page: Page, file_set: FileSet, items_of: ItemsOf) -> Columns | None:
    """The items of a block; None where it is to be read row by row."""
    request, header = page.request, page.request["header"]
    text = None if request["refused"] else _utf8(page.body[request["head"] :], request["encoding"])
    block = _Block.of(text, file_set.delimiter, len(header)) if text else None
    if block is None:
        return None
    file_set.check_header(header, request["file"])
    # The first cell of a row says whether it may be a blank one.
    needed = sorted({0, *map(header.index, file_set.named)})
    cells = block.cells(needed)
    if cells is None:
        return None
    cells = cells.rename({old: in_frame(header[at]) for old, at in zip(cells.columns, needed, strict=True)})
    numbering = _Numbering(
        block, cells[in_frame(header[0])], header[0], lambda number: _items(block, page, number, items_of)
    )
    fields = fields_of(file_set, request["file"], cells.filter(numbering.is_row))
    return None if fields is None else numbering.columns(fields)


def _items(block: _Block, page: Page, number: int, items_of: ItemsOf) -> list[Item]:
    [row] = rows([decode(block.line(number), "utf-8") + "\n"], block.delimiter)
    return list(items_of(row, page.request["line"] + number))


@dataclass(frozen=True)
class _Block:
    """Records of one line each, in UTF-8.

    odd: the numbers of those that are to be read each by itself, in their order. is_usual: what is odd about these is
    how many cells they have, and nothing else.
    """

    text: bytes
    count: int
    odd: Sequence[int]
    is_usual: bool
    width: int
    delimiter: str
    is_quoted: bool

    @classmethod
    def of(cls, text: bytes, delimiter: str, width: int) -> _Block | None:
        """None where a record may be more than one line, or a quote or a line end not what it seems."""
        sign = delimiter.encode()
        if len(sign) != 1 or sign in b'"\r\n':
            return None
        is_quoted = b'"' in text
        counted = outside_quotes(text, delimiter) if is_quoted else text
        if counted is None or not has_plain_line_ends(text):
            return None
        if not text.endswith(b"\n"):
            counted += b"\n"
        is_usual = _is_usual(text)
        if is_usual:
            count, odd = _uneven(counted, delimiter, width)
        else:
            lines = _lines(text)
            ragged = {number for number, line in enumerate(_lines(counted)) if line.count(sign) != width - 1}
            unusual = {number for number, line in enumerate(lines) if not _is_usual(line)}
            count, odd = len(lines), sorted(ragged | unusual)
        return cls(text, count, odd, is_usual, width, delimiter, is_quoted)

    @cached_property
    def lines(self) -> Sequence[bytes]:
        return _lines(self.text)

    @cached_property
    def head(self) -> Sequence[bytes]:
        """The first lines: of most blocks no others are asked for, and all of them take as much room as the block."""
        return [line.removesuffix(b"\n") for line in islice(BytesIO(self.text), HEAD)]

    def line(self, number: int) -> bytes:
        return self.head[number] if number < HEAD else self.lines[number]

    @cached_property
    def is_whole(self) -> pl.Series:
        """Of each line whether it is not odd."""
        return ~pl.int_range(self.count, eager=True).is_in(self.odd)

    @cached_property
    def whole(self) -> pl.Series:
        """The numbers of the lines that are not odd."""
        return self.is_whole.arg_true()

    def cells(self, needed: Sequence[int]) -> pl.DataFrame | None:
        """The columns at these places, of the lines that are not odd, without white space around the cells."""
        if not len(self.whole):
            return None
        # polars reads over what is only uneven; but it counts the columns by the first line.
        reads_over = self.is_usual and self.odd[:1] != [0]
        text = self.text if reads_over else b"\n".join([*map(self.lines.__getitem__, self.whole), b""])
        # polars reads over one wherever its text begins.
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
            truncate_ragged_lines=reads_over,
        )
        if len(cells) != (self.count if reads_over else len(self.whole)):
            return None
        return _stripped(cells.filter(self.is_whole) if reads_over and self.odd else cells, text)


class _Numbering:
    """Which places among a block's items its lines have: a blank one has none, one with three prices has three."""

    def __init__(self, block: _Block, first: pl.Series, header: str, items_at: Callable[[int], list[Item]]):
        self._block, self._items_at = block, items_at
        apart = {number: items_at(number) for number in block.odd}
        maybe_blank = block.whole.filter((first == "") | (first == header))
        blank = {number: items for number in maybe_blank if (items := items_at(number)) == [BLANK]}
        self._apart = apart | blank
        self.is_row = ~block.whole.is_in(list(blank))

    def columns(self, sides: Sequence[pl.DataFrame]) -> Columns:
        """sides: the fields of the rows, one frame for each price that a row has."""
        counts = [len(sides)] * self._block.count
        for number, items in self._apart.items():
            counts[number] = sum(item is not BLANK for item in items)
        ends = pl.Series(counts, dtype=pl.UInt32).cum_sum()
        begins = ends - pl.Series(counts, dtype=pl.UInt32)
        place = begins.gather(self._block.whole.filter(self.is_row))
        frames = [side.with_columns((place + at).alias("item")) for at, side in enumerate(sides)]
        items = [item for items in self._apart.values() for item in items]
        return Columns(
            frame=pl.concat(frames),
            item=lambda place: self._item(begins, place),
            fetched=ends[-1],
            blank=sum(item is BLANK for item in items),
            apart={
                begins[number] + at: item
                for number, items in self._apart.items()
                for at, item in enumerate(item for item in items if item is not BLANK)
            },
        )

    def _item(self, begins: pl.Series, place: int) -> Item:
        number = bisect_right(begins, place) - 1
        return self._items_at(number)[place - begins[number]]


def _utf8(body: bytes, encoding: str) -> bytes | None:
    if encoding == "utf-8" or (body.isascii() and not encoding.startswith("utf-16")):
        return body
    try:
        return body.decode(encoding).encode()
    except UnicodeError:
        return None


def _stripped(cells: pl.DataFrame, text: bytes) -> pl.DataFrame:
    """Without the white space around the cells of a text. To look for spaces takes half the time of stripping all."""
    if not text.isascii() or any(sign in text for sign in OTHER_WHITE_SPACE):
        return cells.select(pl.all().str.strip_chars())
    is_padded = cells.select((pl.all().str.starts_with(" ") | pl.all().str.ends_with(" ")).any())
    padded = [name for name in cells.columns if is_padded[name].item()]
    return cells.with_columns(pl.col(padded).str.strip_chars()) if padded else cells


def _is_usual(text: bytes) -> bool:
    if any(sign in text for sign in UNUSUAL):
        return False
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def _uneven(text: bytes, delimiter: str, width: int) -> tuple[int, list[int]]:
    """How many lines a text has, each with its end, and the numbers of those with another number of cells."""
    sign = delimiter.encode()
    # Of each line only the delimiters, and its end: to look at these is to look at a tenth.
    signs = text.translate(None, bytes(set(range(256)) - {*sign, *b"\n"}))
    even, count = sign * (width - 1) + b"\n", signs.count(b"\n")
    if signs == even * count:
        return count, []
    # A mark that is no delimiter.
    marked = signs.replace(even, b"\r")
    uneven: list[int] = []
    number = end = 0
    for found in UNEVEN.finditer(marked):
        number += found.start() - end
        uneven.append(number)
        number, end = number + 1, found.end()
    return count, uneven


def _lines(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    return lines[:-1] if text.endswith(b"\n") else lines
