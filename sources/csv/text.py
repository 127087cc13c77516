"""Decode the bytes of CSV files, and split them into lines and records without losing a byte."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _csv import Reader

INVALID_CHARACTERS = re.compile("[\x00\ud800-\udfff]")
"""The characters that are invalid in text: NUL, and the surrogates that `decode` returns for undecodable bytes."""


def decode(data: bytes, encoding: str) -> str:
    """Decode bytes as text. Bytes that are invalid in the encoding become lone surrogates instead of an error."""
    if not encoding.startswith("utf-16"):
        return data.decode(encoding, "surrogateescape")
    even = len(data) // 2 * 2
    return data[:even].decode(encoding, "surrogatepass") + "".join(chr(0xDC00 + byte) for byte in data[even:])


def split_lines(data: bytes, encoding: str) -> list[bytes]:
    """Split data into lines, which keep their line ends."""
    if not encoding.startswith("utf-16"):
        return data.splitlines(keepends=True)
    # Encoding reverses decoding, even for invalid text, except for half a character at the end.
    texts = list(io.StringIO(decode(data, encoding), newline=""))
    lines = [text.encode(encoding, "surrogatepass") for text in texts[:-1]]
    return [*lines, data[sum(map(len, lines)) :]] if texts else []


def read_records(lines: Iterable[str], delimiter: str) -> Reader:
    """Return a CSV reader of the records in these lines. The lines must have their line ends."""
    # The csv module's own limit for a cell applies to the whole process, and is below the allowed size of a record.
    csv.field_size_limit(2**31 - 1)
    return csv.reader(lines, delimiter=delimiter)
